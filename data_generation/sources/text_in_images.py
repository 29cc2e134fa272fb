"""Reading text in images: OCR-VQA, TextVQA and TextCaps, from their official files."""

import os
import random
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from ...rows.answer_formats import short_answer
from ...rows.official_fields import field
from .academic_rows import Exchange, Row, image_path, merged_rows, most_frequent, read_official

OCRVQA_SPLITS = {"train": 1, "val": 2, "test": 3}
CAPTION_REQUEST = "Write a one-sentence caption for this image."


def ocrvqa_rows(dataset: str | os.PathLike, split: str = "train", image_pattern: str = "{id}.jpg") -> Iterator[Row]:
    """Rows of OCR-VQA (ICDAR 2019): book covers, some five questions each.

    Args:
        dataset: The official dataset.json.
        split: "train", "val" or "test".
        image_pattern: Path of the image of an id.

    Raises:
        ValueError: An unknown split, a file of another form, or a book whose questions and answers differ in number.
    """
    if split not in OCRVQA_SPLITS:
        raise ValueError(f"split={split!r} is unknown; choose one of {tuple(OCRVQA_SPLITS)}.")
    books = read_official(dataset, dict, "OCR-VQA's object of book id -> book")
    return merged_rows(_books(books, dataset, OCRVQA_SPLITS[split], image_pattern), "ocrvqa")


def _books(
    books: dict[str, Any], path: str | os.PathLike, split: int, pattern: str
) -> Iterator[tuple[str, int, Exchange]]:
    for book_id, book in books.items():
        if field(book, "split", path, book_id) != split:
            continue
        questions, answers = field(book, "questions", path, book_id), field(book, "answers", path, book_id)
        if len(questions) != len(answers):
            raise ValueError(f"{path}, book {book_id!r}: {len(questions)} questions, {len(answers)} answers. Drop it.")
        for question, answer in zip(questions, answers, strict=True):
            if str(answer).strip():
                yield image_path(pattern, book_id), 0, (short_answer(question), str(answer))


def textvqa_rows(
    annotations: str | os.PathLike, ocr_tokens: str | os.PathLike | None = None, image_pattern: str = "{id}.jpg"
) -> Iterator[Row]:
    """Rows of TextVQA (arXiv:1904.08920): the answer that most of the ten annotators gave.

    Args:
        annotations: TextVQA_0.5.1_train.json.
        ocr_tokens: TextVQA_Rosetta_OCR_v0.2_train.json; each question then names what an OCR system read.
        image_pattern: Path of the image of an id.

    Raises:
        ValueError: A file of another form, or an image that the OCR file does not have.
    """

    def exchanges() -> Iterator[tuple[str, int, Exchange]]:
        tokens = _ocr_lines(ocr_tokens)
        for number, entry in enumerate(read_official(annotations, list, "TextVQA's file with 'data'", "data")):
            image_id = field(entry, "image_id", annotations, number)
            question = field(entry, "question", annotations, number)
            answer = most_frequent(field(entry, "answers", annotations, number))
            if answer:
                question = short_answer(question + tokens(image_id))
                yield image_path(image_pattern, image_id), 0, (question, answer)

    return merged_rows(exchanges(), "textvqa")


def textcaps_rows(
    annotations: str | os.PathLike,
    ocr_tokens: str | os.PathLike | None = None,
    image_pattern: str = "{id}.jpg",
    seed: int = 0,
) -> Iterator[Row]:
    """Rows of TextCaps (arXiv:2003.12462): a caption an image, drawn from its five.

    Args:
        annotations: TextCaps_0.1_train.json.
        ocr_tokens: TextVQA_Rosetta_OCR_v0.2_train.json (the images are TextVQA's); the request then names what an OCR
            system read, as LLaVA-1.5 has it.
        image_pattern: Path of the image of an id.
        seed: Draws the caption.

    Raises:
        ValueError: A file of another form, or an image that the OCR file does not have.
    """

    def exchanges() -> Iterator[tuple[str, int, Exchange]]:
        tokens = _ocr_lines(ocr_tokens)
        captions: dict[str, list[str]] = defaultdict(list)
        for number, entry in enumerate(read_official(annotations, list, "TextCaps' file with 'data'", "data")):
            caption = field(entry, "caption_str", annotations, number)
            if caption.strip():
                captions[field(entry, "image_id", annotations, number)].append(caption)
        for image_id, texts in captions.items():
            caption = random.Random(f"{seed}/{image_id}").choice(texts)
            yield image_path(image_pattern, image_id), 0, (CAPTION_REQUEST + tokens(image_id), caption)

    return merged_rows(exchanges(), "textcaps")


def _ocr_lines(path: str | os.PathLike | None) -> Any:
    """A function from image id to the line that LLaVA-1.5 puts below a question, or to nothing without a file."""
    if path is None:
        return lambda image_id: ""
    tokens = {
        field(entry, "image_id", path, number): field(entry, "ocr_tokens", path, number)
        for number, entry in enumerate(read_official(path, list, "the Rosetta OCR file with 'data'", "data"))
    }

    def line(image_id: str) -> str:
        if image_id not in tokens:
            raise ValueError(f"{path} has no OCR tokens of image {image_id!r}. Name the file of the same split.")
        return f"\nReference OCR token: {', '.join(tokens[image_id])}" if tokens[image_id] else ""

    return line
