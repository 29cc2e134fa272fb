"""Going on from a checkpoint: which one, and whether this run can."""

import json
import os
from pathlib import Path

from transformers.trainer_utils import get_last_checkpoint

from ..checkpoints.connector_files import CONNECTOR_FILE


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
    if not (folder / "config.json").exists():
        return None
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    history = (config.get("provenance") or {}).get("training_history")
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
