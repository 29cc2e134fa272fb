"""Going on from a checkpoint: which one, and whether this run can."""

import os
from pathlib import Path
from typing import Any

from transformers.trainer_utils import get_last_checkpoint

from ..checkpoints.checkpoint_files import ADAPTER_CONFIG, PROVENANCE_FILE, read_json
from ..checkpoints.connector_files import CONNECTOR_FILE

# Settings of adapters without which their weights mean something else
_OF_WEIGHTS = """r lora_alpha use_rslora use_dora target_modules target_parameters exclude_modules modules_to_save bias
    rank_pattern alpha_pattern""".split()


class ResumeRefused(ValueError):
    """A checkpoint that this run cannot go on from."""


def checkpoint_to_resume(value: str | bool | None, output_dir: str | None) -> str | None:
    """`--resume_from_checkpoint true`: the newest checkpoint of the output folder, or the start if there is none.

    So a job that may be killed at any time is started again by the same command each time.
    """
    if str(value).lower() == "true":
        return get_last_checkpoint(output_dir) if output_dir and os.path.isdir(output_dir) else None
    return None if value is None or str(value).lower() == "false" else str(value)


def stage_of_checkpoint(folder: str | os.PathLike) -> str | None:
    """The stage that a checkpoint was saved in; `None` where nothing in it says so."""
    folder = Path(folder)
    if (folder / CONNECTOR_FILE).exists():
        return "align"
    config = read_json(folder / "config.json") or {}
    provenance = read_json(folder / PROVENANCE_FILE) or config.get("provenance") or {}
    history = provenance.get("training_history")
    return history[-1].get("stage") if history else None


def check_stage(checkpoint: str | os.PathLike, stage: str) -> None:
    """Refuse to go on from another stage's checkpoint, whose optimizer holds other weights.

    Raises:
        ResumeRefused: It is another stage's.
    """
    saved = stage_of_checkpoint(checkpoint)
    if saved is not None and saved != stage:
        raise ResumeRefused(
            f"resume_from_checkpoint: {checkpoint} is of stage {saved!r}, and this run is stage {stage!r}. Give each stage "
            "an output_dir of its own; the model that the first one saved is this one's model_name_or_path."
        )


def check_same_adapters(checkpoint: str | os.PathLike, adapters: dict[str, Any] | None) -> None:
    """Refuse to go on with other adapters than a checkpoint has, or with some where it has none.

    Args:
        checkpoint: Its folder.
        adapters: What the config of this run's says; None: it has none.

    Raises:
        ResumeRefused: They are others; the message names the setting.
    """
    saved = read_json(Path(checkpoint) / ADAPTER_CONFIG)
    if saved is None and adapters is None:
        return
    if saved is None or adapters is None:
        has, is_with = ("no", "with") if saved is None else ("some", "without")
        raise ResumeRefused(
            f"resume_from_checkpoint: {checkpoint} has {has} adapters, and this run is {is_with} them (--use_peft). Start it "
            "with the flags that it had, or give it an output_dir of its own."
        )
    for name in _OF_WEIGHTS:
        then, now = _comparable(saved.get(name)), _comparable(adapters.get(name))
        if then != now:
            raise ResumeRefused(
                f"resume_from_checkpoint: the adapters of {checkpoint} have {name}={then!r}, and those of this run "
                f"{now!r}. Start it with the flags that it had, or give it an output_dir of its own."
            )


def _comparable(value: Any) -> Any:
    """Without an order where there is none, and without a difference between what is empty and what is not given."""
    return (sorted(value) if isinstance(value, list | set | tuple) else value) or None
