"""The check before any GPU is rented: every row read as training reads it, every image decoded."""

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from ...rows.schema import BAD_ROW_KINDS, IMAGE_PLACEHOLDER, row_name
from ..collator import LlavaCollator
from .findings import Inspection, Listing
from .lengths import lengths_of
from .reading import RowReader, read_rows
from .shown_rows import Spread, shown_row

LITERAL_IMAGES = (
    f"{{rows:,}} row(s) write {IMAGE_PLACEHOLDER!r} inside a string 'content'. There it is text, which the model would read "
    "letter by letter. In 'messages' the place of an image is a block, {{'type': 'image'}}; without one the images stand "
    "before the first question. Take the letters out, or write these rows with 'conversations', where they are the "
    "placeholder."
)


def inspect_rows(
    rows: Iterable[Any],
    collator: LlavaCollator,
    *,
    image_folder: str | os.PathLike | None = None,
    num_rows: int = 8,
    num_proc: int | None = None,
) -> Inspection:
    """Read every row as training will, pixels included.

    Args:
        rows: Rows of either format as they stand in their file, good and bad. They are read once, a few ahead.
        collator: The one that training will use.
        image_folder: Where image paths start. Where it is given, no path may leave it.
        num_rows: Usable rows to show, spread evenly.
        num_proc: Processes that share the work; `None` or 1 works in this one.

    Returns:
        The findings.

    Raises:
        ValueError: An argument out of range, or a chat template that does not say what is supervised.
    """
    _check_ranges(max_length=(collator.max_length, 1), num_proc=(num_proc, 1), num_rows=(num_rows, 0))
    processor = collator.processor
    # What is wrong with the template itself, and so with every row, is an error here
    processor.encode_conversation([{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}])

    by_size = not (processor.layout.single_view or processor.view.of_image)
    found = Inspection(collator.max_length, processor.num_image_tokens, processor.image_size, by_size)
    spread, lengths, by_images = Spread(num_rows), [], Counter[int]()
    images: set[bytes] = set()
    faulty: dict[str, set[bytes]] = {}
    for index, (raw, read) in enumerate(read_rows(rows, RowReader(collator, image_folder), num_proc)):
        found.num_rows += 1
        check = read.check
        if read.turns is not None:
            found.num_readable += 1
            found.num_turns += read.turns
            found.num_images += len(read.images)
            found.num_text_only += not read.images
            by_images[len(read.images)] += 1
            images.update(read.images)
        for image, fault in zip(read.images, check.image_faults, strict=False):  # no faults where paths were refused
            if fault is not None:
                faulty.setdefault(fault, set()).add(image)
        if check.full_length:
            lengths.append(check.full_length)
        if read.literal_image:
            found.literal_images.add(index, raw, f"{IMAGE_PLACEHOLDER!r} is text in a string content")
        if check.problem is not None:
            name = row_name(raw, index) if isinstance(raw, Mapping) else f"row {index}"
            reason = check.problem.removeprefix(name)
            found.unusable.setdefault(check.kind or "format", Listing()).add(index, raw, reason.lstrip(":, "))
            continue
        found.num_usable += 1
        found.num_tokens += check.length
        found.num_supervised += check.supervised
        if check.length < check.full_length:
            found.truncated.add(index, raw, f"{check.full_length:,} tokens, cut to {check.length:,}")
        spread.add((index, raw))

    found.num_distinct_images = len(images)
    found.image_faults = {kind: len(faulty[kind]) for kind in BAD_ROW_KINDS if kind in faulty}
    found.rows_by_images = dict(sorted(by_images.items()))
    found.unusable = {kind: found.unusable[kind] for kind in BAD_ROW_KINDS if kind in found.unusable}
    found.lengths = lengths_of(lengths)
    if found.literal_images.count:
        found.warnings.append(LITERAL_IMAGES.format(rows=found.literal_images.count))
    found.shown = [shown_row(index, raw, collator, image_folder) for index, raw in spread.rows()]
    return found


def _check_ranges(**arguments: tuple[int | None, int]) -> None:
    """Raise for a value below its least."""
    for name, (value, least) in arguments.items():
        if value is not None and value < least:
            raise ValueError(f"{name}={value} is out of range; the least is {least}.")
