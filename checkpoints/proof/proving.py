"""Two checkpoints are asked the same and compared, step by step; where they part first is what is wrong."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from . import witness
from .prompts import proof_conversations, question_of
from .witness import TEXTS

# Greatest difference of scores, in shares of the greatest score, that arithmetic in another order may make
TOLERANCE = {torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 5e-2}
STEPS = ("prompt", "ids", "pixels", "features", "logits", "answer")


class Mismatch(ValueError):
    """A converted checkpoint says something else than its source. Nothing of it was kept."""


class CannotAsk(ValueError):
    """A checkpoint cannot be loaded, or fails when it is asked."""


@dataclass(frozen=True)
class Compared:
    """What two checkpoints make of one conversation.

    Args:
        asked: The last question, and the size of the picture.
        tokens: Of the prompt.
        differences: Greatest difference by step, 0 for equal bits; steps are missing that there were none of.
        parted: The first step at which they say something else; None where they do not.
    """

    asked: str
    tokens: int
    differences: dict[str, float]
    parted: str | None


def prove(source: Path, target: Path, view_size: tuple[int, int]) -> list[Compared]:
    """Ask two checkpoints the same, one after the other, in a process without llavakit.

    Args:
        source: Folder of the one.
        target: Folder of the other.
        view_size: Height and width of a view, in pixels.

    Returns:
        What became of each conversation.

    Raises:
        Mismatch: They say something else; the message names the first step at which they do.
        CannotAsk: One of them cannot be loaded or asked; the message ends with what it said.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        conversations = proof_conversations(view_size, folder)
        (folder / "conversations.json").write_text(json.dumps(conversations), encoding="utf-8")
        said = ask([source, target], folder)
    compared = [compare(*each) for each in zip(conversations, *said, strict=True)]
    check(compared, source, target)
    return compared


def check(compared: list[Compared], source: Path | str, target: Path | str) -> None:
    """Raise `Mismatch` where two checkpoints part."""
    for one in compared:
        if one.parted is not None:
            by = f" by up to {one.differences[one.parted]:.3g}" if one.parted in one.differences else ""
            raise Mismatch(
                f"{target} does not say what {source} says: asked {one.asked!r} they part first in the {one.parted}{by} "
                f"(the steps are {', '.join(STEPS)}). It was not written."
            )


def ask(checkpoints: Sequence[Path], folder: Path, dtype: str = "auto") -> list[list[dict[str, Any]]]:
    """What each checkpoint says to the conversations in `folder`, see `witness`.

    Raises:
        CannotAsk: One of them cannot be loaded or asked.
    """
    outs = [folder / f"said-{number}" for number in range(len(checkpoints))]
    arguments: list[Any] = [folder / "conversations.json", dtype]
    for checkpoint, out in zip(checkpoints, outs, strict=True):
        out.mkdir()
        arguments += [checkpoint, out]
    command = [sys.executable, "-I", witness.__file__, *map(str, arguments)]
    ran = subprocess.run(command, capture_output=True, text=True)
    if ran.returncode != 0:
        failed = sum((out / TEXTS).exists() for out in outs)  # as many have answered
        raise CannotAsk(f"{checkpoints[failed]} cannot be asked:\n{ran.stderr.strip()[-2000:]}")
    return [read_record(out) for out in outs]


def read_record(out: Path) -> list[dict[str, Any]]:
    """What `witness.record` wrote: tensors and texts by their names, a conversation each."""
    told: list[dict[str, Any]] = json.loads((out / TEXTS).read_text("utf-8"))
    for name, tensor in load_file(out / "tensors.safetensors").items():
        index, _, name = name.partition(".")
        told[int(index)][name] = tensor
    return told


def compare(conversation: list[Any], a: dict[str, Any], b: dict[str, Any]) -> Compared:
    """Compare what two checkpoints said to a conversation, see `witness`."""
    differences: dict[str, float] = {}
    parted: list[str] = []
    for step in STEPS[1:-1]:
        if step not in a and step not in b:
            continue
        equal, difference = _difference(a.get(step), b.get(step))
        differences[step] = difference
        if not equal:
            parted.append(step)
    if a["answer"] != b["answer"]:
        parted.append("answer")
    # A template may write an image otherwise and come to the same ids
    if "ids" in parted and a["prompt"] != b["prompt"]:
        parted.insert(0, "prompt")
    return Compared(question_of(conversation), len(a["ids"]), differences, parted[0] if parted else None)


def _difference(a: torch.Tensor | None, b: torch.Tensor | None) -> tuple[bool, float]:
    """Whether two tensors say the same, and their greatest difference."""
    if a is None or b is None or a.shape != b.shape:
        return False, float("inf")
    if not a.is_floating_point():
        return torch.equal(a, b), float((a != b).sum())
    difference = float((a.double() - b.double()).abs().max())
    scale = max(1.0, float(a.double().abs().max()))
    return difference <= TOLERANCE[a.dtype] * scale, difference


def proof_table(proof: list[Compared]) -> list[list[str]]:
    """The proof as a table: headings, then a line a conversation."""
    lines: list[list[str]] = [["asked", "tokens", "ids", "pixels", "features", "scores", "answer"]]
    for one in proof:
        cells = [_cell(one.differences.get(step)) for step in ("ids", "pixels", "features", "logits")]
        lines.append([one.asked, f"{one.tokens:,}", *cells, "same"])
    return lines


def _cell(difference: float | None) -> str:
    return "" if difference is None else "same bits" if difference == 0 else f"within {difference:.1e}"
