"""The settings of a run, and the commands that they make of the two stages."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

VISION, LANGUAGE = "facebook/dinov2-small", "HuggingFaceTB/SmolLM2-135M-Instruct"
CHAT_TEMPLATE = str(Path(__file__).with_name("chat.jinja"))
PRECISIONS = ("auto", "float32", "bf16")


@dataclass(frozen=True)
class StageSettings:
    """How one stage is trained.

    Args:
        epochs: Passes over its rows.
        batch_size: Rows a step.
        learning_rate: Peak of the cosine.
        connector_learning_rate: Likewise, of the connector in stage 2.
        weight_decay: Of what learns.
        chat_template: In place of the checkpoint's own.
        vision_learning_rate: Of the vision encoder, where it learns.
        vision_layer_decay: How much slower each of its layers learns than the one after it, as a factor.
    """

    epochs: float
    batch_size: int
    learning_rate: float
    connector_learning_rate: float | None = None
    weight_decay: float = 0.0
    chat_template: str | None = None
    vision_learning_rate: float | None = None
    vision_layer_decay: float | None = None


@dataclass(frozen=True)
class Recipe:
    """What a run is made of. Two starts with the same recipe and folder are one run.

    Args:
        vision: Path or Hub id of the vision encoder.
        language: Path or Hub id of the language model.
        image_size: Pixels of a side as the encoder sees a photograph; None for its image processor's own.
        projector_type: Of the connector.
        pooled_tokens: So many tokens of a photograph, a square number, by averaging its patches; None for one a patch.
        vision_feature_layers: Hidden states that the connector reads, side by side.
        vision_feature_select_strategy: "full" takes the class token too, which stays beside averaged patches.
        chat_template: Of the assistant: a shipped name, a file, or "tokenizer" for the language model's own.
        align: Stage 1.
        align_vision: After it, where there are crops: encoder and connector learn, the language model stays as it is.
        instruct: Stage 2.
        mirrored: Whether each training photograph is learnt from a second time, left and right exchanged.
        crops: Of each training photograph, for the vision encoder to learn from; 0: it stays as it is.
        seed: Of the rows, the connector and the order of training.
    """

    vision: str = VISION
    language: str = LANGUAGE
    image_size: int | None = 224
    projector_type: str = "linear"
    pooled_tokens: int | None = 4
    vision_feature_layers: tuple[int, ...] = (-2, -4)
    vision_feature_select_strategy: str = "full"
    chat_template: str = CHAT_TEMPLATE
    align: StageSettings = field(default_factory=lambda: StageSettings(6, 16, 2.5e-3, weight_decay=2.0))
    align_vision: StageSettings = field(
        default_factory=lambda: StageSettings(
            1, 16, 5e-4, weight_decay=0.05, vision_learning_rate=5e-5, vision_layer_decay=0.8
        )
    )
    instruct: StageSettings = field(default_factory=lambda: StageSettings(1, 16, 1e-5, 1e-4, weight_decay=2.0))
    mirrored: bool = False
    crops: int = 0
    seed: int = 0


def uses_bf16(precision: str) -> bool:
    """Whether training computes in bfloat16 (the weights stay float32).

    "auto" does so where that is quicker: on a GPU that has it, and on a CPU with instructions for it.
    """
    if precision != "auto":
        return precision == "bf16"
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16"))


def init_arguments(recipe: Recipe, vision: str | Path, output_dir: Path) -> list[Any]:
    """The arguments of `llavakit init`."""
    options = []
    if recipe.pooled_tokens is not None:
        options = ["--projector_options", json.dumps({"pooled_tokens": recipe.pooled_tokens})]
    return [
        "init", "--vision", vision, "--language", recipe.language, "--output_dir", output_dir,
        "--projector_type", recipe.projector_type, "--chat_template", recipe.chat_template,
        "--vision_feature_layer", *recipe.vision_feature_layers,
        "--vision_feature_select_strategy", recipe.vision_feature_select_strategy,
        "--dtype", "float32", "--seed", recipe.seed, *options,
    ]  # fmt: skip


def sft_arguments(
    stage: str,
    settings: StageSettings,
    model: Path,
    rows: Path,
    image_folder: Path,
    output_dir: Path,
    bf16: bool,
    seed: int,
) -> list[Any]:
    """The arguments of `llavakit sft`. A killed training goes on from its newest checkpoint."""
    arguments: list[Any] = [
        "sft", "--stage", stage, "--model_name_or_path", model, "--dataset_name", rows,
        "--image_folder", image_folder, "--output_dir", output_dir, "--num_processes", 1,
        "--num_train_epochs", settings.epochs, "--per_device_train_batch_size", settings.batch_size,
        "--learning_rate", settings.learning_rate, "--lr_scheduler_type", "cosine", "--warmup_steps", 0.03,
        "--weight_decay", settings.weight_decay, "--gradient_checkpointing", "false", "--bf16", str(bf16).lower(),
        "--logging_steps", 10, "--save_strategy", "steps", "--save_steps", 0.1, "--save_total_limit", 1,
        "--resume_from_checkpoint", "true", "--report_to", "none", "--seed", seed,
    ]  # fmt: skip
    for name in ("connector_learning_rate", "chat_template", "vision_learning_rate", "vision_layer_decay"):
        if getattr(settings, name) is not None:
            arguments += [f"--{name}", getattr(settings, name)]
    if not torch.cuda.is_available():
        arguments += ["--use_cpu", "true", "--dataloader_pin_memory", "false"]
    return arguments
