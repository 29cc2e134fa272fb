"""Saving that loses nothing: everything is written beside its place and renamed into it once it is whole."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

from .checkpoint_files import stale_files

STAGING_PREFIX = ".saving-"
# A full disk surfaces as any of these: Python's own writes, torch.save, and safetensors
WRITE_ERRORS = (OSError, RuntimeError, SafetensorError)
REMEDY = (
    "Free some space or choose another --output_dir, then resume with --resume_from_checkpoint true; earlier checkpoints "
    "are intact."
)


class SaveFailed(OSError):
    """A checkpoint could not be written. What was saved before is untouched."""


@contextlib.contextmanager
def staging_folder(final: str | os.PathLike, owner: bool = True, remedy: str = REMEDY) -> Iterator[Path]:
    """A folder to write to in place of `final`. Left behind by a killed process, it is cleared by the next save.

    Args:
        final: The folder that the content is meant for; it need not exist.
        owner: Whether this process makes and clears the folder: one of those that write to it together.
        remedy: What an error tells the user to do.

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
        raise SaveFailed(f"could not save to {final}: {error}. {remedy}") from error
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
    """Put a checkpoint in the place of another: its files are moved over older ones, and what it lacks goes away.

    Files that no checkpoint consists of stay (see `stale_files`). The old ones that are to go leave first, so that whoever
    reads meanwhile finds too few files and never two checkpoints mixed; weight shards come next, and the index that names
    them last. Should a move fail, the old ones come back.
    """
    final.mkdir(parents=True, exist_ok=True)
    files = sorted(file for file in staging.rglob("*") if file.is_file())
    aside = staging.with_name(f"{STAGING_PREFIX}old-{staging.name}")
    shutil.rmtree(aside, ignore_errors=True)
    moved: list[Path] = []
    try:
        for stale in stale_files(final, staging):
            _move(final / stale, aside / stale)
            moved.append(stale)
        for file in sorted(files, key=lambda file: file.name.endswith("index.json")):
            _move(file, final / file.relative_to(staging))
    except OSError:
        for stale in moved:
            _move(aside / stale, final / stale)
        raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _move(file: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(file, target)
