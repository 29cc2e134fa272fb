"""The quickstart's two stages by stock trl and by ours, step for step, and what the two models then answer."""

import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback, set_seed

from ..processing import template_text
from ..quickstart.evaluate import accuracy, answers
from ..quickstart.pipeline import FEATURES, Quickstart, quiet
from ..quickstart.text import CHAT_TEMPLATE
from ..quickstart.training import Stage, joined, rows_of, stage_settings
from ..train import LlavaSFTConfig, LlavaSFTTrainer
from .arms import NO_CHECKPOINTS, OURS, STOCK, stock_trainer, transformers_twin

# Both see the same rows in each step
SAME_ROWS = {"train_sampling_strategy": "sequential"}


def time_to_quality(seed: int = 0, scale: float = 1.0) -> dict[str, Any]:
    """Train the quickstart's model twice, from the same weights on the same rows, and examine both.

    Their connector is LLaVA-1.5's. Stock has activation checkpointing off, and is faster so. The pretraining of the backbones
    is not timed.

    Args:
        seed: Of the quickstart.
        scale: Share of its steps, scenes and questions.

    Returns:
        For each of `STOCK` and `OURS` the `seconds` of both stages, the `accuracy` of the model on the quickstart's exam,
        and the loss of the last ten steps logged (`last_loss`); and `speedup`.
    """
    with tempfile.TemporaryDirectory() as temporary, quiet():
        folder, threads = Path(temporary), torch.get_num_threads()
        # Muon rounds to bfloat16: the two would part where sums are added up in another order
        quickstart = Quickstart(folder, seed, scale, muon=False)
        quickstart.prepare_beside()
        torch.set_num_threads(threads)
        (folder / FEATURES).mkdir()
        stages, exam = quickstart.stages(), quickstart.exam()
        found: dict[str, Any] = {name: _train_and_ask(folder, name, stages, exam, seed) for name in (STOCK, OURS)}
    found["speedup"] = found[STOCK]["seconds"] / found[OURS]["seconds"]
    return found


def _train_and_ask(folder: Path, name: str, stages: tuple[Stage, ...], exam: list[Any], seed: int) -> dict[str, Any]:
    set_seed(seed)
    model, processor = joined(folder, projector_type="mlp2x_gelu")  # the one that transformers' Llava has
    twin = transformers_twin(model, processor, template_text(CHAT_TEMPLATE)) if name == STOCK else None
    seconds, losses = 0.0, [float("nan")]
    for stage in stages:
        settings = stage_settings(stage, folder / "quality" / f"{name}-{stage.stage}", seed) | SAME_ROWS
        rows = rows_of(folder, stage).shuffle(seed)
        if twin is None:
            args = LlavaSFTConfig(**settings, stage=stage.stage, feature_cache=str(folder / FEATURES))
            trainer: Any = LlavaSFTTrainer(model, args, train_dataset=rows, processing_class=processor)
        else:
            trainer = stock_trainer(*twin, stage.stage, rows, settings | NO_CHECKPOINTS)
        trainer.remove_callback(PrinterCallback)
        began = time.perf_counter()
        trainer.train()
        seconds += time.perf_counter() - began
        losses = [log["loss"] for log in trainer.state.log_history if "loss" in log]
    if twin is not None:
        model.load_state_dict(twin[0].state_dict())
    said = answers(model, processor, exam, show_progress=False)
    return {
        "seconds": seconds,
        "accuracy": accuracy(exam, said),
        "last_loss": sum(losses[-10:]) / len(losses[-10:]),
    }
