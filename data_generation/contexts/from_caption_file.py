"""A folder of images, captioned in a table beside them (JSON lines or CSV), to contexts."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ...rows.bad_rows import BadAnnotation, BadAnnotations
from ...rows.files import read_table
from ..ids import UniqueIds
from .schema import Context, check_caption, finished


def contexts_from_caption_file(
    path: str | os.PathLike,
    image_folder: str | os.PathLike | None = None,
    image_column: str = "image",
    caption_column: str = "caption",
    bad: BadAnnotations | None = None,
) -> Iterator[Context]:
    """A context for each image; rows of the same image are its captions.

    Args:
        path: `.csv` (with a line of column names), `.jsonl`, `.json` or `.parquet`.
        image_folder: Where the images lie. Default: the folder of `path`.
        image_column: Holds an image's path, relative to that folder.
        caption_column: Holds a caption, or a list of captions.
        bad: What to do with a row that cannot be used. Default: stop.

    Yields:
        Contexts in the order in which images come first; the id is that of `image_id`.

    Raises:
        BadAnnotation: A row without image or caption, or of an image that is not in the folder.
        ValueError: The file has no such columns, or is of another form.
    """
    bad = bad or BadAnnotations()
    contexts: dict[str, Context] = {}
    ids = UniqueIds()
    for name, row in _rows(Path(path), (image_column, caption_column)):
        with bad.caught():
            image, captions = row.get(image_column), row.get(caption_column)
            if not isinstance(image, str) or not image.strip():
                raise BadAnnotation(f"{name}: {image_column} is {image!r}; write the image's path, or drop the row.")
            captions = captions if isinstance(captions, list) else [captions]
            checked = [check_caption(caption, name) for caption in captions]
            if image not in contexts:
                contexts[image] = {"id": ids.of_image(image), "image": image, "captions": [], "instances": []}
            contexts[image]["captions"] += checked
    yield from finished(contexts.values(), Path(path).parent if image_folder is None else image_folder, bad)


def _rows(path: Path, columns: tuple[str, str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Each row with a name for it."""
    for number, (name, row) in enumerate(read_table(path)):
        if number == 0:
            _check_columns(row, columns, path)
        yield name, row


def _check_columns(found: Any, columns: tuple[str, str], path: Path) -> None:
    missing = [column for column in columns if column not in found]
    if missing:
        raise ValueError(
            f"{path} has no column {missing[0]!r}, but {sorted(found)}. Name the columns by --image_column and "
            "--caption_column."
        )
