"""Questions about COCO's and Visual Genome's photographs: VQAv2, OK-VQA, A-OKVQA and GQA, from their official files."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ...rows.answer_formats import LETTERS, lettered, short_answer
from ...rows.bad_rows import BadAnnotation, BadAnnotations
from ...rows.official_fields import field
from ..option_flags import option
from .academic_rows import (
    COCO_2017,
    Exchange,
    OfficialRows,
    Row,
    image_path,
    merged_rows,
    most_frequent,
    read_official,
)

ANSWER_FORMS = ("letter", "short", "both")


@dataclass
class VQAv2Rows(OfficialRows):
    """Rows of VQAv2 (arXiv:1612.00837): the answer is the official `multiple_choice_answer`, the most frequent one.

    Raises:
        ValueError: A file of another form, or an annotation whose question is missing.
    """

    questions: str | os.PathLike = option("v2_OpenEnded_mscoco_train2014_questions.json")
    annotations: str | os.PathLike = option("v2_mscoco_train2014_annotations.json")
    image_pattern: str = option("path of the image of an id", COCO_2017)

    def __iter__(self) -> Iterator[Row]:
        return merged_rows(_annotated(self.questions, self.annotations, self.image_pattern, self.bad), "vqav2")


@dataclass
class OKVQARows(OfficialRows):
    """Rows of OK-VQA (arXiv:1906.00067): the answer that most of the ten annotators gave.

    Raises:
        ValueError: A file of another form, or an annotation whose question is missing.
    """

    questions: str | os.PathLike = option("OpenEnded_mscoco_train2014_questions.json")
    annotations: str | os.PathLike = option("mscoco_train2014_annotations.json")
    image_pattern: str = option("path of the image of an id", COCO_2017)

    def __iter__(self) -> Iterator[Row]:
        return merged_rows(_annotated(self.questions, self.annotations, self.image_pattern, self.bad), "okvqa")


def _annotated(
    questions: str | os.PathLike, annotations: str | os.PathLike, pattern: str, bad: BadAnnotations
) -> Iterator[tuple[str, int, Exchange]]:
    texts = {}
    for number, entry in enumerate(read_official(questions, list, "a file of VQA questions", "questions")):
        with bad.caught():
            texts[field(entry, "question_id", questions, number)] = field(entry, "question", questions, number)
    for number, entry in enumerate(read_official(annotations, list, "a file of VQA annotations", "annotations")):
        with bad.caught():
            question_id = field(entry, "question_id", annotations, number)
            if question_id not in texts:
                raise BadAnnotation(
                    f"{annotations}: the answers to question {question_id!r} have no question in {questions}. Name files "
                    "of the same split."
                )
            answer = entry.get("multiple_choice_answer") or most_frequent(
                field(each, "answer", annotations, question_id) for each in entry.get("answers", [])
            )
            if answer:
                path = image_path(pattern, field(entry, "image_id", annotations, number))
                yield path, 0, (short_answer(texts[question_id]), answer)


@dataclass
class AOKVQARows(OfficialRows):
    """Rows of A-OKVQA (arXiv:2206.01718).

    As in LLaVA-1.5 (arXiv:2310.03744, appendix A) a multiple-choice question comes as often as it has choices. Here the
    choices go round by one each time, so that every letter is right once; each time is in a row of its own.

    Raises:
        ValueError: An unknown `answer_form`, a file of another form, or a right choice that is none.
    """

    annotations: str | os.PathLike = option("aokvqa_v1p0_train.json")
    image_pattern: str = option("path of the image of an id", COCO_2017)
    answer_form: str = option(
        '"letter" for multiple choice, "short" for the most frequent of the direct answers, or "both"',
        "letter",
    )

    def __iter__(self) -> Iterator[Row]:
        if self.answer_form not in ANSWER_FORMS:
            raise ValueError(f"answer_form={self.answer_form!r} is unknown; choose one of {ANSWER_FORMS}.")
        entries = read_official(self.annotations, list, "A-OKVQA's list of questions")
        return merged_rows(self._exchanges(entries), "aokvqa")

    def _exchanges(self, entries: list[Any]) -> Iterator[tuple[str, int, Exchange]]:
        for number, entry in enumerate(entries):
            with self.bad.caught():
                name = field(entry, "question_id", self.annotations, number)
                image = image_path(self.image_pattern, field(entry, "image_id", self.annotations, name))
                question = field(entry, "question", self.annotations, name)
                lettered_ones = (
                    [] if self.answer_form == "short" else _by_letter(entry, self.annotations, name, question)
                )
                if self.answer_form != "letter":
                    answer = most_frequent(field(entry, "direct_answers", self.annotations, name))
                    if answer:
                        yield image, 0, (short_answer(question), answer)
                for round, exchange in enumerate(lettered_ones, start=1):  # round 0 is the short answers'
                    yield image, round, exchange


def _by_letter(entry: dict[str, Any], path: str | os.PathLike, name: Any, question: str) -> list[Exchange]:
    """The question with its choices, as often as there are choices, the right one under another letter each time."""
    choices, right = field(entry, "choices", path, name), field(entry, "correct_choice_idx", path, name)
    if not 0 <= right < len(choices) <= len(LETTERS):
        raise BadAnnotation(
            f"{path}, entry {name!r}: choice {right} is none of its {len(choices)} choices. Correct the entry or drop it."
        )
    return [
        (lettered(question, choices[turn:] + choices[:turn]), LETTERS[(right - turn) % len(choices)])
        for turn in range(len(choices))
    ]


@dataclass
class GQARows(OfficialRows):
    """Rows of GQA (arXiv:1902.09506), with its short answers.

    Raises:
        ValueError: A file of another form, such as that of the test questions, which have no answers.
    """

    questions: str | os.PathLike = option("train_balanced_questions.json")
    image_pattern: str = option("path of the image of an id", "{id}.jpg")

    def __iter__(self) -> Iterator[Row]:
        entries = read_official(self.questions, dict, "GQA's object of question id -> question")
        return merged_rows(self.bad.map(lambda item: self._exchange(*item), entries.items()), "gqa")

    def _exchange(self, key: str, entry: Any) -> tuple[str, int, Exchange]:
        question, answer = (field(entry, name, self.questions, key) for name in ("question", "answer"))
        image = image_path(self.image_pattern, field(entry, "imageId", self.questions, key))
        return image, 0, (short_answer(question), answer)
