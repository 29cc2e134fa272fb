"""From examples and answers to the scores of a task: who is missing, who is unknown, who failed, and the sums."""

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


@dataclass
class Result:
    """What a task says of a set of answers.

    Args:
        scores: Name to number, as the paper's table has them; also `questions`, and `failed` and `missing` where there
            are any.
        graded: The examples with their answers and grades.
        units: Names of the units that are drawn together.
        sums: What each unit adds, by name. Shape of each: (units,).
    """

    scores: dict[str, float]
    graded: list[Graded]
    units: list[str]
    sums: dict[str, np.ndarray]


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
        result.scores["missing"] = len(missing)
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
    units = units_of(task, graded)
    rows = [task.sums(unit) for unit in units.values()]
    sums = {name: np.array([row.get(name, 0.0) for row in rows]) for name in dict.fromkeys(n for r in rows for n in r)}
    found = totals(task, sums)
    ordered = [name for name in task.columns if name in found]
    scores = {name: float(found[name]) for name in dict.fromkeys([*ordered, *found])}
    scores["questions"] = len(graded)
    failed = sum(entry.failed for entry in graded)
    if failed:
        scores["failed"] = failed
    return Result(scores, graded, list(units), sums)


def units_of(task: Task, graded: Sequence[Graded]) -> dict[str, list[Graded]]:
    """Graded answers by the unit that they are drawn with."""
    units: dict[str, list[Graded]] = {}
    for entry in graded:
        units.setdefault(task.unit(entry.example), []).append(entry)
    return units


def totals(task: Task, sums: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The scores over all units."""
    return task.scores({name: column.sum() for name, column in sums.items()})


def write_scores(scores: Mapping[str, Any], path: str | os.PathLike) -> Path:
    """Write a flat JSON object, name to number. What cannot be computed (0 of 0) is null."""
    content = {name: None if value != value else value for name, value in scores.items()}
    with replacing(path) as beside:
        beside.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return Path(path)
