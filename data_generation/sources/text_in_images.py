"""Reading text in images: OCR-VQA, TextVQA and TextCaps, from their official files."""

import os
import random
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ...rows.answer_formats import short_answer
from ...rows.bad_rows import BadAnnotation, BadAnnotations
from ...rows.official_fields import field
from ..option_flags import option
from .academic_rows import Exchange, OfficialRows, Row, image_path, merged_rows, most_frequent, read_official

OCRVQA_SPLITS = {"train": 1, "val": 2, "test": 3}
CAPTION_REQUEST = "Write a one-sentence caption for this image."


@dataclass
class OCRVQARows(OfficialRows):
    """Rows of OCR-VQA (ICDAR 2019): book covers, some five questions each.

    Raises:
        ValueError: An unknown split, a file of another form, or a book whose questions and answers differ in number.
    """

    dataset: str | os.PathLike = option("the official dataset.json")
    split: str = option('"train", "val" or "test"', "train")
    image_pattern: str = option("path of the image of an id", "{id}.jpg")

    def __iter__(self) -> Iterator[Row]:
        if self.split not in OCRVQA_SPLITS:
            raise ValueError(f"split={self.split!r} is unknown; choose one of {tuple(OCRVQA_SPLITS)}.")
        books = read_official(self.dataset, dict, "OCR-VQA's object of book id -> book")
        return merged_rows(self._exchanges(books), "ocrvqa")

    def _exchanges(self, books: dict[str, Any]) -> Iterator[tuple[str, int, Exchange]]:
        for book_id, book in books.items():
            with self.bad.caught():
                if field(book, "split", self.dataset, book_id) != OCRVQA_SPLITS[self.split]:
                    continue
                questions, answers = (field(book, name, self.dataset, book_id) for name in ("questions", "answers"))
                if len(questions) != len(answers):
                    raise BadAnnotation(
                        f"{self.dataset}, book {book_id!r}: {len(questions)} questions, {len(answers)} answers. Drop it."
                    )
                for question, answer in zip(questions, answers, strict=True):
                    if str(answer).strip():
                        yield image_path(self.image_pattern, book_id), 0, (short_answer(question), str(answer))


@dataclass
class TextVQARows(OfficialRows):
    """Rows of TextVQA (arXiv:1904.08920): the answer that most of the ten annotators gave.

    Raises:
        ValueError: A file of another form, or an image that the OCR file does not have.
    """

    annotations: str | os.PathLike = option("TextVQA_0.5.1_train.json")
    ocr_tokens: str | os.PathLike | None = option(
        "TextVQA_Rosetta_OCR_v0.2_train.json; each question then names what an OCR system read",
        None,
    )
    image_pattern: str = option("path of the image of an id", "{id}.jpg")

    def __iter__(self) -> Iterator[Row]:

        def exchanges() -> Iterator[tuple[str, int, Exchange]]:
            tokens = _ocr_lines(self.ocr_tokens, self.bad)
            for number, entry in enumerate(
                read_official(self.annotations, list, "TextVQA's file with 'data'", "data")
            ):
                with self.bad.caught():
                    image_id = field(entry, "image_id", self.annotations, number)
                    question = field(entry, "question", self.annotations, number)
                    answer = most_frequent(field(entry, "answers", self.annotations, number))
                    if answer:
                        question = short_answer(question + tokens(image_id))
                        yield image_path(self.image_pattern, image_id), 0, (question, answer)

        return merged_rows(exchanges(), "textvqa")


@dataclass
class TextCapsRows(OfficialRows):
    """Rows of TextCaps (arXiv:2003.12462): a caption an image, drawn from its five.

    Raises:
        ValueError: A file of another form, or an image that the OCR file does not have.
    """

    annotations: str | os.PathLike = option("TextCaps_0.1_train.json")
    ocr_tokens: str | os.PathLike | None = option(
        "TextVQA_Rosetta_OCR_v0.2_train.json (the images are TextVQA's); the request then names what an OCR "
        "system read, as LLaVA-1.5 has it",
        None,
    )
    image_pattern: str = option("path of the image of an id", "{id}.jpg")
    seed: int = option("draws the caption", 0)

    def __iter__(self) -> Iterator[Row]:

        def exchanges() -> Iterator[tuple[str, int, Exchange]]:
            tokens = _ocr_lines(self.ocr_tokens, self.bad)
            captions: dict[str, list[str]] = defaultdict(list)
            for number, entry in enumerate(
                read_official(self.annotations, list, "TextCaps' file with 'data'", "data")
            ):
                with self.bad.caught():
                    caption = field(entry, "caption_str", self.annotations, number)
                    if caption.strip():
                        captions[field(entry, "image_id", self.annotations, number)].append(caption)
            for image_id, texts in captions.items():
                caption = random.Random(f"{self.seed}/{image_id}").choice(texts)
                with self.bad.caught():
                    yield image_path(self.image_pattern, image_id), 0, (CAPTION_REQUEST + tokens(image_id), caption)

        return merged_rows(exchanges(), "textcaps")


def _ocr_lines(path: str | os.PathLike | None, bad: BadAnnotations) -> Any:
    """A function from image id to the line that LLaVA-1.5 puts below a question, or to nothing without a file."""
    if path is None:
        return lambda image_id: ""
    tokens = {}
    for number, entry in enumerate(read_official(path, list, "the Rosetta OCR file with 'data'", "data")):
        with bad.caught():
            tokens[field(entry, "image_id", path, number)] = field(entry, "ocr_tokens", path, number)

    def line(image_id: str) -> str:
        if image_id not in tokens:
            raise BadAnnotation(f"{path} has no OCR tokens of image {image_id!r}. Name the file of the same split.")
        return f"\nReference OCR token: {', '.join(tokens[image_id])}" if tokens[image_id] else ""

    return line
