"""Any `datasets` dataset with named columns to contexts: of the Hub, of a folder, or of a local file."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...processing.image_files import PictureError, opened
from ...processing.image_inputs import upright_size
from ...rows.bad_rows import BadAnnotation, BadAnnotations
from ...rows.files import read_table
from ..ids import UniqueIds, image_id
from .from_images import pictures_in
from .schema import Context, box_from_pixels, check_box, check_caption, check_category, corners_of, finished

SUFFIXES = (".json", ".jsonl", ".csv", ".parquet")
BOX_FORMATS = ("xywh", "xyxy", "shares")


@dataclass(frozen=True)
class Columns:
    """Which columns hold what; None for what a dataset has not.

    Attributes:
        captions: A caption, or a list of captions.
        image: A path, or an image of `datasets`.
        id: Default, and that of a column of images: the image's path below the folder without its suffix, else the row's
            number.
        objects: `{"bbox": [...], "category": [...]}` or a list of `{"bbox", "category"}`; a category is a name or a
            class label.
        box_format: "xywh" (pixels, as COCO has them), "xyxy" (corners in pixels) or "shares" (corners in 0 to 1).
    """

    captions: str | None = "caption"
    image: str | None = "image"
    id: str | None = None
    objects: str | None = None
    box_format: str = "xywh"


def open_dataset(name_or_path: str, split: str = "train", bad: BadAnnotations | None = None) -> Any:
    """Open a dataset of the Hub, of `save_to_disk`, of a folder or of a file; rows stream where they can.

    Args:
        name_or_path: Which one.
        split: Of a dataset that has several.
        bad: What to do with a photograph in a folder that `datasets` passes over without a word. Default: stop.

    Raises:
        BadAnnotation: There is such a photograph.
        ValueError: A file of a kind that `datasets` is not asked to read here.
    """
    import datasets

    path = Path(name_or_path)
    if path.is_file():
        match path.suffix:
            case ".parquet":  # which may say that a column holds images or class labels
                return datasets.load_dataset("parquet", data_files=str(path), split="train", streaming=True)
            case ".csv" | ".json" | ".jsonl":
                # As they are written: by `datasets` the caption "None" is none, the id 007 is 7, and what looks like a
                # time becomes one
                return _Rows(path)
            case other:
                raise ValueError(f"{name_or_path!r} ends in {other!r}; it must end in one of {SUFFIXES}.")
    if (path / "state.json").is_file():
        return datasets.load_from_disk(name_or_path)
    opened = datasets.load_dataset(name_or_path, split=split, streaming=True)
    if path.is_dir() and opened.info.builder_name == "imagefolder":
        _name_what_is_passed_over(path, bad or BadAnnotations())
    return opened


def _name_what_is_passed_over(folder: Path, bad: BadAnnotations) -> None:
    """`datasets` takes the files of a folder by their suffixes, and phones write others."""
    from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder

    for path, fault in pictures_in(folder, passed=ImageFolder.EXTENSIONS):
        with bad.caught():
            why = (
                fault or f"{path} is a photograph whose suffix `datasets` does not know. Read the folder by --images."
            )
            raise BadAnnotation(why)


@dataclass(frozen=True)
class _Rows:
    """A file of rows, in the form of a data set that does not know its columns."""

    path: Path
    features: None = None

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        return (row for _, row in read_table(self.path))


def contexts_from_dataset(
    dataset: Any,
    columns: Columns | None = None,
    image_folder: str | os.PathLike | None = None,
    bad: BadAnnotations | None = None,
) -> Iterator[Context]:
    """A context for each row.

    Args:
        dataset: A `datasets.Dataset` or `IterableDataset`.
        columns: Which columns hold what.
        image_folder: Where the images are. Images that lie inside the dataset are written there.
        bad: What to do with a row that cannot be used. Default: stop.

    Raises:
        BadAnnotation: A row without what the columns promise, a box outside its image, an id that came before, ...
        ValueError: The dataset has no such column, or has images inside and `image_folder` is not given.
    """
    import datasets

    columns, bad = columns or Columns(), bad or BadAnnotations()
    features = dataset.features or datasets.Features(dict.fromkeys(next(iter(dataset), {}), datasets.Value("null")))
    _check_columns(columns, features)
    labels = _labels(features.get(columns.objects)) if columns.objects else []
    if columns.image and isinstance(features[columns.image], datasets.Image):
        dataset = dataset.cast_column(columns.image, datasets.Image(decode=False))
    rows, ids = enumerate(dataset), UniqueIds()
    made = bad.map(lambda numbered: _context(numbered[1], numbered[0], columns, labels, image_folder, ids), rows)
    yield from finished(made, image_folder, bad)


def _check_columns(columns: Columns, features: Mapping[str, Any]) -> None:
    if columns.box_format not in BOX_FORMATS:
        raise ValueError(f"box_format={columns.box_format!r} is unknown; choose one of {BOX_FORMATS}.")
    flags = {
        "captions": "--caption_column",
        "image": "--image_column",
        "id": "--id_column",
        "objects": "--objects_column",
    }
    for field, flag in flags.items():
        column = getattr(columns, field)
        if column is not None and column not in features:
            raise ValueError(
                f"the dataset has no column {column!r}, but {sorted(features)}. Name another by {flag}, or 'none'."
            )


def _labels(feature: Any) -> list[str]:
    """The names of the class labels of `category` in an objects column; empty where categories are text."""
    inner = getattr(feature, "feature", feature)
    category = inner.get("category") if isinstance(inner, Mapping) else None
    category = getattr(category, "feature", category)
    return list(getattr(category, "names", []))


def _context(
    row: Mapping[str, Any],
    number: int,
    columns: Columns,
    labels: list[str],
    image_folder: str | os.PathLike | None,
    ids: UniqueIds,
) -> Context:
    picture = row.get(columns.image) if columns.image else None
    key = _id(row, number, columns, image_folder, ids)
    name = f"row {number} (id {key!r})"
    captions = row.get(columns.captions) if columns.captions else []
    image = _image(picture, key, name, image_folder) if columns.image else None
    instances = []
    if columns.objects:
        size = None if columns.box_format == "shares" else _size(image, name, image_folder)
        for position, item in enumerate(_objects(row.get(columns.objects), name)):
            instances.append(_instance(item, columns.box_format, size, labels, f"{name}, object {position}"))
    return {
        "id": key,
        "image": image,
        "captions": [check_caption(text, name) for text in (captions if isinstance(captions, list) else [captions])],
        "instances": instances,
    }


def _id(
    row: Mapping[str, Any], number: int, columns: Columns, image_folder: str | os.PathLike | None, ids: UniqueIds
) -> str:
    given = row.get(columns.id) if columns.id else None
    if columns.id and not isinstance(given, Mapping):
        if isinstance(given, float) and given.is_integer():
            given = int(given)  # the column has gaps, and so became one of floats
        if isinstance(given, bool) or not isinstance(given, str | int) or given == "":
            raise BadAnnotation(f"row {number}: {columns.id} is {given!r:.80}; an id is text or a whole number.")
        return str(given)
    picture = given if isinstance(given, Mapping) else row.get(columns.image) if columns.image else None
    path = picture.get("path") if isinstance(picture, Mapping) else picture
    if not isinstance(path, str) or not path:
        return ids.take(f"{number:08d}")
    if image_folder is not None and Path(path).is_absolute():
        folder = Path(image_folder).resolve()
        path = Path(path).relative_to(folder).as_posix() if Path(path).is_relative_to(folder) else path
    # Pictures inside the rows may all be called alike, and are not the same
    is_inside = isinstance(picture, Mapping) and bool(picture.get("bytes"))
    return ids.take(image_id(path)) if is_inside else ids.of_image(path)


def _image(picture: Any, key: str, name: str, image_folder: str | os.PathLike | None) -> str:
    """The image's path in the folder, where it is written if the dataset has it inside."""
    if isinstance(picture, str) and picture:
        return picture
    if not isinstance(picture, Mapping) or not (picture.get("bytes") or picture.get("path")):
        raise BadAnnotation(f"{name}: the image is {picture!r}; it must be a path or an image.")
    if image_folder is None:
        raise ValueError("the images lie inside the dataset. Give --image_folder, a folder to write them to.")
    folder = Path(image_folder).resolve()
    if not picture.get("bytes"):
        path = Path(picture["path"])
        if not path.resolve().is_relative_to(folder):
            raise BadAnnotation(f"{name}: the image {path} is not in {folder}. Give a --image_folder that holds all.")
        return path.resolve().relative_to(folder).as_posix()
    path = folder / f"{key}{_suffix(picture['bytes'], name)}"
    if not path.resolve().is_relative_to(folder):
        raise BadAnnotation(f"{name}: the id leads out of {folder}. Name another column by --id_column.")
    if path.exists() and path.read_bytes() != picture["bytes"]:
        raise BadAnnotation(
            f"{name}: {path} is there with another image. Give an empty --image_folder, or mend the ids."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(picture["bytes"])
    return path.relative_to(folder).as_posix()


def _suffix(content: bytes, name: str) -> str:
    """By what the picture is, whatever it was called."""
    try:
        with opened(content) as picture:
            return ".jpg" if picture.format == "MPO" else f".{(picture.format or 'png').lower()}"
    except PictureError as error:
        raise BadAnnotation(f"{name}: {error}") from error


def _size(image: str | None, name: str, image_folder: str | os.PathLike | None) -> tuple[int, int]:
    """Of the upright picture, which is what its annotators saw."""
    if image is None or image_folder is None:
        raise ValueError(
            "boxes in pixels need the images' sizes. Give --image_column and --image_folder, or --box_format shares."
        )
    try:
        return upright_size(Path(image_folder) / image)
    except PictureError as error:
        raise BadAnnotation(f"{name}: {error} Is --image_folder right?") from error


def _objects(objects: Any, name: str) -> list[Mapping[str, Any]]:
    if isinstance(objects, Mapping) and {"bbox", "category"} <= set(objects):
        if len(objects["bbox"]) != len(objects["category"]):
            raise BadAnnotation(f"{name}: {len(objects['bbox'])} boxes and {len(objects['category'])} categories.")
        pairs = zip(objects["bbox"], objects["category"], strict=True)
        return [{"bbox": box, "category": category} for box, category in pairs]
    if isinstance(objects, list) and all(
        isinstance(one, Mapping) and {"bbox", "category"} <= set(one) for one in objects
    ):
        return objects
    raise BadAnnotation(f"{name}: the objects are {str(objects)[:100]}; they need 'bbox' and 'category'.")


def _instance(
    item: Mapping[str, Any], box_format: str, size: tuple[int, int] | None, labels: list[str], name: str
) -> dict[str, Any]:
    category, box = item["category"], item["bbox"]
    if isinstance(category, int) and 0 <= category < len(labels):
        category = labels[category]
    if size is not None:
        corners = corners_of(box, name) if box_format == "xywh" else box
        return {"category": check_category(category, name), "bbox": box_from_pixels(corners, size, name)}
    return {"category": check_category(category, name), "bbox": check_box(box, name)}
