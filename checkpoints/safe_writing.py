"""Saving that loses nothing: everything is written beside its place and renamed into it once it is whole."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

STAGING_PREFIX = ".saving-"
# A full disk surfaces as any of these: Python's own writes, torch.save, and safetensors
WRITE_ERRORS = (OSError, RuntimeError, SafetensorError)


class SaveFailed(OSError):
    """A checkpoint could not be written. What was saved before is untouched."""


@contextlib.contextmanager
def staging_folder(final: str | os.PathLike, owner: bool = True) -> Iterator[Path]:
    """A folder to write to in place of `final`. Left behind by a killed process, it is cleared by the next save.

    Args:
        final: The folder that the content is meant for; it need not exist.
        owner: Whether this process makes and clears the folder: one of those that write to it together.

    Yields:
        An empty folder on the same file system, beside `final`. What is done with it is the caller's.

    Raises:
        SaveFailed: Writing failed (a full disk, say). The staging folder is gone and `final` is as it was.
    """
    final = Path(final)
    staging = final.parent / f"{STAGING_PREFIX}{final.name}"
    try:
        if owner:
            shutil.rmtree(staging, ignore_errors=True)
            staging.mkdir(parents=True)
        yield staging
    except WRITE_ERRORS as error:
        raise SaveFailed(
            f"could not save to {final}: {error}. Free some space or choose another --output_dir, then resume with "
            "--resume_from_checkpoint true; earlier checkpoints are intact."
        ) from error
    finally:
        if owner:
            shutil.rmtree(staging, ignore_errors=True)


def replace_folder(staging: Path, final: Path) -> None:
    """Put a whole folder in its place, in one rename; an older one of the same name makes way first."""
    old = final.with_name(f"{STAGING_PREFIX}old-{final.name}")
    shutil.rmtree(old, ignore_errors=True)
    if final.exists():
        final.rename(old)
    staging.rename(final)
    shutil.rmtree(old, ignore_errors=True)


def replace_files(staging: Path, final: Path) -> None:
    """Move each file of a folder into another, renaming over older ones; other files there stay.

    Weight shards come first and the index that names them last, so that a reader finds an index only with its shards.
    """
    final.mkdir(parents=True, exist_ok=True)
    files = sorted(file for file in staging.rglob("*") if file.is_file())
    for file in sorted(files, key=lambda file: file.name.endswith("index.json")):
        target = final / file.relative_to(staging)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(file, target)
