"""From examples and answers to the scores of a task: who is missing, who is unknown, who failed, and the statistics."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...rows.files import replacing
from ..reading.answers import Answers, some
from ..task import Example, Graded, Task

COUNTS = ("questions", "failed")  # among the scores, but none


@dataclass
class Result:
    """What a task says of a set of answers.

    Args:
        scores: Name to number, as the paper's table has them; also `questions`, and `failed` where there are any. Where
            answers are missing the scores are over what was answered; each stands again as `... (over all)`, with what
            is missing counted as failed, and `missing` and `coverage` (in %) say how much that is.
        graded: The examples with their answers and grades.
        clusters: Names of the clusters that are drawn together.
        statistics: What each cluster adds, by name. Shape of each: (clusters,).
    """

    scores: dict[str, float]
    graded: list[Graded]
    clusters: list[str]
    statistics: dict[str, np.ndarray]


def score(task: Task, examples: Sequence[Example], answers: Answers, allow_partial: bool = False) -> Result:
    """Score answers.

    Args:
        task: The benchmark.
        examples: What `task.read` gave.
        answers: What `task.read_answers` gave.
        allow_partial: Score what is there when examples have no answer.

    Raises:
        ValueError: Answers to unknown examples, or examples without an answer; the message lists them.
    """
    missing = check_ids(examples, answers)
    if missing and not allow_partial:
        raise ValueError(
            f"{len(missing):,} of {len(examples):,} examples have no answer: {some(missing)}. Add them, or score what is "
            "there with --allow-partial."
        )
    if len(missing) == len(examples):
        raise ValueError("no example has an answer: there is nothing to score.")
    result = score_graded(task, task.grade_all(examples, answers))
    if missing:
        over_all = score_graded(task, task.grade_all(examples, {**dict.fromkeys(missing), **answers})).scores
        result.scores |= {f"{name} (over all)": over_all[name] for name in over_all if name not in COUNTS}
        result.scores["missing"] = len(missing)
        result.scores["coverage"] = 100 * (1 - len(missing) / len(examples))
    return result


def check_ids(examples: Sequence[Example], answers: Answers) -> list[str]:
    """Ids of the examples that have no answer.

    Raises:
        ValueError: Answers to unknown examples; the message lists them.
    """
    known = {example.id for example in examples}
    unknown = [key for key in answers if key not in known]
    if unknown:
        raise ValueError(
            f"{len(unknown):,} answer(s) are to ids that the annotations do not have: {some(unknown)}. Do both belong to "
            "the same split?"
        )
    return [example.id for example in examples if example.id not in answers]


def score_graded(task: Task, graded: list[Graded]) -> Result:
    """The scores of graded answers."""
    clusters = clusters_of(task, graded)
    rows = [task.statistics(cluster) for cluster in clusters.values()]
    statistics = {
        name: np.array([row.get(name, 0.0) for row in rows]) for name in dict.fromkeys(n for r in rows for n in r)
    }
    found = totals(task, statistics)
    ordered = [name for name in task.columns if name in found]
    scores = {name: float(found[name]) for name in dict.fromkeys([*ordered, *found])}
    scores["questions"] = len(graded)
    failed = sum(entry.failed for entry in graded)
    if failed:
        scores["failed"] = failed
    return Result(scores, graded, list(clusters), statistics)


def clusters_of(task: Task, graded: Sequence[Graded]) -> dict[str, list[Graded]]:
    """Graded answers by the cluster that they are drawn with."""
    clusters: dict[str, list[Graded]] = {}
    for entry in graded:
        clusters.setdefault(task.cluster(entry.example), []).append(entry)
    return clusters


def totals(task: Task, statistics: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The scores over all clusters."""
    return task.scores({name: column.sum() for name, column in statistics.items()})


def write_scores(scores: Mapping[str, Any], path: str | os.PathLike) -> Path:
    """Write a flat JSON object, name to number. What cannot be computed (0 of 0) is null."""
    content = {name: None if value != value else value for name, value in scores.items()}
    with replacing(path) as partial:
        partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return Path(path)
