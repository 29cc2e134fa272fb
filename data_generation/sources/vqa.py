"""Questions about COCO's and Visual Genome's photographs: VQAv2, OK-VQA, A-OKVQA and GQA, from their official files."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ...rows.answer_formats import LETTERS, lettered, short_answer
from ...rows.official_fields import field
from ..option_flags import option
from .academic_rows import COCO_2017, Exchange, Row, image_path, merged_rows, most_frequent, read_official

ANSWER_FORMS = ("letter", "short", "both")


@dataclass
class VQAv2Rows:
    """Rows of VQAv2 (arXiv:1612.00837): the answer is the official `multiple_choice_answer`, the most frequent one.

    Raises:
        ValueError: A file of another form, or an annotation whose question is missing.
    """

    questions: str | os.PathLike = option("v2_OpenEnded_mscoco_train2014_questions.json")
    annotations: str | os.PathLike = option("v2_mscoco_train2014_annotations.json")
    image_pattern: str = option("path of the image of an id", COCO_2017)

    def __iter__(self) -> Iterator[Row]:
        return merged_rows(_annotated(self.questions, self.annotations, self.image_pattern), "vqav2")


@dataclass
class OKVQARows:
    """Rows of OK-VQA (arXiv:1906.00067): the answer that most of the ten annotators gave.

    Raises:
        ValueError: A file of another form, or an annotation whose question is missing.
    """

    questions: str | os.PathLike = option("OpenEnded_mscoco_train2014_questions.json")
    annotations: str | os.PathLike = option("mscoco_train2014_annotations.json")
    image_pattern: str = option("path of the image of an id", COCO_2017)

    def __iter__(self) -> Iterator[Row]:
        return merged_rows(_annotated(self.questions, self.annotations, self.image_pattern), "okvqa")


def _annotated(
    questions: str | os.PathLike, annotations: str | os.PathLike, pattern: str
) -> Iterator[tuple[str, int, Exchange]]:
    texts = {}
    for number, entry in enumerate(read_official(questions, list, "a file of VQA questions", "questions")):
        texts[field(entry, "question_id", questions, number)] = field(entry, "question", questions, number)
    for number, entry in enumerate(read_official(annotations, list, "a file of VQA annotations", "annotations")):
        question_id = field(entry, "question_id", annotations, number)
        if question_id not in texts:
            raise ValueError(
                f"{annotations}: the answers to question {question_id!r} have no question in {questions}. Name files of "
                "the same split."
            )
        answer = entry.get("multiple_choice_answer") or most_frequent(
            field(each, "answer", annotations, question_id) for each in entry.get("answers", [])
        )
        if answer:
            path = image_path(pattern, field(entry, "image_id", annotations, number))
            yield path, 0, (short_answer(texts[question_id]), answer)


@dataclass
class AOKVQARows:
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
        return merged_rows(_aokvqa(entries, self.annotations, self.image_pattern, self.answer_form), "aokvqa")


def _aokvqa(
    entries: list[Any], path: str | os.PathLike, pattern: str, answer_form: str
) -> Iterator[tuple[str, int, Exchange]]:
    for number, entry in enumerate(entries):
        name = field(entry, "question_id", path, number)
        image = image_path(pattern, field(entry, "image_id", path, name))
        question = field(entry, "question", path, name)
        if answer_form != "letter":
            answer = most_frequent(field(entry, "direct_answers", path, name))
            if answer:
                yield image, 0, (short_answer(question), answer)
        if answer_form != "short":
            choices, right = field(entry, "choices", path, name), field(entry, "correct_choice_idx", path, name)
            if not 0 <= right < len(choices) <= len(LETTERS):
                raise ValueError(f"{path}, entry {name!r}: choice {right} is none of its {len(choices)} choices.")
            for turn in range(len(choices)):
                rotated = choices[turn:] + choices[:turn]
                letter = LETTERS[(right - turn) % len(choices)]
                # Round 0 is the short answers'
                yield image, turn + 1, (lettered(question, rotated), letter)


@dataclass
class GQARows:
    """Rows of GQA (arXiv:1902.09506), with its short answers.

    Raises:
        ValueError: A file of another form, such as that of the test questions, which have no answers.
    """

    questions: str | os.PathLike = option("train_balanced_questions.json")
    image_pattern: str = option("path of the image of an id", "{id}.jpg")

    def __iter__(self) -> Iterator[Row]:
        entries = read_official(self.questions, dict, "GQA's object of question id -> question")
        return merged_rows(
            (
                (
                    image_path(self.image_pattern, field(entry, "imageId", self.questions, key)),
                    0,
                    (
                        short_answer(field(entry, "question", self.questions, key)),
                        field(entry, "answer", self.questions, key),
                    ),
                )
                for key, entry in entries.items()
            ),
            "gqa",
        )
