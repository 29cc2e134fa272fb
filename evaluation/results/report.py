"""`report.html`: the scores of an evaluation, and its worst answers beside their pictures."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...reports.pages import page_template
from ...reports.pictures import NoPicture, Picture, embed
from ...rows.files import replacing
from ..metrics.intervals import LEVEL, POWER, Interval
from ..metrics.scoring import Result
from ..task import Example, Graded, Task

WORST = 48  # answers on the page
PAGE = Path(__file__).with_name("report_page.html")


@dataclass
class Card:
    """A question as the page shows it, with its picture or why there is none."""

    id: str
    prompt: str
    truth: str
    answer: str | None
    points: float
    pictures: list[Picture]
    missing: str


def write_report(
    task: Task,
    result: Result,
    found: Mapping[str, Interval],
    least: Mapping[str, float],
    path: str | os.PathLike,
    run: Mapping[str, Any],
    image_folder: str | os.PathLike | None = None,
    num_worst: int = WORST,
) -> None:
    """Write a page of HTML that needs no other file.

    Args:
        task: The benchmark.
        result: Its scores and graded answers.
        found: Intervals of the scores.
        least: The least differences of them that show.
        path: The page.
        run: What was evaluated, as name and value. Its `leaks`, if it has any, stand beside the scores.
        image_folder: Where image paths start; no path may leave it.
        num_worst: How many answers to show at most.
    """
    chosen = worst(task, result.graded, num_worst)
    page = page_template(PAGE).render(
        task=task,
        scores=result.scores,
        intervals=found,
        least=least,
        leaks=run.get("leaks"),
        level=LEVEL,
        power=POWER,
        run={
            name: _words(value)
            for name, value in run.items()
            if name != "leaks" and value not in (None, "", [], False)
        },
        cards=[_card(task, graded, image_folder) for graded in chosen],
        num_imperfect=sum(task.points(graded) < 1 for graded in result.graded),
    )
    with replacing(path) as partial:
        # A lone surrogate is legal in JSON and not in UTF-8
        partial.write_text(page, encoding="utf-8", errors="backslashreplace")


def worst(task: Task, graded: Sequence[Graded], number: int) -> list[Graded]:
    """The worst answers: failures first, then by points. Of those that are equally bad, some from all over the task."""
    imperfect = [entry for entry in graded if task.points(entry) < 1]
    imperfect.sort(key=lambda entry: (not entry.failed, task.points(entry)))
    if len(imperfect) <= number:
        return imperfect

    def badness(entry: Graded) -> tuple[bool, float]:
        return not entry.failed, task.points(entry)

    last = badness(imperfect[number - 1])
    sure = [entry for entry in imperfect if badness(entry) < last]
    equal = [entry for entry in imperfect if badness(entry) == last]
    room = number - len(sure)
    return sure + [equal[(2 * place + 1) * len(equal) // (2 * room)] for place in range(room)]


def _words(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _card(task: Task, graded: Graded, image_folder: str | os.PathLike | None) -> Card:
    example = graded.example
    pictures, missing = _pictures(example, image_folder)
    truth = task.truth_text(example)
    return Card(example.id, example.prompt, truth, graded.answer, task.points(graded), pictures, missing)


def _pictures(example: Example, image_folder: str | os.PathLike | None) -> tuple[list[Picture], str]:
    if not example.images:
        return [], "asked without a picture"
    if image_folder is None and not isinstance(example.images[0], Mapping):
        return [], f"{example.images[0]}: name the images with --image_folder to see it"
    try:
        return [embed(image, Path(image_folder or ".")) for image in example.images], ""
    except NoPicture as error:
        return [], str(error)
