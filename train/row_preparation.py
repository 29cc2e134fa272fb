"""One row made ready for training: read, checked and tokenized, all but the pixels of its pictures."""

import dataclasses
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ..rows.images import open_visual, resolve_images, visual_size
from ..rows.schema import BadRow, Row, normalize_row, row_name
from .collator import LlavaCollator

if TYPE_CHECKING:
    from ..processing.chat_encoding import Encoded


@dataclass
class PreparedRow:
    """What one row is found to be, and what it becomes.

    Args:
        problem: Why it cannot be used, or `None`.
        kind: The kind of that problem, a key of `BAD_ROW_KINDS`.
        length: Tokens after truncation, image tokens included; 0 for an unusable row.
        full_length: Tokens before truncation; 0 where that could not be counted.
        supervised: Supervised tokens after truncation; 0 for an unusable row.
        num_images: Images left after truncation.
        row: The normalised row; `None` where it could not be read as one.
        image_faults: For each image of the row the kind of its problem, or `None`.
        image_sizes: Width and height of each image, upright, and of a video how many frames are taken; (0, 0) for one at
            fault.
        input_ids: Shape (length,), image tokens in their places; empty for an unusable row.
        supervised_spans: Where supervised tokens start and end, by turns: [start, end, start, end, ...].
    """

    problem: str | None = None
    kind: str | None = None
    length: int = 0
    full_length: int = 0
    supervised: int = 0
    num_images: int = 0
    row: Row | None = None
    image_faults: list[str | None] = field(default_factory=list)
    image_sizes: list[tuple[int, ...]] = field(default_factory=list)
    input_ids: list[int] = field(default_factory=list)
    supervised_spans: list[int] = field(default_factory=list)


def prepare_row(
    raw: Any,
    index: int,
    collator: LlavaCollator,
    *,
    image_folder: str | os.PathLike | None = None,
    decode_images: bool = False,
    canonical: bool = False,
) -> PreparedRow:
    """Read, check and tokenize one row.

    Args:
        raw: A row of either format, or whatever stands in its place.
        index: Its position in the data.
        collator: The one that training will use; its `max_length` decides what is truncated or too long.
        image_folder: Where image paths start, when they have not been joined to their folder yet.
        decode_images: Read each image whole. Without it only headers and ends of files are read, which finds missing
            files, other files and nearly all truncated ones; of a video all packets, and its first frame.
        canonical: The row is as `load_conversations` returns it: read and checked already, but for its pictures.

    Returns:
        The findings. All images are looked at, also those of a row that is unusable for another reason.
    """
    found = PreparedRow()
    problems: list[BadRow] = []
    encoded: Encoded | None = None
    try:
        row = found.row = dict(raw) if canonical and not raw.get("videos") else normalize_row(raw, index)
        name = row_name(raw, index)
        row["images"] = resolve_images(row["images"], image_folder, name)
        video_frames = collator.processor.video_frames
        for image in row["images"]:
            try:
                size: tuple[int, ...] = (
                    open_visual(image, name, video_frames).size
                    if decode_images
                    else visual_size(image, name, video_frames)
                )
                fault = None
            except BadRow as error:
                problems.append(error)
                size, fault = (0, 0), error.kind
            found.image_sizes.append(size)
            found.image_faults.append(fault)
        if problems and not collator.processor.layout.single_view:
            raise problems[0]  # how many tokens an image takes cannot be told without its size
        encoded = dataclasses.replace(collator, max_length=None).tokenize(row, name, found.image_sizes)
        found.full_length = len(encoded)
        if collator.max_length is not None and found.full_length > collator.max_length:
            encoded = collator.tokenize(row, name, found.image_sizes)
        found.num_images = encoded.num_images
    except BadRow as error:
        problems.append(error)
    if problems:
        found.problem, found.kind = str(problems[0]), problems[0].kind
    elif encoded is not None:
        found.length, found.input_ids = len(encoded), encoded.input_ids
        found.supervised_spans = _spans(encoded.assistant_mask)
        found.supervised = sum(encoded.assistant_mask)
    return found


def _spans(mask: list[int]) -> list[int]:
    """Where runs of ones start and end, by turns."""
    changes = np.diff(np.array([0, *mask, 0], dtype=np.int8))
    return np.flatnonzero(changes).tolist()
