"""COCO's official annotation files, caption and box, as plain Python.

Only what stage-1 rows and simple conversations need; boxes are as COCO has them, [x, y, width, height] in pixels.
"""

import json
import os
import random
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def read_coco_captions(path: str | os.PathLike) -> dict[str, list[str]]:
    """Captions of each image, by file name, in the file's order.

    Raises:
        ValueError: Not a COCO captions file, or a caption of an image that the file does not list.
    """
    content = _read(path, "captions")
    names = {image["id"]: image["file_name"] for image in content["images"]}
    captions: dict[str, list[str]] = defaultdict(list)
    for annotation in content["annotations"]:
        if annotation["image_id"] not in names:
            raise ValueError(
                f"{path}: caption {annotation.get('id')!r} is of image {annotation['image_id']!r}, which the file does not "
                "list under 'images'. Add the image or drop the caption."
            )
        captions[names[annotation["image_id"]]].append(annotation["caption"].strip())
    return dict(captions)


def read_coco_instances(path: str | os.PathLike) -> dict[str, list[dict[str, Any]]]:
    """Objects of each image, by file name; crowds are left out.

    Returns:
        File name -> `{"category": str, "bbox": [x, y, width, height] in pixels, "size": (width, height) of the image}`.

    Raises:
        ValueError: Not a COCO instances file, or a box of an image or category that the file does not list.
    """
    content = _read(path, "instances")
    images = {image["id"]: image for image in content["images"]}
    categories = {category["id"]: category["name"] for category in content.get("categories", [])}
    objects: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for annotation in content["annotations"]:
        if annotation.get("iscrowd"):
            continue
        image, category = images.get(annotation["image_id"]), categories.get(annotation["category_id"])
        if image is None or category is None:
            raise ValueError(
                f"{path}: box {annotation.get('id')!r} is of image {annotation['image_id']!r} and category "
                f"{annotation['category_id']!r}, and the file lists not both. Add what is missing or drop the box."
            )
        size = (image["width"], image["height"])
        objects[image["file_name"]].append({"category": category, "bbox": annotation["bbox"], "size": size})
    return dict(objects)


def caption_pairs(
    captions: dict[str, list[str]], all_captions: bool = False, seed: int = 0
) -> Iterator[dict[str, str]]:
    """Pairs for `alignment_rows`: one caption an image, drawn by the seed, or all of them."""
    for name, texts in captions.items():
        chosen = texts if all_captions else [random.Random(f"{seed}/{name}").choice(texts)]
        for number, text in enumerate(chosen):
            row_id = Path(name).stem if not all_captions else f"{Path(name).stem}-{number}"
            yield {"id": row_id, "image": name, "caption": text}


def _read(path: str | os.PathLike, kind: str) -> dict[str, Any]:
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON ({error}).") from error
    if not isinstance(content, dict) or not {"images", "annotations"} <= set(content):
        raise ValueError(f"{path} is not a COCO {kind} file: it must be an object with 'images' and 'annotations'.")
    return content
