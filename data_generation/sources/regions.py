"""Regions and the words for them: RefCOCO, RefCOCO+, RefCOCOg and Visual Genome, from their official files.

Each region is asked about in one of two directions: its box is given and its description asked for, or the other way
round. Which, is drawn (arXiv:2310.03744, appendix A): both in one conversation would give the answer away.
"""

import logging
import os
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from ...processing.box_formats import BOX_FORMATS, write_box
from ...processing.image_geometry import clipped
from ...rows.answer_formats import locate
from ...rows.bad_rows import BadAnnotation
from ...rows.official_fields import field
from ...rows.plain_pickle import read_plain_pickle
from ..option_flags import option
from .academic_rows import COCO_2017, Exchange, OfficialRows, Row, image_path, merged_rows, read_official

logger = logging.getLogger(__name__)

DIRECTIONS = ("both", "describe", "locate")
# Of the conventions for boxes those that need no checkpoint to be written
BOXES = tuple(name for name, form in BOX_FORMATS.items() if form.box and form.of != "canvas")
FORMER_BOXES = {"padded": "llava", "image": "picture"}  # what the flag took before there were conventions
DESCRIBE = "Describe this region of the image in a few words: {box}"
MAX_EXCHANGES = 9  # LLaVA-1.5 keeps RefCOCO's conversations below ten

Box = Sequence[float]


@dataclass
class RefCOCORows(OfficialRows):
    """Rows of RefCOCO, RefCOCO+ (arXiv:1608.00272) or RefCOCOg (arXiv:1511.02283).

    An object has about three expressions. The first of each object makes a conversation, the second another, so that no
    conversation asks twice of one object.

    Raises:
        ValueError: An unknown option, files of another form, or a reference to a box that the instances lack.
    """

    refs: str | os.PathLike = option("the official refs(unc).p, refs(google).p or refs(umd).p")
    instances: str | os.PathLike = option("the instances.json beside it")
    split: str = option('as the references name it: "train", "val", "testA", ...', "train")
    image_pattern: str = option("path of the image of an id", COCO_2017)
    direction: str = option('"both" draws it for each expression; "describe" and "locate" ask one way only', "both")
    boxes: str = option(
        f"how boxes stand in the text, the box_format of the checkpoint to be trained: {', '.join(BOXES)}",
        "llava",
    )
    max_exchanges: int = option("longest conversation", MAX_EXCHANGES)
    seed: int = option("draws the directions", 0)

    def __iter__(self) -> Iterator[Row]:
        questions = _Questions(self.direction, self.boxes)
        references = _read_refs(self.refs)
        sizes = {
            image["id"]: image for image in read_official(self.instances, list, "RefCOCO's instances.json", "images")
        }
        objects = {
            each["id"]: each for each in read_official(self.instances, list, "RefCOCO's instances.json", "annotations")
        }
        known = sorted({str(each.get("split")) for each in references})
        if self.split not in known:
            raise ValueError(f"split={self.split!r} has no references in {self.refs}; it has {known}.")

        def expressions() -> Iterator[tuple[Any, dict[str, Any], dict[str, Any], int, Any]]:
            for each in references:
                if each["split"] != self.split:
                    continue
                with self.bad.caught():
                    name, annotation = each.get("ref_id"), objects.get(each.get("ann_id"))
                    image = sizes.get(each.get("image_id"))
                    if annotation is None or image is None:
                        raise BadAnnotation(
                            f"{self.refs}, reference {name!r}: its box or image is not in {self.instances}. Name its own "
                            "file."
                        )
                    for number, sentence in enumerate(field(each, "sentences", self.refs, name)):
                        yield name, annotation, image, number, sentence

        def exchanges() -> Iterator[tuple[str, int, Exchange]]:
            for name, annotation, image, number, sentence in expressions():
                with self.bad.caught():
                    draw = random.Random(f"{self.seed}/{name}/{number}")
                    text = str(sentence.get("raw") or field(sentence, "sent", self.refs, name))
                    size = (image["width"], image["height"])
                    for exchange in questions.ask(annotation["bbox"], text, size, draw):
                        yield image_path(self.image_pattern, image["id"]), number, exchange
            questions.report()

        return merged_rows(exchanges(), "refcoco", self.max_exchanges)


@dataclass
class VisualGenomeRows(OfficialRows):
    """Rows of Visual Genome's regions (arXiv:1602.07332).

    Raises:
        ValueError: An unknown option, files of another form, or regions of an image that the image data lack.
    """

    regions: str | os.PathLike = option("the official region_descriptions.json")
    image_data: str | os.PathLike = option(
        "the official image_data.json: sizes, and in which of the two folders an image is",
    )
    max_regions: int = option(
        "regions drawn of an image that has more; 10 in LLaVA-1.5 (arXiv:2310.03744, appendix A)",
        10,
    )
    direction: str = option('"both" draws it for each region; "describe" and "locate" ask one way only', "both")
    boxes: str = option(
        f"how boxes stand in the text, the box_format of the checkpoint to be trained: {', '.join(BOXES)}",
        "llava",
    )
    seed: int = option("draws the regions and the directions", 0)

    def __iter__(self) -> Iterator[Row]:
        questions = _Questions(self.direction, self.boxes)
        if self.max_regions < 1:
            raise ValueError(f"max_regions={self.max_regions} must be at least 1.")
        images = {
            each["image_id"]: each for each in read_official(self.image_data, list, "Visual Genome's image_data.json")
        }
        entries = read_official(self.regions, list, "Visual Genome's region_descriptions.json")

        def drawn() -> Iterator[tuple[dict[str, Any], random.Random, Any]]:
            for number, entry in enumerate(entries):
                with self.bad.caught():
                    image_id, found = (field(entry, name, self.regions, number) for name in ("id", "regions"))
                    if image_id not in images:
                        raise BadAnnotation(
                            f"{self.regions}: image {image_id!r} is not in {self.image_data}. Name files of one release."
                        )
                    draw = random.Random(f"{self.seed}/{image_id}")
                    for region in draw.sample(found, min(self.max_regions, len(found))):
                        yield images[image_id], draw, region

        def exchanges() -> Iterator[tuple[str, int, Exchange]]:
            for image, draw, region in drawn():
                with self.bad.caught():
                    name = image["image_id"]
                    bbox = [field(region, side, self.regions, name) for side in ("x", "y", "width", "height")]
                    text = field(region, "phrase", self.regions, name)
                    path = str(PurePosixPath(*PurePosixPath(image["url"]).parts[-2:]))  # VG_100K/2.jpg
                    for exchange in questions.ask(bbox, text, (image["width"], image["height"]), draw):
                        yield path, 0, exchange
            questions.report()

        return merged_rows(exchanges(), "visual_genome")


def box_text(bbox: Box, size: tuple[int, int], boxes: str = "llava") -> str | None:
    """A box as text.

    Args:
        bbox: [x, y, width, height] in pixels.
        size: Width and height of the image in pixels.
        boxes: One of `BOXES`; see `BOX_FORMATS`.

    Returns:
        The text; None for a box without area inside the image.
    """
    x, y, width, height = bbox
    corners = clipped([x, y, x + width, y + height], *size)
    return None if corners is None else write_box(corners, boxes, *size)


class _Questions:
    """Asks about regions in the direction and box form chosen; counts those that cannot be asked about."""

    def __init__(self, direction: str, boxes: str):
        boxes = FORMER_BOXES.get(boxes, boxes)
        for name, value, known in (("direction", direction, DIRECTIONS), ("boxes", boxes, BOXES)):
            if value not in known:
                raise ValueError(f"{name}={value!r} is unknown; choose one of {known}.")
        self.direction, self.boxes, self.left_out = direction, boxes, 0

    def ask(self, bbox: Box, text: str, size: tuple[int, int], draw: random.Random) -> Iterator[Exchange]:
        """The question and its answer; nothing for a region without words or area."""
        box, text = box_text(bbox, size, self.boxes), text.strip()
        direction = draw.choice(DIRECTIONS[1:]) if self.direction == "both" else self.direction
        if box is None or not text:
            self.left_out += 1
        elif direction == "describe":
            yield DESCRIBE.format(box=box), text
        else:
            yield locate(text), box

    def report(self) -> None:
        if self.left_out:
            logger.warning("%d region(s) left out, without words or without area inside the image", self.left_out)


def _read_refs(path: str | os.PathLike) -> list[dict[str, Any]]:
    references = read_plain_pickle(path)
    if not isinstance(references, list) or not all(isinstance(each, dict) and "split" in each for each in references):
        raise ValueError(f"{path} is not RefCOCO's list of references. Name the official refs(...).p.")
    return references
