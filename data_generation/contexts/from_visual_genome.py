"""Visual Genome's regions to contexts: region descriptions are captions, named objects are boxes.

Of the official files, `region_descriptions.json` has phrases alone; `region_graphs.json` has phrases and the objects
that they speak of. Both are lists of hundreds of megabytes and are read image by image.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...rows.bad_rows import BadAnnotation, BadAnnotations
from .schema import Context, box_from_pixels, check_caption, check_category, corners_of, finished

CHUNK = 2**20  # characters read at a time

Image = tuple[str, Any, Any]  # file name, width and height


def contexts_from_visual_genome(
    regions: str | os.PathLike,
    image_data: str | os.PathLike | None = None,
    image_folder: str | os.PathLike | None = None,
    bad: BadAnnotations | None = None,
) -> Iterator[Context]:
    """A context for each image.

    Args:
        regions: `region_descriptions.json` or `region_graphs.json`.
        image_data: `image_data.json`, which knows the images' sizes and folders; needed where objects have names.
            Without it an image is `<image id>.jpg`.
        image_folder: Where image paths start; each image must then be there.
        bad: What to do with a region that cannot be used. Default: stop.

    Yields:
        Contexts in the file's order. Equal phrases of an image, and equal boxes of a name, count once.

    Raises:
        BadAnnotation: A region of an unknown image, without a phrase, or outside its image; an image that came before.
        ValueError: A file that is broken or of another form.
    """
    bad = bad or BadAnnotations()
    images = (
        None if image_data is None else dict(bad.map(lambda entry: _image(entry, image_data), elements(image_data)))
    )
    yield from finished(
        bad.map(lambda entry: _context(entry, images, regions, bad), elements(regions)), image_folder, bad
    )


def elements(path: str | os.PathLike) -> Iterator[dict[str, Any]]:
    """The objects of a JSON list, one by one, however long the list is.

    Raises:
        ValueError: The file is no list of objects, or breaks off.
    """
    decoder = json.JSONDecoder()
    with Path(path).open(encoding="utf-8") as file:
        text = file.read(CHUNK).lstrip()
        if not text.startswith("["):
            raise ValueError(f"{path} begins with {text[:20]!r}; it must hold a JSON list of objects.")
        position, count = 1, 0
        while True:
            while position < len(text) and text[position] in " \t\r\n,":
                position += 1
            if text[position : position + 1] == "]":
                return
            try:
                element, position = decoder.raw_decode(text, position)
            except json.JSONDecodeError as error:
                more = file.read(CHUNK)
                # An element that goes on in the next chunk fails at the end of this one
                if not more or len(text) - error.pos > CHUNK:
                    raise ValueError(
                        f"{path} is broken JSON after element {count} ({error.msg}). Is the file complete? Download it again."
                    ) from error
                text, position = text[position:] + more, 0
                continue
            if not isinstance(element, dict):
                raise ValueError(f"{path}, element {count}: {str(element)[:50]} where an object is expected.")
            yield element
            count += 1


def _image(entry: dict[str, Any], path: Any) -> tuple[str, Image]:
    number = _id(entry, f"{path}: image")
    # The last folder of the URL is a folder of the download too: VG_100K/2.jpg or VG_100K_2/1.jpg
    url = entry.get("url")
    name = "/".join(url.split("/")[-2:]) if isinstance(url, str) else f"{number}.jpg"
    return number, (name, entry.get("width"), entry.get("height"))


def _id(entry: dict[str, Any], name: str) -> str:
    number = entry.get("image_id", entry.get("id"))
    if not isinstance(number, int | str):
        raise BadAnnotation(f"{name} has the id {number!r}; it must be a number. Correct or drop it.")
    return str(number)


def _context(entry: dict[str, Any], images: dict[str, Image] | None, path: Any, bad: BadAnnotations) -> Context:
    number = _id(entry, f"{path}: an image")
    name = f"{path}: image {number}"
    image = (f"{number}.jpg", None, None) if images is None else images.get(number)
    if image is None:
        raise BadAnnotation(
            f"{name} is unknown to --image_data. Give the file of the same release, or drop the image."
        )
    if not isinstance(entry.get("regions"), list):
        raise ValueError(f"{name} has no list 'regions'. Give region_descriptions.json or region_graphs.json.")
    captions: dict[str, None] = {}
    boxes: dict[tuple[str, tuple[float, ...]], None] = {}
    for region in entry["regions"]:
        with bad.caught():
            if not isinstance(region, dict):
                raise BadAnnotation(f"{name}: the region {str(region)[:50]!r} must be an object; correct or drop it.")
            captions[check_caption(region.get("phrase"), f"{name}, region {region.get('region_id')}")] = None
            for item in (region, *region.get("objects", [])):
                if category := _name(item):
                    boxes[_box(item, category, image, f"{name}, region {region.get('region_id')}, {category!r}")] = (
                        None
                    )
    instances = [{"category": category, "bbox": list(box)} for category, box in boxes]
    return {"id": number, "image": image[0], "captions": list(captions), "instances": instances}


def _name(item: dict[str, Any]) -> Any:
    """Objects have a `name`, or `names` of which the first counts; regions have neither, or one in some releases."""
    names = item.get("names")
    return names[0] if names else item.get("name")


def _box(item: dict[str, Any], category: Any, image: Image, name: str) -> tuple[str, tuple[float, ...]]:
    file_name, width, height = image
    if width is None or height is None:
        raise BadAnnotation(f"{name}: the size of {file_name} is unknown; give --image_data image_data.json.")
    sides = [item.get(side, item.get(side[0])) for side in ("x", "y", "width", "height")]
    box = box_from_pixels(corners_of(sides, name), (width, height), name)
    return check_category(category, name), tuple(box)
