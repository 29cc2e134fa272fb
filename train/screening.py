"""One look at every row before training: what can be used, how long it is, how much of it is supervised."""

import dataclasses
import os
from dataclasses import dataclass, field
from typing import Any

from datasets import Dataset

from ..rows.images import open_image, resolve_images
from ..rows.loading import report_skipped, without_decoding
from ..rows.schema import BadRow, Row, normalize_row, row_name
from .collator import IGNORE_INDEX, LlavaCollator


@dataclass
class RowCheck:
    """What one row is found to be.

    Args:
        problem: Why it cannot be used, or `None`.
        kind: The kind of that problem, a key of `BAD_ROW_KINDS`.
        length: Tokens after truncation, image tokens included; 0 for an unusable row.
        full_length: Tokens before truncation; 0 where that could not be counted.
        supervised: Supervised tokens after truncation; 0 for an unusable row.
        num_images: Images left after truncation.
        row: The normalised row; `None` where it could not be read as one.
        image_faults: For each image of the row the kind of its problem, or `None`.
    """

    problem: str | None = None
    kind: str | None = None
    length: int = 0
    full_length: int = 0
    supervised: int = 0
    num_images: int = 0
    row: Row | None = None
    image_faults: list[str | None] = field(default_factory=list)


def check_row(
    raw: Any,
    index: int,
    collator: LlavaCollator,
    *,
    image_folder: str | os.PathLike | None = None,
    decode_images: bool = False,
) -> RowCheck:
    """Read one row as training will, but for the pixels.

    Args:
        raw: A row of either format, or whatever stands in its place.
        index: Its position in the data.
        collator: The one that training will use; its `max_length` decides what is truncated or too long.
        image_folder: Where image paths start, when they have not been joined to their folder yet.
        decode_images: Read each image whole. Without it only headers and ends of files are read.

    Returns:
        The findings. All images are looked at, also those of a row that is unusable for another reason.
    """
    found = RowCheck()
    problems: list[BadRow] = []
    length = supervised = 0
    try:
        row = found.row = normalize_row(raw, index)
        name = row_name(raw, index)
        row["images"] = resolve_images(row["images"], image_folder, name)
        for image in row["images"]:
            try:
                open_image(image, name, decode=decode_images)
                found.image_faults.append(None)
            except BadRow as error:
                problems.append(error)
                found.image_faults.append(error.kind)
        ids, labels, found.num_images = dataclasses.replace(collator, max_length=None).encode(row, name)
        found.full_length = len(ids)
        if collator.max_length is not None and found.full_length > collator.max_length:
            ids, labels, found.num_images = collator.encode(row, name)
        length, supervised = len(ids), int((labels != IGNORE_INDEX).sum())
    except BadRow as error:
        problems.append(error)
    if problems:
        found.problem, found.kind = str(problems[0]), problems[0].kind
    else:
        found.length, found.supervised = length, supervised
    return found


@dataclass
class Screening:
    """What a pass over the rows found. The lists have an entry for each row of the data set, usable or not.

    Args:
        problems: Why a row cannot be used, or `None`.
        lengths: Tokens of each row after truncation, image tokens included; 0 for an unusable row.
        full_lengths: Tokens of each row before truncation; 0 where that could not be counted.
        supervised: Supervised tokens of each row.
        num_images: Images of each row.
    """

    problems: list[str | None] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    full_lengths: list[int] = field(default_factory=list)
    supervised: list[int] = field(default_factory=list)
    num_images: list[int] = field(default_factory=list)

    @property
    def usable(self) -> list[int]:
        """Positions of the rows that can be trained on."""
        return [position for position, problem in enumerate(self.problems) if problem is None]

    @property
    def truncated(self) -> list[int]:
        """Positions of the rows that lose turns to `max_length`."""
        pairs = enumerate(zip(self.lengths, self.full_lengths, strict=True))
        return [position for position, (length, full) in pairs if 0 < length < full]


def screen_rows(
    dataset: Dataset,
    collator: LlavaCollator,
    *,
    decode_images: bool = False,
    num_proc: int | None = None,
    description: str = "Checking rows",
) -> Screening:
    """Read every row as training will, but for the pixels.

    Args:
        dataset: Rows of either format.
        collator: The one that training will use; its `max_length` decides what is truncated or too long.
        decode_images: Read each image whole. Without it only headers and ends of files are read, which finds missing
            files, other files and nearly all truncated ones.
        num_proc: Processes that share the work.

    Returns:
        The findings, row by row.
    """

    def check(raw: dict[str, Any], index: int) -> dict[str, Any]:
        found = check_row(raw, index, collator, decode_images=decode_images)
        return {column: getattr(found, column) for column in columns}

    columns = ("problem", "length", "full_length", "supervised", "num_images")
    dataset = without_decoding(dataset)
    table = dataset.map(
        check,
        with_indices=True,
        remove_columns=dataset.column_names,
        keep_in_memory=True,
        load_from_cache_file=False,
        num_proc=num_proc,
        desc=description,
    )
    return Screening(
        problems=list(table["problem"]),
        lengths=list(table["length"]),
        full_lengths=list(table["full_length"]),
        supervised=list(table["supervised"]),
        num_images=list(table["num_images"]),
    )


def select_usable(dataset: Dataset, screening: Screening, on_bad_row: str) -> Dataset:
    """The rows that can be trained on.

    Raises:
        BadRow: There is an unusable row and `on_bad_row` is "error", or no row is usable.
    """
    problems = [problem for problem in screening.problems if problem is not None]
    if problems and on_bad_row == "error":
        more = f" {len(problems) - 1} more row(s) cannot be used either." if len(problems) > 1 else ""
        raise BadRow(f"{problems[0]}{more} --on_bad_row skip leaves such rows out; llavakit inspect lists them all.")
    report_skipped(problems)
    usable = screening.usable
    if not usable:
        raise BadRow(
            f"none of the {len(dataset)} rows can be used. The first: {problems[0] if problems else 'no rows'}"
        )
    return dataset if not problems else dataset.select(usable)
