"""Rows to show: as the model reads them, and their pictures as the vision encoder gets them."""

import dataclasses
import os
from typing import Any

import numpy as np
import torch
from PIL import Image

from ...processing import LlavaProcessor
from ...rows.images import encoded_uri, open_image, resolve_images
from ...rows.schema import normalize_row, row_name
from ..batching import IGNORE_INDEX
from ..collator import LlavaCollator
from .findings import ShownRow
from .tokens import tokens_of

THUMBNAILS = 4  # pictures shown of one row


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
    ids, labels, num_images = collator.encode(row, name)
    whole, _, _ = dataclasses.replace(collator, max_length=None).encode(row, name)
    learnt = labels != IGNORE_INDEX
    states = ["supervised" if flag else "read" for flag in learnt.tolist()]
    if torch.equal(whole[: len(ids)], ids):  # else the template writes a shorter conversation otherwise
        ids_shown, states = whole.tolist(), states + ["cut"] * (len(whole) - len(ids))
    else:
        ids_shown = ids.tolist()
    images = resolve_images(row["images"], image_folder, name)[: min(num_images, THUMBNAILS)]
    return ShownRow(
        index=index,
        id=row["id"],
        tokens=tokens_of(ids_shown, states, processor),
        length=len(ids),
        full_length=len(whole),
        supervised=int(learnt.sum()),
        num_images=num_images,
        thumbnails=[as_seen(open_image(image, name), processor) for image in images],
    )


def as_seen(image: Image.Image, processor: LlavaProcessor) -> str:
    """An image as the vision encoder gets it, cropped or padded, resized, its normalisation undone: a data URI."""
    settings = processor.image_processor
    pixels = processor.process_images([image])["pixel_values"][0].float()  # (3, height, width)
    if settings.do_normalize:
        mean, deviation = (torch.tensor(value).view(-1, 1, 1) for value in (settings.image_mean, settings.image_std))
        pixels = pixels * deviation + mean
    if settings.do_rescale:
        pixels = pixels / settings.rescale_factor
    seen = Image.fromarray(pixels.round().clamp(0, 255).byte().permute(1, 2, 0).numpy())
    return encoded_uri(seen, "PNG" if max(seen.size) <= 64 else "JPEG", 85)
