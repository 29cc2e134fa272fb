"""A picture for a page: scaled down, embedded, and where on it each box and each label is drawn."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..rows.images import encoded_uri, open_image, resolve_images
from ..rows.schema import BadRow

STORED_SIDE = 640  # pixels of the longer side as embedded
SHOWN_SIDE = 440  # CSS pixels of the longer side on a wide screen
LABEL_HEIGHT, CHARACTER_WIDTH, LABEL_PADDING = 16, 7.0, 8  # CSS pixels of a label in the page's 11 px bold
# Dark enough for white letters; a category has the colour of its first appearance in the picture
COLOURS = (
    "#c2410c",
    "#1769c0",
    "#15803d",
    "#9333ea",
    "#b0195b",
    "#0b7285",
    "#8f5a06",
    "#4a55c8",
    "#7c2d12",
    "#48545f",
)


class NoPicture(ValueError):
    """An image that cannot be shown. The message says which and why."""


@dataclass
class DrawnBox:
    """A box over the picture.

    Args:
        left, top, width, height: In per cent of the picture's width and height.
        text: Category and corners, as the teacher reads them.
        label: What stands at the box; empty where there is no free place for it.
        label_left, label_top: Of the label's top left corner, in per cent of the picture.
        from_answer: The answer names this box, not the annotation.
    """

    left: float
    top: float
    width: float
    height: float
    text: str
    colour: str
    label: str = ""
    label_left: float = 0.0
    label_top: float = 0.0
    from_answer: bool = False


@dataclass
class Picture:
    """An embedded image: a data URI and its width on the page, in CSS pixels."""

    uri: str
    width: int
    height: int


def embed(source: Any, image_folder: Path) -> Picture:
    """Scale an image down and turn it into a data URI, upright as its EXIF tag says.

    Args:
        source: A path inside the folder, or `{"bytes": ..., "path": ...}` as `datasets` stores an image.
        image_folder: Where relative paths start.

    Raises:
        NoPicture: The image is missing, unreadable or outside the folder.
    """
    try:
        # A page is passed on: rows must not pull other files into it
        (inside,) = resolve_images([source], image_folder, "the picture")
        upright = open_image(inside, "the picture")
    except BadRow as error:
        raise NoPicture(str(error)) from error
    upright.thumbnail((STORED_SIDE, STORED_SIDE))
    scale = SHOWN_SIDE / max(upright.size)
    width, height = (max(1, round(side * scale)) for side in upright.size)
    return Picture(encoded_uri(upright, "JPEG", 82), width, height)


def draw_boxes(
    instances: Iterable[Mapping[str, Any]], answer_boxes: Iterable[list[float]], picture: Picture | None
) -> list[DrawnBox]:
    """Place boxes and labels on a picture.

    Args:
        instances: `{"category", "bbox"}` of the context; corners as shares of the image, [left, top, right, bottom].
        answer_boxes: Corners that the answer names.
        picture: Decides where labels fit. Without one there are none.

    Returns:
        The boxes, those of the annotation first. No label covers another.
    """
    colours: dict[str, str] = {}
    boxes = []
    for instance in instances:
        category, corners = str(instance["category"]), list(instance["bbox"])
        colour = colours.setdefault(category, COLOURS[len(colours) % len(COLOURS)])
        boxes.append(DrawnBox(*_place(corners), f"{category}: {corners}", colour, label=category))
    for corners in answer_boxes:
        boxes.append(DrawnBox(*_place(corners), f"in the answer: {corners}", "#ffffff", from_answer=True))
    _place_labels(boxes, picture)
    return boxes


def _place(corners: list[float]) -> tuple[float, float, float, float]:
    left, top, right, bottom = (100 * corner for corner in corners)
    return round(left, 4), round(top, 4), round(right - left, 4), round(bottom - top, 4)


def _place_labels(boxes: list[DrawnBox], picture: Picture | None) -> None:
    """Give each label the first free place at its box: small boxes first, since a large one has more places."""
    taken: list[tuple[float, float, float, float]] = []
    for box in sorted(boxes, key=lambda box: box.width * box.height):
        spot = _free_spot(box, picture, taken) if picture and box.label else None
        if picture is None or spot is None:
            box.label = ""
            continue
        taken.append(spot)
        box.label_left, box.label_top = 100 * spot[0] / picture.width, 100 * spot[1] / picture.height


def _free_spot(
    box: DrawnBox, picture: Picture, taken: list[tuple[float, float, float, float]]
) -> tuple[float, float, float, float] | None:
    """Left, top, right and bottom of a place for the label in CSS pixels, or None."""
    width = CHARACTER_WIDTH * len(box.label) + LABEL_PADDING
    left, top = box.left * picture.width / 100, box.top * picture.height / 100
    right, bottom = left + box.width * picture.width / 100, top + box.height * picture.height / 100
    for x, y in (
        (left, top - LABEL_HEIGHT),
        (left, top),
        (right - width, top),
        (left, bottom),
        (left, bottom - LABEL_HEIGHT),
        (right - width, bottom - LABEL_HEIGHT),
    ):
        x = min(max(0.0, x), picture.width - width)
        spot = (x, y, x + width, y + LABEL_HEIGHT)
        inside = x >= 0 and y >= 0 and y + LABEL_HEIGHT <= picture.height
        if inside and not any(_overlap(spot, other) for other in taken):
            return spot
    return None


def _overlap(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
