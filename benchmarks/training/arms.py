"""The trainers that are compared: `ARMS`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..checkpoints.loading import load_model, load_processor
from ..processing import template_text
from ..rows.loading import load_conversations
from .presets import Preset

LEARNING_RATE = {"align": 1e-3, "instruct": 2e-5}
TEMPLATE = {"align": "plain", "instruct": "vicuna_v1"}


@dataclass(frozen=True)
class Task:
    """What every arm does.

    Args:
        folder: With the model and the rows.
        preset: Its sizes.
        stage: "align" or "instruct".
        steps: Optimizer steps.
        output_dir: Where trainers may write.
        rows_file: In the folder. Default: that of the stage.
    """

    folder: Path
    preset: Preset
    stage: str
    steps: int
    output_dir: Path
    rows_file: str | None = None

    def settings(self) -> dict[str, Any]:
        """Settings that all trainers have in common."""
        return {
            "output_dir": str(self.output_dir),
            "per_device_train_batch_size": self.preset.batch_size[self.stage],
            "max_steps": self.steps,
            "learning_rate": LEARNING_RATE[self.stage],
            "lr_scheduler_type": "constant",
            "max_length": 2048,
            "train_sampling_strategy": "sequential",  # the rows of a step are the same in all
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "bf16": self.preset.bf16,
            "use_cpu": self.preset.device == "cpu",
            "dataloader_pin_memory": self.preset.device == "cuda",
        }

    def rows(self) -> Any:
        return load_conversations(self.folder / (self.rows_file or f"{self.stage}.json"), self.folder / "images")


@dataclass(frozen=True)
class Arm:
    """One way to train.

    Args:
        make: Takes the task, and `settings` as arguments; returns a trainer.
        settings: Beside those of the task.
        same_rows: Each step has the rows of the other arms' step.
        about: What it is, in a line.
    """

    make: Callable[..., Any]
    about: str
    settings: dict[str, Any] = field(default_factory=dict)
    same_rows: bool = True


def _ours(task: Task, *, own_head: bool = True, kept: bool = False, **settings: Any) -> Any:
    from ..train import LlavaSFTConfig, LlavaSFTTrainer

    args = LlavaSFTConfig(
        **task.settings(),
        stage=task.stage,
        chat_template=TEMPLATE[task.stage],
        feature_cache=str(task.folder / "features") if kept else "off",
        **settings,
    )
    trainer = LlavaSFTTrainer(str(task.folder / "llava"), args, train_dataset=task.rows())
    if not own_head:
        from trl.trainer.utils import add_fused_lm_head

        del trainer.model.forward
        add_fused_lm_head(trainer.model, outputs=("log_probs", "entropy", "is_top1"))
    return trainer


def _stock(task: Task, *, by_length: bool = False, **settings: Any) -> Any:
    folder = str(task.folder / "llava")
    template = template_text(TEMPLATE[task.stage])
    twin, processor = transformers_twin(load_model(folder), load_processor(folder), template)
    rows = task.rows()
    if by_length:
        rows = rows.select(_grouped(task, rows))
    return stock_trainer(twin, processor, task.stage, rows, task.settings() | settings)


def transformers_twin(llava: Any, processor: Any, template: str) -> tuple[Any, Any]:
    """transformers' own Llava with the weights of ours, and its processor, which writes conversations by `template`."""
    from transformers import LlavaForConditionalGeneration, LlavaProcessor

    model = LlavaForConditionalGeneration(_twin_of(llava.config))
    model.load_state_dict(llava.state_dict())
    twin = LlavaProcessor(
        processor.image_processor,
        processor.tokenizer,
        patch_size=processor.patch_size,
        vision_feature_select_strategy="default",
        chat_template=template,
        num_additional_image_tokens=1,
    )
    return model, twin


def stock_trainer(model: Any, processor: Any, stage: str, rows: Any, settings: Mapping[str, Any]) -> Any:
    """`trl.SFTTrainer` on what `transformers_twin` made, for a stage."""
    from trl import SFTConfig, SFTTrainer

    model.requires_grad_(stage != "align")
    model.model.vision_tower.requires_grad_(False)
    model.model.multi_modal_projector.requires_grad_(True)
    args = SFTConfig(**settings, assistant_only_loss=True)
    return SFTTrainer(model, args, train_dataset=rows, processing_class=processor)


def _twin_of(config: Any) -> Any:
    """transformers' config of the same model."""
    from transformers import LlavaConfig

    return LlavaConfig(
        vision_config=config.vision_config,
        text_config=config.text_config,
        image_token_index=config.image_token_id,
        vision_feature_layer=config.vision_feature_layer,
        vision_feature_select_strategy="default",
        image_seq_length=config.num_image_tokens,
    )


def _grouped(task: Task, rows: Any) -> list[int]:
    """An order in which the rows of a step are about equally long, as transformers' "group_by_length" has it."""
    from transformers.trainer_pt_utils import get_length_grouped_indices

    lengths = [sum(len(message["content"][-1].get("text") or "") for message in row["messages"]) for row in rows]
    generator = torch.Generator().manual_seed(0)
    return get_length_grouped_indices(lengths, task.preset.batch_size[task.stage], generator=generator)


NO_CHECKPOINTS = {"gradient_checkpointing": False}

ARMS: dict[str, Arm] = {
    "stock": Arm(_stock, "trl.SFTTrainer and transformers' Llava, as they come"),
    "stock, no checkpointing": Arm(_stock, "the same with gradient_checkpointing off", NO_CHECKPOINTS),
    "stock, by length": Arm(
        _stock,
        "that, and rows of about one length in a step",
        {**NO_CHECKPOINTS, "by_length": True},
        same_rows=False,
    ),
    "llavakit": Arm(_ours, "LlavaSFTTrainer, as it comes in its first epoch"),
    "llavakit, features kept": Arm(_ours, "in later epochs, its features found in the cache", {"kept": True}),
    "llavakit, padded": Arm(_ours, "without laying rows end to end", {"padding_free": False}),
    "llavakit, checkpointing": Arm(_ours, "with gradient_checkpointing on", {"gradient_checkpointing": True}),
    "llavakit, all scores": Arm(
        _ours,
        "padded, and with trl's head, which scores every position on a CPU",
        {"padding_free": False, "own_head": False},
    ),
}
STOCK, BEST_STOCK, OURS = "stock", ("stock, no checkpointing", "stock, by length"), "llavakit"
