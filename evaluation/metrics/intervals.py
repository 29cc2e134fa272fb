"""Confidence intervals: the clusters of a task are drawn anew many times, and the scores computed of each draw.

The percentile bootstrap (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, section 13.3). Units are drawn and
not examples, so that questions that stand or fall together stay together. Two sets of answers are compared by the same
draws for both: what is hard for both then says nothing about their difference.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ..task import Task

DRAWS = 1000
LEVEL = 95  # per cent
SEED = 0
CHUNK = 50  # draws that are held in memory at once

Interval = tuple[float, float]


def intervals(
    task: Task, statistics: Mapping[str, np.ndarray], draws: int = DRAWS, seed: int = SEED
) -> dict[str, Interval]:
    """The interval of each score.

    Args:
        task: The benchmark.
        statistics: What each cluster adds, by name. Shape of each: (clusters,).
        draws: How many times the clusters are drawn.
        seed: Of the draws.

    Returns:
        Lower and upper end by score. A score that no draw has is left out.
    """
    return _percentiles(_drawn_scores(task, statistics, draws, seed))


def difference_intervals(
    task: Task,
    first: Mapping[str, np.ndarray],
    second: Mapping[str, np.ndarray],
    draws: int = DRAWS,
    seed: int = SEED,
) -> dict[str, Interval]:
    """The interval of second - first for each score that both have; their clusters must stand in the same order."""
    one, other = (_drawn_scores(task, statistics, draws, seed) for statistics in (first, second))
    return _percentiles({name: other[name] - one[name] for name in one if name in other})


def _drawn_scores(task: Task, statistics: Mapping[str, np.ndarray], draws: int, seed: int) -> dict[str, np.ndarray]:
    """The scores of each draw. Shape of each: (draws,)."""
    names = list(statistics)
    matrix = np.stack([statistics[name] for name in names], axis=1)  # (clusters, names)
    chunks = [weights @ matrix for weights in _weights(len(matrix), draws, seed)]
    drawn = np.concatenate(chunks)  # (draws, names)
    scores = task.scores({name: drawn[:, place] for place, name in enumerate(names)})
    return {name: np.broadcast_to(values, draws) for name, values in scores.items()}


def _weights(num_clusters: int, draws: int, seed: int) -> Iterator[np.ndarray]:
    """How often each cluster is drawn. Shape: (at most CHUNK, clusters)."""
    generator = np.random.default_rng(seed)
    for start in range(0, draws, CHUNK):
        rows = min(CHUNK, draws - start)
        drawn = generator.integers(0, num_clusters, (rows, num_clusters))
        yield np.stack([np.bincount(row, minlength=num_clusters) for row in drawn]).astype(float)


def _percentiles(scores: Mapping[str, Any]) -> dict[str, Interval]:
    tail = (100 - LEVEL) / 2
    found = {}
    for name, values in scores.items():
        defined = values[~np.isnan(values)]
        if len(defined):
            low, high = np.percentile(defined, [tail, 100 - tail])
            found[name] = (float(low), float(high))
    return found
