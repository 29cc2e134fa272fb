"""Opening the picture of a row: from a path, from bytes, or already open; never from outside the image folder."""

import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps, UnidentifiedImageError

from .schema import BadRow

# Pillow's own line between a large photograph and a decompression bomb: about 89 megapixels
MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS or 89_478_485
URL_SCHEMES = ("http://", "https://", "ftp://", "s3://", "hf://", "data:")

ImageSource = Image.Image | str | os.PathLike | Mapping[str, Any]


def resolve_image_path(path: str, image_folder: str | os.PathLike | None, name: str) -> str:
    """Join a row's image path to its folder.

    Args:
        path: As the row has it.
        image_folder: The folder that relative paths start from. Where it is given, no path may leave it.
        name: What to call the row in an error.

    Returns:
        The joined path. The file may be missing; see `open_image`.

    Raises:
        BadRow: A URL, or a path that leaves the folder by `..`, by being absolute, or through a symbolic link.
    """
    _refuse_url(path, name)
    if image_folder is None:
        return path
    joined = os.path.join(os.fspath(image_folder), path)
    root = os.path.realpath(image_folder)
    try:
        stays = os.path.commonpath([root, os.path.realpath(joined)]) == root
    except ValueError as error:  # a null character or half a character in it, another drive
        raise BadRow(f"{name}: the image {path!r} is no path ({error}). Write it anew.", kind="image path") from error
    if not stays:
        raise BadRow(
            f"{name}: the image {path!r} lies outside the image folder {os.fspath(image_folder)!r}. Move it in, or name "
            "a folder that holds all images with --image_folder.",
            kind="image path",
        )
    return joined


def resolve_images(images: Sequence[Any], image_folder: str | os.PathLike | None, name: str) -> list[Any]:
    """The images of a row, with paths joined to their folder (see `resolve_image_path`).

    Raises:
        BadRow: Also for an entry that is no image at all.
    """
    for image in images:
        if not isinstance(image, str | os.PathLike | Mapping | Image.Image):
            raise BadRow(f"{name}: an image is {image!r:.100}; it must be a path, or bytes as `datasets` stores them.")
    return [
        resolve_image_path(os.fspath(image), image_folder, name) if isinstance(image, str | os.PathLike) else image
        for image in images
    ]


def open_image(source: ImageSource, name: str, *, decode: bool = True) -> Image.Image:
    """Open an image safely.

    Args:
        source: An open image, a path, or `{"bytes": ..., "path": ...}` as `datasets` stores one.
        name: What to call the row in an error.
        decode: Read the pixels too. Without it only the header is read: far quicker, but a truncated file passes
            unless its end is visibly missing.

    Returns:
        An RGB image, turned upright as its EXIF tag says (`datasets` does the same when it decodes).

    Raises:
        BadRow: A missing, truncated or non-image file, or one of more than `MAX_IMAGE_PIXELS` pixels.
    """
    where = _describe(source)
    try:
        image = source if isinstance(source, Image.Image) else Image.open(_file_of(source, name))
        width, height = image.size
        if width * height > MAX_IMAGE_PIXELS:
            raise BadRow(
                f"{name}: the image {where} has {width} x {height} pixels, more than the {MAX_IMAGE_PIXELS:,} that guard "
                "against decompression bombs. Scale it down.",
                kind="image too large",
            )
        if not decode and not _end_is_missing(source):
            return image
        return ImageOps.exif_transpose(image).convert("RGB")
    except BadRow:
        raise
    except FileNotFoundError as error:
        raise BadRow(
            f"{name}: there is no image {where}. Check --image_folder and the row's path.", kind="image missing"
        ) from error
    except UnidentifiedImageError as error:
        raise BadRow(f"{name}: {where} is not an image that Pillow can read.", kind="image unreadable") from error
    except Image.DecompressionBombError as error:
        raise BadRow(
            f"{name}: the image {where} is a decompression bomb ({error}). Scale it down.", kind="image too large"
        ) from error
    except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises for broken data differs by format
        raise BadRow(
            f"{name}: the image {where} is damaged or truncated ({error}). Replace it, or drop the row.",
            kind="image unreadable",
        ) from error


def _describe(source: ImageSource) -> str:
    if isinstance(source, Image.Image):
        return repr(getattr(source, "filename", "") or "in memory")
    if isinstance(source, Mapping):
        return repr(source.get("path") or f"of {len(source.get('bytes') or b'')} bytes")
    return repr(os.fspath(source))


def _file_of(source: ImageSource, name: str) -> Any:
    if isinstance(source, Mapping):
        if source.get("bytes") is not None:
            return io.BytesIO(source["bytes"])
        source = source.get("path") or ""
    path = os.fspath(source)  # type: ignore[arg-type]
    _refuse_url(path, name)
    if Path(path).is_dir():
        raise BadRow(f"{name}: {path!r} is a folder, not an image.", kind="image unreadable")
    return path


def _refuse_url(path: str, name: str) -> None:
    if path.lower().startswith(URL_SCHEMES):
        raise BadRow(
            f"{name}: the image {path!r:.200} is a URL, and those are not fetched. Download it and give its path.",
            kind="image path",
        )


def _end_is_missing(source: ImageSource) -> bool:
    """Whether a JPEG or PNG lacks its end marker. Some whole files do too, so it is a reason to decode, no verdict."""
    if isinstance(source, Image.Image):
        return False
    if isinstance(source, Mapping) and source.get("bytes") is not None:
        head, tail = source["bytes"][:8], source["bytes"][-64:]
    else:
        path = source["path"] if isinstance(source, Mapping) else source
        with open(path, "rb") as file:
            head = file.read(8)
            file.seek(max(0, os.fstat(file.fileno()).st_size - 64))
            tail = file.read()
    if head.startswith(b"\xff\xd8"):
        return b"\xff\xd9" not in tail
    if head.startswith(b"\x89PNG"):
        return b"IEND" not in tail
    return True
