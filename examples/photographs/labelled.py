"""A folder of labelled photographs: which pictures are in it, what they show, and which of them are kept back."""

import os
from dataclasses import dataclass
from pathlib import Path

from ..rows.images import open_image
from ..rows.schema import BadRow

TRAIN, VALIDATION = "train", "validation"
KEPT_BACK = 5  # where the folder has no splits of its own, one photograph in so many of each label is kept back


@dataclass(frozen=True)
class Photograph:
    """One picture with its label.

    Args:
        path: Below the folder, with forward slashes; it is also the photograph's id.
        label: The name of the sub-folder that it lies in, underscores read as spaces.
    """

    path: str
    label: str


@dataclass(frozen=True)
class Photographs:
    """What a folder holds.

    Args:
        train: What is trained on.
        validation: What is kept back.
        left_out: Path and reason of each file that is no readable picture.
    """

    train: list[Photograph]
    validation: list[Photograph]
    left_out: dict[str, str]

    @property
    def labels(self) -> list[str]:
        return sorted({photograph.label for photograph in self.train})


def read_photographs(folder: str | os.PathLike) -> Photographs:
    """Find the photographs of a folder and decode each once, so that a damaged one is found now.

    The folder is `FOLDER/train/LABEL/*` and `FOLDER/validation/LABEL/*`, or `FOLDER/LABEL/*`, of which every fifth
    photograph of a label is then kept back. What a file is, its content decides and not its suffix.

    Raises:
        ValueError: There is no such folder, it has only one of the two splits, fewer than two labels, a label with
            nothing to train on, or nothing to validate with.
    """
    root = Path(folder)
    if not root.is_dir():
        raise ValueError(f"FOLDER={str(folder)!r} is no folder. Give one with train/LABEL/ and validation/LABEL/.")
    splits = [split for split in (TRAIN, VALIDATION) if (root / split).is_dir()]
    if len(splits) == 1:
        (missing,) = {TRAIN, VALIDATION} - {*splits}
        raise ValueError(f"{root} has {splits[0]}/ and no {missing}/. Add it, or put the labels' folders into {root}.")
    left_out: dict[str, str] = {}
    if splits:
        train, validation = (_readable(root, _labelled(root, root / split), left_out) for split in splits)
    else:
        train, validation = _parted(_readable(root, _labelled(root, root), left_out))
    found = Photographs(train, validation, left_out)
    _check(found, root)
    return found


def _labelled(root: Path, split: Path) -> list[Photograph]:
    """Every file in the folders of labels, hidden ones apart."""
    return [
        Photograph(file.relative_to(root).as_posix(), label.name.replace("_", " ").strip())
        for label in sorted(split.iterdir())
        if label.is_dir() and not label.name.startswith(".")
        for file in sorted(label.rglob("*"))
        if file.is_file() and not file.name.startswith(".")
    ]


def _readable(root: Path, photographs: list[Photograph], left_out: dict[str, str]) -> list[Photograph]:
    """Those that can be read; the others are put into `left_out`."""
    readable = []
    for photograph in photographs:
        try:
            open_image(root / photograph.path, photograph.path)
        except BadRow as error:
            left_out[photograph.path] = str(error)
        else:
            readable.append(photograph)
    return readable


def _parted(photographs: list[Photograph]) -> tuple[list[Photograph], list[Photograph]]:
    """Training photographs and those kept back, label by label."""
    train: list[Photograph] = []
    validation: list[Photograph] = []
    seen = dict.fromkeys((photograph.label for photograph in photographs), 0)
    for photograph in photographs:
        seen[photograph.label] += 1
        (validation if seen[photograph.label] % KEPT_BACK == 0 else train).append(photograph)
    return train, validation


def _check(found: Photographs, root: Path) -> None:
    labels = found.labels
    if len(labels) < 2:
        raise ValueError(
            f"{root} has photographs of {labels or 'no label'} to train on; two labels or more are needed, each a "
            "sub-folder with its photographs."
        )
    if not found.validation:
        raise ValueError(f"{root} has no photograph to validate with: put some of each label into {VALIDATION}/.")
    if strangers := sorted({photograph.label for photograph in found.validation} - {*labels}):
        raise ValueError(f"{root} has {strangers} in {VALIDATION}/ alone. Add training photographs, or take them out.")
