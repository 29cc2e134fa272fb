"""What happens to a row that cannot be used: it stops the work, or is left out and remembered.

The one owner of `on_bad_row`, for conversations (`BadRow`) as for the annotations they are made of (`BadAnnotation`).
"""

import argparse
import contextlib
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from .files import write_rows
from .registry import check_choice
from .schema import BadRow

logger = logging.getLogger(__name__)

ON_BAD_ROW = ("error", "skip")

Given = TypeVar("Given")
Made = TypeVar("Made")


class BadAnnotation(ValueError):
    """An annotation that cannot be used. The message names it, its value and the remedy."""


class BadRows:
    """The rule of `on_bad_row`, and what it left out.

    Args:
        on_bad_row: "error" stops at the first bad row; "skip" leaves such out.

    Attributes:
        reasons: What was left out, and why.

    Raises:
        ValueError: An unknown `on_bad_row`.
    """

    error: type[ValueError] = BadRow
    noun = "row"
    remedy = ""  # ends the message where the work stops; of rows, those who read them say it

    def __init__(self, on_bad_row: str = "error"):
        self.on_bad_row = check_choice(on_bad_row, ON_BAD_ROW, "on_bad_row")
        self.reasons: list[str] = []

    @contextlib.contextmanager
    def caught(self) -> Iterator[None]:
        """Around the work on one row."""
        try:
            yield
        except self.error as error:
            if self.on_bad_row == "skip":
                self.reasons.append(str(error))
            elif self.remedy:
                raise self.error(f"{error} {self.remedy}") from error
            else:
                raise

    def map(self, use: Callable[[Given], Made], rows: Iterable[Given]) -> Iterator[Made]:
        """What `use` makes of each row that it can use."""
        for row in rows:
            with self.caught():
                yield use(row)

    def report(self) -> str:
        """How many were left out, and the first of them with their reason."""
        return left_out(self.reasons, self.noun)

    def log(self) -> None:
        """Warn of what was left out, if anything was."""
        log_left_out(self.reasons, self.noun)

    def write(self, output: str | os.PathLike) -> None:
        """Print the report, and write all reasons beside an output (`rows.left_out.jsonl`); a list of an earlier run goes."""
        path = Path(output).with_suffix(".left_out.jsonl")
        path.unlink(missing_ok=True)
        if self.reasons:
            write_rows(({"reason": reason} for reason in self.reasons), path)
            print(f"{self.report()}\nall of them -> {path}")


class BadAnnotations(BadRows):
    """The same rule for annotations: boxes, captions and other statements that rows are made of."""

    error = BadAnnotation
    noun = "annotation"
    remedy = "--on_bad_row skip leaves such annotations out."


def left_out(reasons: list[str], noun: str = "row", shown: int = 20) -> str:
    """How many were left out, and the first `shown` of them with their reason."""
    rest = f"\n  ... and {len(reasons) - shown} more" if len(reasons) > shown else ""
    return "\n  ".join([f"{len(reasons)} {noun}(s) left out:", *reasons[:shown]]) + rest


def log_left_out(reasons: list[str], noun: str = "row") -> None:
    """Warn of what was left out, if anything was."""
    if reasons:
        logger.warning("%s", left_out(reasons, noun))


def add_flag(parser: argparse.ArgumentParser) -> None:
    """`--on_bad_row`, the same for every step that reads annotations."""
    parser.add_argument("--on_bad_row", default="error", choices=ON_BAD_ROW, help="stop, or leave out and say which")
