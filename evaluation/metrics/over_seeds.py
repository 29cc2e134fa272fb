"""What a run came to with several seeds, and how that differs from another run of the same exams."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..task import Task
from .intervals import difference_intervals, intervals
from .scoring import Result, totals


def over_seeds(task: Task, results: Sequence[Result], reference: Sequence[Result] | None) -> dict[str, Any]:
    """The scores of a run over the questions of all its seeds, as if they were of one exam.

    Args:
        task: The exam.
        results: A seed each.
        reference: Those of the run that it is compared with; None for that run itself.

    Returns:
        `score`, the main one, with its `interval`; `scores`, those of the task's columns; `seeds`, the score of each; and
        `difference`, its `value` and `interval`, or None. Intervals are of the questions drawn anew.
    """
    statistics, name = _pooled(results), task.main_score
    scores = {column: float(value) for column, value in totals(task, statistics).items()}
    difference = None
    if reference is not None:
        before = _pooled(reference)
        value = totals(task, statistics)[name] - totals(task, before)[name]
        difference = {"value": float(value), "interval": difference_intervals(task, before, statistics)[name]}
    return {
        "score": scores[name],
        "interval": intervals(task, statistics)[name],
        "seeds": [result.scores[name] for result in results],
        "scores": {column: scores[column] for column in task.columns if column in scores},
        "difference": difference,
    }


def difference_cells(difference: Mapping[str, Any] | None) -> tuple[str, str]:
    """A difference as two cells of a table: with its interval, and a star where that leaves out 0."""
    if difference is None:
        return "", ""
    low, high = difference["interval"]
    return f"{difference['value']:+.1f} ({low:+.1f} to {high:+.1f})", "*" if low > 0 or high < 0 else ""


def _pooled(results: Sequence[Result]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([result.statistics[name] for result in results]) for name in results[0].statistics}
