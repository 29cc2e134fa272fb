"""A plot of scores: a line a run, with its interval and its seeds, in groups of runs that are compared."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .pages import page_template

TEMPLATE = Path(__file__).with_suffix(".svg")

# In units of the SVG's own
WIDTH, LEFT, RIGHT = 760, 300, 640  # of the whole, and where 0 and 100 per cent are
ROW, HEADING = 22, 30


@dataclass(frozen=True)
class Mark:
    """A run as it is drawn: its place, its score with the interval's ends, and the score of each seed."""

    name: str
    y: float
    x: float
    low: float
    high: float
    seeds: list[float]
    text: str
    is_reference: bool


@dataclass(frozen=True)
class Heading:
    """What the runs below it change."""

    text: str
    y: float


def score_plot(runs: Sequence[Mapping[str, Any]], level: int) -> str:
    """The plot as SVG.

    Args:
        runs: `group`, `name`, `score`, `interval` (its ends) and `seeds` (their scores) of each, in per cent; and
            `difference`, None for a run that those below it are compared with.
        level: Of the intervals, in per cent.
    """
    y, group, headings, marks, references = 0.0, None, [], [], []
    for run in runs:
        if run["group"] != group:
            group, y = run["group"], y + HEADING
            headings.append(Heading(group, y))
        y += ROW
        low, high = run["interval"]
        is_first = run["difference"] is None
        seeds = [_x(score) for score in run["seeds"]]
        text = f"{run['score']:.1f}"
        marks.append(Mark(run["name"], y, _x(run["score"]), _x(low), _x(high), seeds, text, is_first))
        if is_first:
            references.append([marks[-1].x, y, y])
        references[-1][2] = y
    return page_template(TEMPLATE).render(
        headings=headings,
        marks=marks,
        references=references,
        ticks=[(_x(tick), tick) for tick in range(0, 101, 20)],
        width=WIDTH,
        bottom=y + ROW / 2,
        height=y + 2 * ROW,
        level=level,
    )


def _x(per_cent: float) -> float:
    return LEFT + (RIGHT - LEFT) * per_cent / 100
