"""What a teacher is told of an image: other people's annotations in, contexts out."""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ...rows.bad_rows import BadAnnotations
from . import sources
from .schema import Context


@dataclass(frozen=True)
class ContextSource:
    """A form of annotations.

    Args:
        read: Contexts of what the flags name.
        help: Of the flag that chooses it.
        metavar: What that flag takes.
        flags: The further flags that belong to it; given with another source they are refused.
    """

    read: Callable[[argparse.Namespace, BadAnnotations], Iterator[Context]]
    help: str
    metavar: str = "FILE"
    flags: tuple[str, ...] = ()


# By the flag of `llavakit data contexts` that chooses it
CONTEXT_SOURCES: dict[str, ContextSource] = {
    "images": ContextSource(sources.images, "photographs without captions, sub-folders and all", "FOLDER"),
    "captions": ContextSource(sources.captions, "COCO captions file", flags=("instances",)),
    "caps_boxes": ContextSource(sources.caps_boxes, "contexts of the original's form, to be checked"),
    "regions": ContextSource(
        sources.regions, "Visual Genome's region_descriptions.json or region_graphs.json", flags=("image_data",)
    ),
    "caption_file": ContextSource(
        sources.caption_file,
        ".csv or .jsonl with a column of image paths and one of captions",
        flags=("image_column", "caption_column"),
    ),
    "dataset": ContextSource(
        sources.dataset,
        "Hub id, folder or file that `datasets` loads",
        "NAME",
        flags=("split", "image_column", "caption_column", "id_column", "objects_column", "box_format"),
    ),
}
