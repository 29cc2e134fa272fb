"""The exams of the ablations: the world's three types of questions, and problems in ScienceQA's form."""

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data_generation.sources.scienceqa import ANSWER_ORDERS, scienceqa_rows
from ..evaluation.task import Example, Statistics, Task
from ..evaluation.tasks import TASKS
from ..quickstart.evaluate import Item
from ..quickstart.questions import SceneQuestion
from ..quickstart.rows import detail_turn, reasoning_turn, tally_of
from ..quickstart.world import Pair, Scene, draw_scene, sample_scene
from ..rows.files import write_rows
from ..rows.schema import IMAGE_PLACEHOLDER
from .runs import TYPES

NUM_CHOICES = 3
PROBLEMS = "problems.json"
CONCLUSION = ", so "


class WorldExam(Task):
    """Short questions, descriptions and reasoning, weighted alike, as LLaVA-Bench's three types of questions are."""

    name = "world"
    title = "the quickstart's world"
    main_score = "all"
    columns = (*TYPES, "all")

    def grade(self, example: Example, answer: str) -> float:
        if example.meta["type"] == "detail":
            return overlap(answer, example.truth)
        if example.meta["type"] == "reasoning":
            return float(answer.rpartition(CONCLUSION)[2] == example.truth.rpartition(CONCLUSION)[2])
        return float(answer == example.truth)

    def groups(self, example: Example) -> Sequence[str]:
        return (example.meta["type"],)

    def scores(self, statistics: Statistics) -> dict[str, Any]:
        found = super().scores(statistics)
        return {**found, "all": sum(found[name] for name in TYPES) / len(TYPES)}


EXAMS: dict[str, Task] = {"world": WorldExam(), "science": TASKS["scienceqa"]}


def overlap(said: str, truth: str) -> float:
    """F1 of the sentences of two descriptions: 1 where all that is true is said and nothing else."""
    ours, true = ({sentence.strip(" .") for sentence in text.split(". ")} for text in (said, truth))
    return 2 * len(ours & true) / (len(ours) + len(true))


def longer_items(items: Sequence[Item], rng: random.Random) -> list[Item]:
    """A description and a reasoning about every fourth scene of the short exam."""
    longer = []
    for item in items[::4]:
        for kind, turn in (("detail", detail_turn), ("reasoning", reasoning_turn)):
            text, answer = turn(item.scene, rng)
            longer.append(Item(item.scene, SceneQuestion(kind, kind, text, answer, ()), item.held_out_pair))
    return longer


def examples_of(items: Sequence[Item]) -> list[Example]:
    """The items as the examples of `WorldExam`, by their place."""
    return [
        Example(
            str(place),
            item.question.text,
            item.question.answer,
            meta={"type": item.question.kind if item.question.kind in TYPES else "conversation"},
        )
        for place, item in enumerate(items)
    ]


# ---- problems in ScienceQA's form ----


@dataclass(frozen=True)
class ScienceProblem:
    """A problem as `problems.json` has it, and the scene that it is about."""

    fields: dict[str, Any]
    scene: Scene


def science_problems(rng: random.Random, banned: frozenset[Pair], train: int, test: int) -> dict[str, ScienceProblem]:
    """Problems by their ids, about scenes of their own.

    Args:
        rng: Source of all chance.
        banned: Pairs that must not appear.
        train: Number of problems to learn from.
        test: Number of problems of the exam.
    """
    problems: dict[str, ScienceProblem] = {}
    while len(problems) < train + test:
        scene = sample_scene(rng, banned)
        fields = _which_is_most_frequent(scene, rng)
        if fields is not None:
            split = "train" if len(problems) < train else "test"
            problems[str(len(problems))] = ScienceProblem({**fields, "split": split}, scene)
    return problems


def _which_is_most_frequent(scene: Scene, rng: random.Random) -> dict[str, Any] | None:
    """`None` where several are level."""
    question, values, reasons, leaders = tally_of(scene, rng)
    if len(leaders) > 1:
        return None
    choices = rng.sample([value for value in values if value not in leaders], NUM_CHOICES - 1) + leaders
    rng.shuffle(choices)
    return {
        "question": question,
        "choices": choices,
        "answer": choices.index(leaders[0]),
        "hint": "",
        "image": "image.png",
        "subject": "natural science",
        "grade": "grade1",
        "lecture": "",
        "solution": f"{reasons}.",
    }


def write_science(folder: Path, problems: Mapping[str, ScienceProblem]) -> None:
    """Write `problems.json`, the pictures in the official layout, and stage-2 rows in both orders of the answer."""
    for key, problem in problems.items():
        picture = folder / problem.fields["split"] / key / problem.fields["image"]
        picture.parent.mkdir(parents=True)
        draw_scene(problem.scene).save(picture)
    content = {key: problem.fields for key, problem in problems.items()}
    (folder / PROBLEMS).write_text(json.dumps(content, indent=1), encoding="utf-8")
    for order in ANSWER_ORDERS:
        write_rows(scienceqa_rows(folder / PROBLEMS, "train", order), folder / f"{order}.json")


def science_items(folder: Path, problems: Mapping[str, ScienceProblem]) -> list[Item]:
    """The problems of the split `test`, asked as the rows ask."""
    items = []
    for row in scienceqa_rows(folder / PROBLEMS, "test"):
        question, answer = (turn["value"] for turn in row["conversations"])
        asked = SceneQuestion("science", "science", question.removeprefix(f"{IMAGE_PLACEHOLDER}\n"), answer, ())
        items.append(Item(problems[row["id"]].scene, asked, held_out_pair=False))
    return items
