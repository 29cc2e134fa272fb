"""Confidence intervals: the clusters of a task are drawn anew many times, and the scores computed of each draw.

The percentile bootstrap (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, section 13.3). Units are drawn and
not examples, so that questions that stand or fall together stay together. Two sets of answers are compared by the same
draws for both: what is hard for both then says nothing about their difference.

How large a difference must be for a set of this size to show it: one of (z_0.975 + z_0.8) standard errors, 2.80 of them, is
found with a probability of 80 % by a test at the level of 5 % (H. S. Bloom, "Minimum detectable effects", Evaluation Review
19, 1995; for evaluations of language models E. Miller, arXiv:2411.00640). The standard errors are those of the draws, so that
clusters count here too.
"""

from collections.abc import Iterator, Mapping
from math import sqrt
from statistics import NormalDist
from typing import Any

import numpy as np

from ..task import Task

DRAWS = 1000
LEVEL = 95  # per cent
POWER = 80  # per cent
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
    return percentiles(drawn_scores(task, statistics, draws, seed))


def difference_intervals(
    task: Task,
    first: Mapping[str, np.ndarray],
    second: Mapping[str, np.ndarray],
    draws: int = DRAWS,
    seed: int = SEED,
) -> dict[str, Interval]:
    """The interval of second - first for each score that both have; their clusters must stand in the same order."""
    return percentiles(drawn_differences(task, first, second, draws, seed))


def least_differences(drawn: Mapping[str, np.ndarray], *, independent: bool) -> dict[str, float]:
    """The least difference that a set of this size shows, by score.

    Args:
        drawn: What `drawn_differences` gave, or, where there is nothing yet to compare with, `drawn_scores`.
        independent: Whether these are scores, of which another model's would be as uncertain and independent: the errors
            of the two add up. Models that find the same hard differ less by chance, so that this is an upper bound.

    Returns:
        Differences, as large as the scores are. A score that fewer than two draws have is left out.
    """
    factor = sum(NormalDist().inv_cdf(share) for share in (1 - (1 - LEVEL / 100) / 2, POWER / 100))
    factor *= sqrt(2) if independent else 1
    defined = {name: values[~np.isnan(values)] for name, values in drawn.items()}
    return {name: float(factor * values.std(ddof=1)) for name, values in defined.items() if len(values) > 1}


def drawn_differences(
    task: Task,
    first: Mapping[str, np.ndarray],
    second: Mapping[str, np.ndarray],
    draws: int = DRAWS,
    seed: int = SEED,
) -> dict[str, np.ndarray]:
    """second - first in each draw. Shape of each: (draws,)."""
    one, other = (drawn_scores(task, statistics, draws, seed) for statistics in (first, second))
    return {name: other[name] - one[name] for name in one if name in other}


def drawn_scores(
    task: Task, statistics: Mapping[str, np.ndarray], draws: int = DRAWS, seed: int = SEED
) -> dict[str, np.ndarray]:
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


def percentiles(scores: Mapping[str, Any]) -> dict[str, Interval]:
    """The interval of each score, from its draws; see `intervals`."""
    tail = (100 - LEVEL) / 2
    found = {}
    for name, values in scores.items():
        defined = values[~np.isnan(values)]
        if len(defined):
            low, high = np.percentile(defined, [tail, 100 - tail])
            found[name] = (float(low), float(high))
    return found
