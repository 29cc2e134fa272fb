"""What happens to an annotation that cannot be used: it stops the work, or is left out and remembered."""

import argparse
import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from ...rows.files import write_rows

ON_BAD_ROW = ("error", "skip")

Given = TypeVar("Given")
Made = TypeVar("Made")


class BadAnnotation(ValueError):
    """An annotation that cannot be used. The message names it, its value and the remedy."""


class BadAnnotations:
    """The rule of `--on_bad_row`, and what it left out.

    Args:
        on_bad_row: "error" stops at the first bad annotation; "skip" leaves such out.

    Attributes:
        reasons: What was left out, and why.

    Raises:
        ValueError: An unknown `on_bad_row`.
    """

    def __init__(self, on_bad_row: str = "error"):
        if on_bad_row not in ON_BAD_ROW:
            raise ValueError(f"on_bad_row={on_bad_row!r} is unknown; choose one of {ON_BAD_ROW}.")
        self.on_bad_row = on_bad_row
        self.reasons: list[str] = []

    @contextlib.contextmanager
    def caught(self) -> Iterator[None]:
        """Around the work on one annotation."""
        try:
            yield
        except BadAnnotation as error:
            if self.on_bad_row == "error":
                raise BadAnnotation(f"{error} --on_bad_row skip leaves such annotations out.") from error
            self.reasons.append(str(error))

    def map(self, use: Callable[[Given], Made], annotations: Iterable[Given]) -> Iterator[Made]:
        """What `use` makes of each annotation that it can use."""
        for annotation in annotations:
            with self.caught():
                yield use(annotation)

    def report(self, shown: int = 20) -> str:
        """How many were left out, and the first `shown` of them with their reason."""
        rest = f"\n  ... and {len(self.reasons) - shown} more" if len(self.reasons) > shown else ""
        return "\n  ".join([f"{len(self.reasons)} annotation(s) left out:", *self.reasons[:shown]]) + rest

    def write(self, output: str | os.PathLike) -> None:
        """Print the report, and write all reasons beside an output (`rows.left_out.jsonl`); a list of an earlier run goes."""
        path = Path(output).with_suffix(".left_out.jsonl")
        path.unlink(missing_ok=True)
        if self.reasons:
            write_rows(({"reason": reason} for reason in self.reasons), path)
            print(f"{self.report()}\nall of them -> {path}")


def add_flag(parser: argparse.ArgumentParser) -> None:
    """`--on_bad_row`, the same for every step that reads annotations."""
    parser.add_argument("--on_bad_row", default="error", choices=ON_BAD_ROW, help="stop, or leave out and say which")
