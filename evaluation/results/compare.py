"""Two results of one task, side by side: paired differences with intervals."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..metrics.intervals import LEVEL, POWER, Interval, drawn_differences, least_differences, percentiles
from ..reading.answers import some
from .folder import SavedResult, read_results


@dataclass
class Comparison:
    """What a comparison says.

    Args:
        first, second: The results.
        differences: second - first by score.
        intervals: Of the differences; by paired bootstrap over the clusters.
        least: The least difference by score that these questions show of two such models.
    """

    first: SavedResult
    second: SavedResult
    differences: dict[str, float]
    intervals: dict[str, Interval]
    least: dict[str, float]

    def is_clear(self, name: str) -> bool:
        """Whether the interval of a difference leaves out 0."""
        low, high = self.intervals[name]
        return low > 0 or high < 0


def compare(first: str | os.PathLike, second: str | os.PathLike) -> Comparison:
    """Compare two folders of results.

    Raises:
        ValueError: A folder without results, or results of different tasks or questions.
    """
    one, other = read_results(first), read_results(second)
    if one.task is not other.task:
        raise ValueError(
            f"{first} is of the task {one.task.name!r} and {second} of {other.task.name!r}: compare like with like."
        )
    apart = sorted({*one.clusters} ^ {*other.clusters})
    if apart:
        raise ValueError(
            f"{first} and {second} were not asked the same: {len(apart):,} cluster(s) are in one of them only: {some(apart)}. "
            "Score both on the same examples."
        )
    place = {cluster: number for number, cluster in enumerate(other.clusters)}
    order = np.array([place[cluster] for cluster in one.clusters])
    drawn = drawn_differences(
        one.task, one.statistics, {name: column[order] for name, column in other.statistics.items()}
    )
    found = percentiles(drawn)
    differences = {name: _difference(one, other, name) for name in one.scores if name in found}
    return Comparison(one, other, differences, found, least_differences(drawn, independent=False))


def _difference(one: SavedResult, other: SavedResult, name: str) -> float:
    before, after = one.scores[name], other.scores[name]
    return float("nan") if before is None or after is None else after - before


def comparison_table(comparison: Comparison) -> str:
    """A table for a terminal or a README; differences whose interval leaves out 0 are marked."""
    first, second = comparison.first, comparison.second
    rows: list[Sequence[Any]] = [
        (f"{first.task.title}", "A", "B", "B - A", f"{LEVEL} % interval", "", "least difference")
    ]
    rows.append(("---",) * 7)
    for name, difference in comparison.differences.items():
        low, high = comparison.intervals[name]
        mark = "*" if comparison.is_clear(name) else ""
        least = f"{comparison.least[name]:.2f}" if name in comparison.least else ""
        shown = [f"{value:.2f}" for value in (first.scores[name], second.scores[name])]
        rows.append((name, *shown, f"{difference:+.2f}", f"{low:+.2f} to {high:+.2f}", mark, least))
    lines = ["| " + " | ".join(map(str, row)) + " |" for row in rows]
    notes = [f"Least difference: found in {POWER} % of cases, at a level of {100 - LEVEL} %."]
    for letter, result in (("A", first), ("B", second)):
        notes.append(f"{letter}: {result.name}{'. ' + result.leaks['note'] if result.leaks else ''}")
    return "\n".join([*lines, "", *notes]) + "\n"
