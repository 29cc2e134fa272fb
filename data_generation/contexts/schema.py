"""What a text-only teacher is told of an image: its captions and its boxes (arXiv:2304.08485, section 3).

A context is a line of JSON, in the form the original published its own (`caps_boxes`)::

    {"id": "000000296284", "image": "000000296284.jpg", "captions": ["A donut shop ..."],
     "instances": [{"category": "donut", "bbox": [0.37, 0.584, 0.504, 0.709]}]}

A box is [left, top, right, bottom] as shares of the image's width and height, with three decimals. `contexts_from_*`
make contexts of other people's annotations.
"""

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from ...rows.bad_rows import BadAnnotation, BadAnnotations
from ...rows.files import read_rows

Context = dict[str, Any]

DECIMALS = 3
# Annotators and rounding put a corner a little outside; further out it belongs to another image, or to other units
TOLERANCE = 0.01


def read_contexts(
    path: str | os.PathLike, image_folder: str | os.PathLike | None = None, bad: BadAnnotations | None = None
) -> Iterator[Context]:
    """Read a file of contexts, one by one; the original's `caps_boxes` files are such files.

    Args:
        path: A `.jsonl`, `.json` or `.parquet` file.
        image_folder: Where image paths start; each image must then be there.
        bad: What to do with a line that is no context. Default: stop.

    Raises:
        BadAnnotation: A line that is no context, an image that is missing, or an id that came before.
        ValueError: The file is not made of JSON objects.
    """
    bad = bad or BadAnnotations()
    rows = enumerate(read_rows(path), start=1)
    checked = bad.map(lambda numbered: check_context(numbered[1], f"{path}, row {numbered[0]}"), rows)
    yield from finished(checked, image_folder, bad)


def finished(
    contexts: Iterable[Context], image_folder: str | os.PathLike | None, bad: BadAnnotations
) -> Iterator[Context]:
    """Let through contexts whose id is new and whose image is in its folder; the last step of every source.

    Raises:
        BadAnnotation: An id that came before or an image that is not there, unless `bad` leaves such out.
    """
    ids: set[str] = set()
    for context in contexts:
        with bad.caught():
            name = f"context {context['id']!r}"
            if context["id"] in ids:
                raise BadAnnotation(f"{name}: this id came before. Ids must differ; rename or drop one of the two.")
            if image_folder is not None and context["image"] is not None:
                check_image(context["image"], image_folder, name)
            ids.add(context["id"])
            yield context


def check_context(row: Mapping[str, Any], name: str) -> Context:
    """A row as a context: captions without blanks around them, boxes rounded, crowds left out, other keys dropped.

    Args:
        row: As in the module's docstring; `image` may be null, `instances` may be absent.
        name: What to call the row in an error, beside its id.

    Raises:
        BadAnnotation: Something is missing, of another type, or a box outside the image.
    """
    if not isinstance(row.get("id"), str | int) or row["id"] == "":
        raise BadAnnotation(f"{name}: the id is {row.get('id')!r}; give each image one of its own.")
    name = f"{name} (id {row['id']!r})"
    image, captions, instances = row.get("image"), row.get("captions"), row.get("instances", [])
    if image is not None and not isinstance(image, str):
        raise BadAnnotation(f"{name}: image is {image!r}; it must be a path or null.")
    if not isinstance(captions, list) or not isinstance(instances, list):
        raise BadAnnotation(
            f"{name}: 'captions' and 'instances' must be lists, and are {captions!r} and {instances!r}."
        )
    items = [_instance(item, f"{name}, instance {number}") for number, item in enumerate(instances)]
    context: Context = {
        "id": str(row["id"]),
        "image": image,
        "captions": [check_caption(caption, name) for caption in captions],
        "instances": [item for item in items if item is not None],
    }
    if not (image or context["captions"] or context["instances"]):
        raise BadAnnotation(f"{name}: neither image nor captions nor instances; add one, or drop the row.")
    return context


def _instance(item: Any, name: str) -> dict[str, Any] | None:
    if not isinstance(item, dict) or not {"category", "bbox"} <= set(item):
        raise BadAnnotation(f"{name}: {item!r} must be an object with 'category' and 'bbox'.")
    if item.get("iscrowd"):
        return None
    return {"category": check_category(item["category"], name), "bbox": check_box(item["bbox"], name)}


def check_caption(caption: Any, name: str) -> str:
    """A caption on one line, without blanks around it.

    Raises:
        BadAnnotation: Not text, or nothing but blanks.
    """
    if not isinstance(caption, str) or not caption.strip():
        raise BadAnnotation(f"{name}: the caption is {caption!r}; write one, or drop it.")
    return " ".join(caption.split())


def check_category(category: Any, name: str) -> str:
    """The name of a kind of object, without blanks around it.

    Raises:
        BadAnnotation: Not text, or nothing but blanks.
    """
    if not isinstance(category, str) or not category.strip():
        raise BadAnnotation(f"{name}: the category is {category!r}; it must be the name of a kind of object.")
    return " ".join(category.split())


def check_image(image: str, image_folder: str | os.PathLike, name: str) -> None:
    """Make sure that an image lies in its folder.

    Raises:
        BadAnnotation: It is not there, or its path leads out of the folder.
    """
    folder = Path(image_folder)
    if PurePosixPath(image).is_absolute() or not (folder / image).resolve().is_relative_to(folder.resolve()):
        raise BadAnnotation(f"{name}: the path {image!r} leads out of {folder}. Write it relative to --image_folder.")
    if not (folder / image).is_file():
        raise BadAnnotation(f"{name}: the image {image!r} is not in {folder}. Add it, or correct --image_folder.")


def box_from_pixels(corners: Sequence[Any], size: tuple[Any, Any], name: str) -> list[float]:
    """A box in pixels, [left, top, right, bottom], as a context has it.

    Args:
        corners: In pixels.
        size: Width and height of the image in pixels.
        name: What to call the box in an error.

    Raises:
        BadAnnotation: The image has no size, or as for `check_box`.
    """
    if not _are_numbers(size) or min(size) <= 0:
        raise BadAnnotation(f"{name}: its image has width and height {size}; state them in pixels.")
    if len(corners) != 4 or not _are_numbers(corners):
        raise BadAnnotation(f"{name}: the box {list(corners)} is not four numbers; correct or drop it.")
    return check_box([corner / size[number % 2] for number, corner in enumerate(corners)], name)


def corners_of(box: Any, name: str) -> list[float]:
    """The corners of a box that is given by [x, y, width, height], as COCO has it.

    Raises:
        BadAnnotation: Not four numbers.
    """
    if not isinstance(box, Sequence) or len(box) != 4 or not _are_numbers(box):
        raise BadAnnotation(f"{name}: the box {box!r} is not four numbers [x, y, width, height]; correct or drop it.")
    x, y, width, height = box
    return [x, y, x + width, y + height]


def check_box(box: Any, name: str) -> list[float]:
    """A box in shares of the image, rounded to three decimals and pulled into the image.

    A thin box keeps a thousandth, where rounding would leave it no width or height.

    Raises:
        BadAnnotation: Not four numbers, no area, or a corner outside the image by more than a hundredth.
    """
    if not isinstance(box, Sequence) or len(box) != 4 or not _are_numbers(box):
        raise BadAnnotation(f"{name}: the box {box!r} is not four numbers [left, top, right, bottom].")
    shown = [round(corner, DECIMALS) for corner in box]
    if min(box) < -TOLERANCE or max(box) > 1 + TOLERANCE:
        raise BadAnnotation(
            f"{name}: the box {shown} leaves the image, in which left, top, right and bottom run from 0 to 1. "
            "Correct it, or its image's size, or drop it."
        )
    left, top, right, bottom = (min(1.0, max(0.0, corner)) for corner in box)
    if left >= right or top >= bottom:
        raise BadAnnotation(f"{name}: the box {shown} has no area; correct or drop it.")
    left, right = _rounded(left, right)
    top, bottom = _rounded(top, bottom)
    return [left, top, right, bottom]


def _rounded(low: float, high: float) -> tuple[float, float]:
    step = 10**DECIMALS
    if round(low, DECIMALS) == round(high, DECIMALS):
        middle = min(math.floor(low * step), step - 1)
        return middle / step, (middle + 1) / step
    return round(low, DECIMALS), round(high, DECIMALS)


def _are_numbers(values: Iterable[Any]) -> bool:
    return all(isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in values)
