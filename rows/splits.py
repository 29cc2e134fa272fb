"""Which rows belong to a split: files by their names, as `datasets.load_dataset(folder)` has it, saved data sets by theirs."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import datasets

# Split -> the words that say so in the name of a file or of a folder around it
WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}


def files_of_split(files: Iterable[Path], split: str, below: Path) -> list[Path]:
    """The files of a folder that hold a split's rows. What names no split is training data.

    Args:
        files: All of the folder's.
        split: "train", "validation" or "test", or a word of the files' names.
        below: The folder; names above it say nothing.

    Raises:
        ValueError: There are none.
    """
    files = list(files)
    splits = {file: _split_named(file.relative_to(below), split) or "train" for file in files}
    chosen = [file for file in files if splits[file] == split]
    if not chosen:
        raise ValueError(
            f"split={split!r} is not in {below}; by their names its files are of {sorted(set(splits.values()))}."
        )
    return chosen


def check_file(file: Path, split: str) -> None:
    """A file by itself is one split: training data, or what its name says.

    Raises:
        ValueError: Another split is asked for.
    """
    named = _split_named(Path(file.name), split)
    if split not in ("train", named):
        raise ValueError(
            f"split={split!r} is not in {file}: a file by itself is one split, {named or 'train'!r}. Slices and other splits "
            "are for folders and data sets on the Hub."
        )


def split_of(loaded: Any, split: str, path: Path) -> datasets.Dataset:
    """A split of what `save_to_disk` wrote.

    Raises:
        ValueError: It has no such split.
    """
    if isinstance(loaded, datasets.DatasetDict):
        if split not in loaded:
            raise ValueError(f"split={split!r} is not in {path}; it has {sorted(loaded)}.")
        return loaded[split]
    named = str(loaded.split) if loaded.split is not None else "train"
    if split not in ("train", named):
        raise ValueError(f"split={split!r} is not in {path}: it holds one data set, {named!r}.")
    return loaded


def _split_named(path: Path, asked: str) -> str | None:
    """The one split whose words a path has; `None` where it has none or several."""
    words = set(re.split(r"[^a-z0-9]+", str(path.with_suffix("")).lower()))
    named = {split for split, names in WORDS.items() if words & {*names}}
    if not named and asked.lower() in words:
        return asked
    return named.pop() if len(named) == 1 else None
