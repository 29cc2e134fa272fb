"""Rows to show, as the model reads them."""

import dataclasses
import os
from typing import Any

import numpy as np
from PIL import Image

from ...processing import LlavaProcessor
from ...rows.images import open_visual, resolve_images
from ...rows.schema import normalize_row, row_name
from ..collator import LlavaCollator
from .findings import ShownRow
from .shown_pictures import shown_picture
from .tokens import tokens_of

PICTURES = 4  # pictures shown of one row


class Spread:
    """Keeps `num_rows` rows of a stream of unknown length, spread evenly over it: at most twice as many on the way."""

    def __init__(self, num_rows: int):
        self.num_rows, self.kept, self.stride, self.seen = num_rows, [], 1, 0

    num_rows: int
    kept: list[tuple[int, Any]]

    def add(self, row: tuple[int, Any]) -> None:
        if self.num_rows and self.seen % self.stride == 0:
            self.kept.append(row)
            if len(self.kept) > 2 * self.num_rows:
                self.kept, self.stride = self.kept[::2], 2 * self.stride
        self.seen += 1

    def rows(self) -> list[tuple[int, Any]]:
        if len(self.kept) <= self.num_rows:
            return self.kept
        places = np.linspace(0, len(self.kept) - 1, self.num_rows).round().astype(int)
        return [self.kept[place] for place in places]


def shown_row(index: int, raw: Any, collator: LlavaCollator, image_folder: str | os.PathLike | None) -> ShownRow:
    processor = collator.processor
    row, name = normalize_row(raw, index), row_name(raw, index)
    resolved = resolve_images(row["images"], image_folder, name)
    images = [open_visual(image, name, processor.video_frames) for image in resolved]
    sizes = [image.size for image in images]
    encoded = collator.tokenize(row, name, sizes)
    shown = whole = dataclasses.replace(collator, max_length=None).tokenize(row, name, sizes)
    states = ["supervised" if flag else "read" for flag in encoded.assistant_mask]
    if whole.input_ids[: len(encoded)] == encoded.input_ids:
        states += ["cut"] * (len(whole) - len(encoded))
    else:  # the template writes a shorter conversation otherwise
        shown = encoded
    pictures = images[: min(encoded.num_images, PICTURES)]
    # Of several, or of frames, no text says which it means
    one = len(images) == 1 and isinstance(images[0], Image.Image)
    boxes = _boxes_in(row, processor, images[0].size[:2]) if one else []
    return ShownRow(
        index=index,
        id=row["id"],
        tokens=tokens_of(shown.input_ids, states, processor, shown.tokens_of_image),
        length=len(encoded),
        full_length=len(whole),
        supervised=sum(encoded.assistant_mask),
        num_images=encoded.num_images,
        pictures=[shown_picture(image, processor, boxes) for image in pictures],
    )


def _boxes_in(row: dict[str, Any], processor: LlavaProcessor, size: tuple[int, int]) -> list[list[float]]:
    """The boxes that questions and answers name, in pixels of the picture."""
    blocks = [block for message in row["messages"] for block in message["content"] if block["type"] == "text"]
    return [box for block in blocks for box in processor.boxes_in(block["text"], *size)]
