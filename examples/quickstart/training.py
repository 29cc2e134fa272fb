"""The runs that the quickstart compares: the two stages by the library's own classes, then the exam."""

import resource
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tqdm.auto import tqdm
from transformers import PrinterCallback, ProgressCallback, TrainerCallback, set_seed

from ..checkpoints.building import build_llava, save_llava
from ..rows.loading import load_conversations
from ..train import LlavaSFTConfig, LlavaSFTTrainer
from .evaluate import Item, answers
from .muon import MuonWithAdamW
from .text import CHAT_TEMPLATE
from .world import draw_scene

Curve = list[list[float]]  # [step, loss] pairs

FEATURES = (
    "features"  # a folder in that of the backbones: where it is, features of pictures are kept there for all runs
)
LEARNING_RATES = {"align": 5e-3, "instruct": 1e-3}  # what each stage learns at, where its run names no other


@dataclass(frozen=True)
class Stage:
    """One stage of a run.

    Args:
        stage: Its name.
        rows: Its file of rows in the quickstart's folder.
        steps: Optimizer steps.
        learning_rate: In place of that of `LEARNING_RATES`.
        connector_learning_rate: Of the connector, where it is another.
        muon: Whether it learns by `MuonWithAdamW` in place of AdamW.
    """

    stage: str
    rows: str
    steps: int
    learning_rate: float | None = None
    connector_learning_rate: float | None = None
    muon: bool = False


@dataclass(frozen=True)
class Run:
    """A run: its stages, whether it is trained and asked without pictures, and how `build_llava` makes its model."""

    name: str
    stages: tuple[Stage, ...]
    blind: bool = False
    model: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """What a run left: the answers to the exam, a loss curve a stage, and some figures of the model and its training."""

    said: list[str]
    curves: dict[str, Curve]
    settings: dict[str, str]
    seconds_a_step: dict[str, float]
    peak_memory_mb: float  # of the process so far
    image_tokens: int  # that the picture of the first question takes in the text
    image_features: int  # that the connector makes of it
    connector_parameters: int


class LossBar(TrainerCallback):
    """One progress bar with the loss at its end."""

    def __init__(self, name: str) -> None:
        self.name = name

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.bar = tqdm(total=state.max_steps, desc=self.name)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.bar.update()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if "loss" in logs:
            self.bar.set_postfix(loss=f"{logs['loss']:.3f}")

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.bar.close()


def train_and_ask(folder: Path, run: Run, exam: Sequence[Item], seed: int, show_progress: bool) -> Outcome:
    """Builds a LLaVA of the two backbones, trains it, saves it as `runs/<name>`, and asks it all questions.

    Args:
        folder: The quickstart's folder, with the backbones and the rows.
        run: What to do.
        exam: The questions.
        seed: Of the connector's first weights and of the order of the rows.
        show_progress: Whether to draw progress bars.
    """
    set_seed(seed)
    model, processor = joined(folder, **run.model)
    curves, seconds = {}, {}
    for stage in run.stages:
        trained = _train(folder, run.name, stage, model, processor, seed, show_progress)
        curves[stage.stage], seconds[stage.stage] = trained
    save_llava(model, processor, folder / "runs" / run.name)
    said = answers(model, processor, exam, blind=run.blind, show_progress=show_progress)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    connector = sum(parameter.numel() for parameter in model.model.multi_modal_projector.parameters())
    counted = _count_picture(model, processor, draw_scene(exam[0].scene))
    return Outcome(said, curves, _figures(model), seconds, peak, *counted, connector)


@torch.inference_mode()
def _count_picture(model: Any, processor: Any, picture: Image.Image) -> tuple[int, int]:
    """How many tokens a picture takes in the text, and how many features the connector makes of it."""
    [features] = model.get_image_features(**processor.process_images([picture]), return_dict=True).pooler_output
    counted = processor._get_num_multimodal_tokens(image_sizes=[(picture.height, picture.width)])
    return counted.num_image_tokens[0], len(features)


def joined(folder: Path, **options: Any) -> tuple[Any, Any]:
    """The backbones of a quickstart's folder as a LLaVA that was never trained, and its processor."""
    vision, language = (str(folder / "backbones" / part) for part in ("vision", "language"))
    return build_llava(vision, language, chat_template=CHAT_TEMPLATE, **options)


def stage_settings(stage: Stage, output_dir: Path, seed: int) -> dict[str, Any]:
    """Settings of a stage that any trainer of the family of transformers' takes."""
    return {
        "output_dir": str(output_dir),
        "learning_rate": stage.learning_rate or LEARNING_RATES[stage.stage],
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.03,
        "weight_decay": 0.0,
        "adam_beta2": 0.98,
        "per_device_train_batch_size": 24,
        "max_steps": stage.steps,
        "max_length": 512,
        "bf16": False,
        "use_cpu": True,
        "save_strategy": "no",
        "report_to": "none",
        "logging_steps": 10,
        "seed": seed,
        "dataloader_pin_memory": False,
    }


def rows_of(folder: Path, stage: Stage) -> Any:
    """The rows of a stage, in the quickstart's folder."""
    return load_conversations(folder / stage.rows)


def _train(
    folder: Path, name: str, stage: Stage, model: Any, processor: Any, seed: int, show_progress: bool
) -> tuple[Curve, float]:
    """Trains a stage; returns its loss curve, and the seconds that a step took."""
    args = LlavaSFTConfig(
        **stage_settings(stage, folder / "runs" / f"{name}-{stage.stage}", seed),
        stage=stage.stage,
        connector_learning_rate=stage.connector_learning_rate,
        group_by_modality_length=True,
        feature_cache=str(folder / FEATURES) if (folder / FEATURES).is_dir() else "off",
        gradient_checkpointing=False,
        disable_tqdm=not show_progress,
    )
    trainer = LlavaSFTTrainer(
        model,
        args,
        train_dataset=rows_of(folder, stage),
        processing_class=processor,
        dataset_name=f"quickstart: {stage.rows}",
        optimizer_cls_and_kwargs=_muon(model, args) if stage.muon else None,
    )
    # The default bar writes a line of figures at each log; the report has them as curves
    for printing in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(printing)
    if show_progress:
        trainer.add_callback(LossBar(f"Stage {stage.stage}"))
    started = time.perf_counter()
    trainer.train()
    seconds = (time.perf_counter() - started) / stage.steps
    return [[log["step"], log["loss"]] for log in trainer.state.log_history if "loss" in log], seconds


def _muon(model: Any, args: LlavaSFTConfig) -> tuple[type[torch.optim.Optimizer], dict[str, Any]]:
    embeddings = {model.get_input_embeddings().weight, model.get_output_embeddings().weight}
    betas = (args.adam_beta1, args.adam_beta2)
    return MuonWithAdamW, {"lr": args.learning_rate, "betas": betas, "embeddings": embeddings}


def _figures(model: Any) -> dict[str, str]:
    vision, language = model.config.vision_config, model.config.text_config
    side = vision.image_size
    return {
        "image": f"{side} x {side} pixels, {model.config.num_image_tokens} tokens",
        "vision encoder": f"CLIP, {vision.num_hidden_layers} layers, width {vision.hidden_size}, "
        f"feature layer {model.config.vision_feature_layer}",
        "connector": f"{model.config.projector_type}, {_size(model.model.multi_modal_projector)} parameters",
        "language model": f"Llama, {language.num_hidden_layers} layers, width {language.hidden_size}, "
        f"{_size(model.model.language_model)} parameters",
    }


def _size(module: Any) -> str:
    return f"{sum(parameter.numel() for parameter in module.parameters()):,}"
