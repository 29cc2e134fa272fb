"""COCO's official annotation files to contexts.

The files are read here, not by `pycocotools`: that keeps the last of two equal ids, and looks at no box.
"""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from .bad_annotations import BadAnnotation, BadAnnotations
from .schema import Context, box_from_pixels, check_caption, corners_of, finished


def contexts_from_coco(
    captions: str | os.PathLike,
    instances: str | os.PathLike | None = None,
    image_folder: str | os.PathLike | None = None,
    bad: BadAnnotations | None = None,
) -> Iterator[Context]:
    """A context for each image that has a caption or a box; boxes of crowds are left out.

    Args:
        captions: COCO captions file, held in memory whole.
        instances: COCO instances file, held in memory without its outlines.
        image_folder: Where file names start; each image must then be there.
        bad: What to do with an annotation that cannot be used. Default: stop.

    Yields:
        Contexts in the order of the files' images; the id is the file name without its suffix.

    Raises:
        BadAnnotation: A caption or box of an unknown image, a box outside its image, an id that came before, ...
        ValueError: A file that is broken or no COCO file.
    """
    bad = bad or BadAnnotations()
    captions_file = _read(captions, ("images", "annotations"))
    images = _by_id(captions_file["images"], f"{captions}: image", ("file_name",), bad)
    instances_file: dict[str, Any] = {"images": [], "annotations": [], "categories": []}
    if instances is not None:
        instances_file = _read(instances, ("images", "annotations", "categories"))
        images = _joined(images, _by_id(instances_file["images"], f"{instances}: image", ("file_name",), bad), bad)
    categories = _by_id(instances_file["categories"], f"{instances}: category", ("name",), bad)

    contexts = {number: _empty(image) for number, image in images.items()}
    for number, caption in _captions(captions_file["annotations"], f"{captions}: caption", images, bad):
        contexts[number]["captions"].append(caption)
    for number, item in _boxes(instances_file["annotations"], f"{instances}: box", images, categories, bad):
        contexts[number]["instances"].append(item)
    del captions_file, instances_file
    yield from finished((one for one in contexts.values() if one["captions"] or one["instances"]), image_folder, bad)


def _read(path: str | os.PathLike, keys: tuple[str, ...]) -> dict[str, Any]:
    try:
        # Outlines are most of an instances file, and are not needed
        content = json.loads(
            Path(path).read_text(encoding="utf-8"),
            object_pairs_hook=lambda pairs: {key: value for key, value in pairs if key != "segmentation"},
        )
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not JSON ({error}). Is the file complete? Download or write it again.") from error
    if not isinstance(content, dict) or any(not isinstance(content.get(key), list) for key in keys):
        raise ValueError(f"{path} is not a COCO file: it must be an object with the lists {keys}.")
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


def _empty(image: dict[str, Any]) -> Context:
    name = image["file_name"]
    return {"id": str(PurePosixPath(name).with_suffix("")), "image": name, "captions": [], "instances": []}


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
) -> Iterator[tuple[int | str, dict[str, Any]]]:
    def use(annotation: dict[str, Any], name: str) -> dict[str, Any]:
        category, image = annotation["category_id"], images[annotation["image_id"]]
        if category not in categories:
            raise BadAnnotation(f"{name} is of category {category!r}, which the file does not list. Add or drop it.")
        size = (image.get("width"), image.get("height"))
        box = box_from_pixels(corners_of(annotation["bbox"], name), size, name)
        return {"category": categories[category]["name"], "bbox": box}

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
