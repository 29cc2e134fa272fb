"""COCO's official annotation files, caption and box: the one reader of them.

They are read here, not by `pycocotools`: that keeps the last of two equal ids, and looks at no box.
"""

import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from ...rows.bad_rows import BadAnnotation, BadAnnotations
from ...rows.text_files import read_json
from ..ids import UniqueIds, image_id
from .schema import box_from_pixels, check_caption, corners_of


@dataclass(frozen=True)
class CocoBox:
    """An object.

    Attributes:
        category: The name of its kind.
        pixels: [x, y, width, height], as the file has it.
        size: Width and height of the image in pixels.
        shares: [left, top, right, bottom] as shares of the image, as a context has them.
    """

    category: str
    pixels: list[float]
    size: tuple[Any, Any]
    shares: list[float]


@dataclass
class CocoImage:
    """An image with what its annotators said of it."""

    file_name: str
    captions: list[str] = field(default_factory=list)
    boxes: list[CocoBox] = field(default_factory=list)


def read_coco(
    captions: str | os.PathLike | None, instances: str | os.PathLike | None, bad: BadAnnotations | None = None
) -> list[CocoImage]:
    """The images of a captions file, an instances file, or both, in the files' order.

    Args:
        captions: COCO captions file, held in memory whole.
        instances: COCO instances file, held in memory without its outlines. Boxes of crowds are left out.
        bad: What to do with an annotation that cannot be used. Default: stop.

    Raises:
        BadAnnotation: A caption or box of an unknown image, a box outside its image, an id that came before, ...
        ValueError: A file that is broken or no COCO file.
    """
    bad = bad or BadAnnotations()
    captions_file: dict[str, Any] = {"images": [], "annotations": [], "categories": []}
    instances_file = captions_file
    images: dict[int | str, dict[str, Any]] = {}
    if captions is not None:
        captions_file = _read(captions, "captions", ("images", "annotations"))
        images = _by_id(captions_file["images"], f"{captions}: image", ("file_name",), bad)
    if instances is not None:
        instances_file = _read(instances, "instances", ("images", "annotations", "categories"))
        images = _joined(images, _by_id(instances_file["images"], f"{instances}: image", ("file_name",), bad), bad)
    categories = _by_id(instances_file["categories"], f"{instances}: category", ("name",), bad)
    found = {number: CocoImage(image["file_name"]) for number, image in images.items()}
    for number, caption in _captions(captions_file["annotations"], f"{captions}: caption", images, bad):
        found[number].captions.append(caption)
    for number, box in _boxes(instances_file["annotations"], f"{instances}: box", images, categories, bad):
        found[number].boxes.append(box)
    return list(found.values())


def read_coco_captions(path: str | os.PathLike, bad: BadAnnotations | None = None) -> dict[str, list[str]]:
    """Captions of each image that has one, by file name, in the file's order.

    Raises:
        ValueError: As `read_coco`, or two images of one file name.
    """
    images = [image for image in read_coco(path, None, bad) if image.captions]
    return {image.file_name: image.captions for image in _of_different_names(images, path, bad)}


def read_coco_instances(path: str | os.PathLike, bad: BadAnnotations | None = None) -> dict[str, list[dict[str, Any]]]:
    """Objects of each image that has one, by file name; crowds are left out.

    Returns:
        File name -> `{"category": str, "bbox": [x, y, width, height] in pixels, "size": (width, height) of the image}`.

    Raises:
        ValueError: As `read_coco`, or two images of one file name.
    """
    images = [image for image in read_coco(None, path, bad) if image.boxes]
    return {
        image.file_name: [{"category": box.category, "bbox": box.pixels, "size": box.size} for box in image.boxes]
        for image in _of_different_names(images, path, bad)
    }


def caption_pairs(
    captions: dict[str, list[str]], all_captions: bool = False, seed: int = 0
) -> Iterator[dict[str, str]]:
    """Pairs for `alignment_rows`: one caption an image, drawn by the seed, or all of them."""
    ids = UniqueIds()
    for name, texts in captions.items():
        chosen = texts if all_captions else [random.Random(f"{seed}/{name}").choice(texts)]
        for number, text in enumerate(chosen):
            row_id = ids.take(f"{image_id(name)}-{number}") if all_captions else ids.of_image(name)
            yield {"id": row_id, "image": name, "caption": text}


def _of_different_names(
    images: list[CocoImage], path: str | os.PathLike, bad: BadAnnotations | None
) -> Iterator[CocoImage]:
    names: set[str] = set()
    for image in images:
        with (bad or BadAnnotations()).caught():
            if image.file_name in names:
                raise BadAnnotation(
                    f"{path}: two images are called {image.file_name!r}. File names must differ; rename or drop one."
                )
            names.add(image.file_name)
            yield image


def _read(path: str | os.PathLike, kind: str, keys: tuple[str, ...]) -> dict[str, Any]:
    # Outlines are most of an instances file, and are not needed
    content = read_json(
        path,
        "Is the file complete? Download or write it again.",
        hook=lambda pairs: {key: value for key, value in pairs if key != "segmentation"},
    )
    if not isinstance(content, dict) or any(not isinstance(content.get(key), list) for key in keys):
        raise ValueError(
            f"{path} is not a COCO file: it must be an object with the lists {keys}, or it is not a COCO {kind} file."
        )
    return content


def _by_id(
    items: list[Any], name: str, needs: tuple[str, ...], bad: BadAnnotations
) -> dict[int | str, dict[str, Any]]:
    found: dict[int | str, dict[str, Any]] = {}
    for number, item in enumerate(items):
        with bad.caught():
            _check_keys(item, ("id", *needs), f"{name} at position {number}")
            if item["id"] in found:
                raise BadAnnotation(f"{name} {item['id']!r} stands twice. Ids must differ; rename or drop one.")
            for need in needs:
                if not isinstance(item[need], str) or not item[need]:
                    raise BadAnnotation(f"{name} {item['id']!r}: {need} is {item[need]!r}; it must be text.")
            found[item["id"]] = item
    return found


def _joined(
    images: dict[int | str, dict[str, Any]], others: dict[int | str, dict[str, Any]], bad: BadAnnotations
) -> dict[int | str, dict[str, Any]]:
    """The images of both files; what the instances file says of an image comes first, for its size."""
    joined = dict(images)
    for number, other in others.items():
        with bad.caught():
            name = images.get(number, other)["file_name"]
            if other["file_name"] != name:
                raise BadAnnotation(
                    f"image {number!r} is {name!r} among the captions and {other['file_name']!r} among the boxes. "
                    "Give both files of one image set, or correct the id."
                )
            joined[number] = {**images.get(number, {}), **other}
    return joined


def _captions(
    annotations: list[Any], name: str, images: dict[int | str, dict[str, Any]], bad: BadAnnotations
) -> Iterator[tuple[int | str, str]]:
    def use(annotation: dict[str, Any], name: str) -> str:
        return check_caption(annotation["caption"], name)

    yield from _of_images(annotations, name, ("caption",), images, use, bad)


def _boxes(
    annotations: list[Any],
    name: str,
    images: dict[int | str, dict[str, Any]],
    categories: dict[int | str, dict[str, Any]],
    bad: BadAnnotations,
) -> Iterator[tuple[int | str, CocoBox]]:
    def use(annotation: dict[str, Any], name: str) -> CocoBox:
        category, image = annotation["category_id"], images[annotation["image_id"]]
        if category not in categories:
            raise BadAnnotation(
                f"{name}: box {annotation['id']!r} is of category {category!r}, which the file does not list. Add or drop it."
            )
        size = (image.get("width"), image.get("height"))
        shares = box_from_pixels(corners_of(annotation["bbox"], name), size, name)
        return CocoBox(categories[category]["name"], annotation["bbox"], size, shares)

    no_crowds = [item for item in annotations if not (isinstance(item, dict) and item.get("iscrowd"))]
    yield from _of_images(no_crowds, name, ("category_id", "bbox"), images, use, bad)


def _of_images(
    annotations: list[Any],
    name: str,
    needs: tuple[str, ...],
    images: dict[int | str, dict[str, Any]],
    use: Callable[[dict[str, Any], str], Any],
    bad: BadAnnotations,
) -> Iterator[tuple[int | str, Any]]:
    """What `use` makes of each annotation, with the image it belongs to."""
    ids: set[int | str] = set()
    for number, annotation in enumerate(annotations):
        with bad.caught():
            _check_keys(annotation, ("id", "image_id", *needs), f"{name} at position {number}")
            this = f"{name} {annotation['id']!r}"
            if annotation["id"] in ids:
                raise BadAnnotation(f"{this} stands twice. Ids must differ; rename or drop one.")
            ids.add(annotation["id"])
            if annotation["image_id"] not in images:
                raise BadAnnotation(
                    f"{this} is of image {annotation['image_id']!r}, which is unknown: the file does not list it under "
                    "'images'. Add the image, or drop the annotation."
                )
            yield annotation["image_id"], use(annotation, f"{this}, of image {annotation['image_id']!r}")


def _check_keys(item: Any, keys: tuple[str, ...], name: str) -> None:
    missing = [key for key in keys if key not in item] if isinstance(item, dict) else keys
    if missing:
        raise BadAnnotation(f"{name} lacks {', '.join(missing)}: {str(item)[:100]}. Complete or drop it.")
    unusable = [key for key in keys if key.endswith("id") and not isinstance(item[key], int | str)]
    if unusable:
        raise BadAnnotation(f"{name}: {unusable[0]} is {item[unusable[0]]!r}; it must be a number or text.")
