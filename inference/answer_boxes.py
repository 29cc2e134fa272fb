"""Where an answer points: its boxes and points in the picture, by the convention of the checkpoint that gave it."""

import os
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image

from ..reports.marked_pictures import Mark, coloured, in_words, marked
from ..reports.pictures import COLOURS
from ..rows.files import replacing
from ..rows.images import encoded_uri
from .conversation import Conversation

SHOWN_SIDE = 640  # pixels of the longer side on the page


def lines_of(answer: str, processor: Any, size: tuple[int, int]) -> list[str]:
    """What there is to say of the boxes in an answer, a line each: where it lies, or why it cannot be read.

    Args:
        answer: The text.
        processor: Of the checkpoint.
        size: Width and height of the picture.
    """
    return [
        f"{found.text}: {found.problem if found.box is None else in_words(found.box, size)}"
        for found in processor.read_boxes(answer, *size)
    ]


def save_marked(answer: str, processor: Any, image: Image.Image, path: str | os.PathLike) -> int:
    """Write the picture with the boxes of an answer drawn on it.

    Returns:
        How many there are; without any, nothing is written.

    Raises:
        ValueError: The name does not end as that of a picture.
        OSError: It cannot be written.
    """
    boxes = processor.boxes_in(answer, *image.size)
    if boxes:
        check_suffix(path)
        with replacing(path) as partial:
            marked(image, coloured(boxes)).save(partial, Image.registered_extensions()[Path(path).suffix.lower()])
    return len(boxes)


def check_suffix(path: str | os.PathLike) -> None:
    """Refuse a file whose name does not say which format of pictures it is to have.

    Raises:
        ValueError: Naming it.
    """
    if Path(path).suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        raise ValueError(f"--draw_boxes {path}: give a name that ends in .png, .jpg or .webp.")


def boxes_page(conversation: Conversation) -> str:
    """HTML: the picture with the boxes of the last answers, and a line each. Empty where there are none.

    With several models, each has a colour.
    """
    if conversation.picture is None:
        return ""
    image = conversation.picture.image
    marks: list[Mark] = []
    lines: list[str] = []
    for number, (named, turns) in enumerate(zip(conversation.models, conversation.histories, strict=True)):
        answer = turns[-1]["content"] if turns else ""
        boxes = [] if named.processor is None else named.processor.boxes_in(answer, *image.size)
        own = coloured(boxes) if len(conversation.models) == 1 else [(box, COLOURS[number]) for box in boxes]
        marks += own
        lines += [_line(box, colour, image.size) for box, colour in own]
    if not marks:
        return ""
    picture = marked(image, marks)
    picture.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
    shown = f'<img src="{encoded_uri(picture, "JPEG", 90)}" alt="The picture with the boxes of the last answer">'
    return f"<figure class='boxes'>{shown}<figcaption>{''.join(lines)}</figcaption></figure>"


def _line(box: Sequence[float], colour: str, size: tuple[int, int]) -> str:
    return f"<div><span style='background: {colour}'></span>{escape(in_words(box, size))}</div>"
