"""Many questions at once, from rows of a file or a program."""

import os
from collections.abc import Iterable, Mapping
from typing import Any

from ..rows.images import resolve_images
from .engine import Answer, Engine, Question

_FIELDS = ("id", "prompt", "messages", "images", "max_new_tokens", "choices", "system")


def answer_questions(
    rows: Iterable[Question | Mapping[str, Any]], engine: Engine, image_folder: str | os.PathLike | None = None
) -> list[Answer]:
    """Answer questions; those about the same images share their work.

        engine = LocalEngine(*load_llava("runs/llava"))
        answers = answer_questions(
            [{"id": "1", "image": "a.jpg", "prompt": "What is it?"}, {"id": "2", "image": "a.jpg", "prompt": "Where?"}],
            engine,
        )

    Args:
        rows: Questions, or objects with their fields (see `read_question`).
        engine: What answers: `LocalEngine`, `ServerEngine`, or anything with their `answer`.
        image_folder: Where relative image paths start. Where it is given, no path may leave it.

    Returns:
        One answer a row, in the order of the rows. A question that could not be answered has an answer with an error.

    Raises:
        ValueError: A row is no question, or two have the same id.
    """
    questions = [
        row if isinstance(row, Question) else read_question(row, index, image_folder) for index, row in enumerate(rows)
    ]
    seen: set[str] = set()
    for index, question in enumerate(questions):
        if question.id in seen:
            raise ValueError(f"row {index}: id={question.id!r} is taken by a row before it. Give each its own.")
        seen.add(question.id)
    answers = {answer.id: answer for answer in engine.answer(questions)}
    return [answers[question.id] for question in questions]


def read_question(row: Mapping[str, Any], index: int, image_folder: str | os.PathLike | None = None) -> Question:
    """A question from an object with its fields, or from a line of an original LLaVA question file.

    Args:
        row: The fields of `Question`, of which `image` may stand for one of `images`; or
            `{"question_id", "image", "text"}` as the original has it. A row without an id gets its number.
        index: Number of the row.
        image_folder: Where relative image paths start.

    Raises:
        ValueError: A field is unknown or missing, or an image path is not allowed.
    """
    names = {"question_id": "id", "text": "prompt", "image": "images"}
    fields = {names.get(name, name): value for name, value in row.items() if value is not None}
    if unknown := sorted(set(fields) - {*_FIELDS, "category"}):  # the original's files name a category
        raise ValueError(f"row {index} has unknown field(s) {unknown}; known are {list(_FIELDS)}.")
    fields.pop("category", None)
    images = fields.pop("images", [])
    images = images if isinstance(images, list | tuple) else [images]
    return Question(
        id=str(fields.pop("id", index)), images=resolve_images(images, image_folder, f"row {index}"), **fields
    )
