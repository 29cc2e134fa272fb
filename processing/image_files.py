"""Opening a picture, whatever it comes as and whatever it is called; and what to say of one that cannot be opened.

Known by content: neither suffix nor declared type is looked at.
"""

import base64
import binascii
import contextlib
import importlib
import io
import os
import urllib.parse
from collections.abc import Iterator, Mapping
from typing import Any

from PIL import Image, UnidentifiedImageError

# Pillow's own line between a large photograph and a decompression bomb: about 89 megapixels
MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS or 89_478_485


class PictureError(ValueError):
    """A picture that cannot be read. The message says which and why.

    Args:
        message: All of that.
        kind: What sort of fault: "image missing", "image unreadable", "image format" (a known format that Pillow here
            does not read) or "image too large".
    """

    def __init__(self, message: str, kind: str = "image unreadable"):
        super().__init__(message)
        self.kind = kind


@contextlib.contextmanager
def opened(image: Any, formats: tuple[str, ...] | None = None) -> Iterator[Image.Image]:
    """A picture as Pillow opens it: its header is read, its pixels are not. Closed at the end, unless it came open.

    Args:
        image: As for `to_rgb`, but no array.
        formats: Pillow's names of those that are tried. Default: all.

    Raises:
        PictureError: There is no such file, or Pillow does not read it.
        ValueError: It is none of what `to_rgb` takes.
    """
    if isinstance(image, Image.Image):
        yield image
        return
    file = _file_of(image)
    with naming(image):
        picture = _open(file, image, formats)
    with picture:
        yield picture


def describe(image: Any) -> str:
    """What an error calls a picture: its path, or what is known of it."""
    if isinstance(image, Mapping):
        return describe(image.get("path") or image["bytes"])
    if isinstance(image, Image.Image):
        path = getattr(image, "filename", "")
        return describe(path) if path else f"in memory ({image.mode}, {image.size[0]} x {image.size[1]})"
    if isinstance(image, bytes | bytearray):
        return f"of {len(image)} bytes"
    path = str(os.fspath(image))
    path = path if len(path) <= 300 else f"{path[:60]}..."
    return repr(path)


def too_large(what: str, size: tuple[int, int], most: int = MAX_IMAGE_PIXELS) -> PictureError:
    """The error about a picture with too many pixels."""
    return PictureError(
        f"the image {what} has {size[0]} x {size[1]} pixels, more than the {most:,} that guard against decompression "
        "bombs. Scale it down.",
        "image too large",
    )


def _file_of(image: Any) -> str | io.BytesIO:
    """A path, or a file in memory."""
    if isinstance(image, Mapping):
        if image.get("bytes") is not None:
            return io.BytesIO(image["bytes"])
        image = image.get("path")
    if isinstance(image, bytes | bytearray):
        return io.BytesIO(image)
    if not isinstance(image, str | os.PathLike):
        raise ValueError(
            f"image of type {type(image).__name__} is not understood. Pass a PIL image, a path, a URL, bytes, "
            '{"bytes", "path"}, or an array of shape (height, width, 3).'
        )
    path = os.fspath(image)
    if path.startswith("data:"):
        return io.BytesIO(_content_of(path))
    if path.startswith(("http://", "https://")):
        import httpx  # not at the top: reading a file needs no network

        with naming(path):
            return io.BytesIO(httpx.get(path, timeout=60, follow_redirects=True).raise_for_status().content)
    return path


def _content_of(address: str) -> bytes:
    """The bytes in a `data:` address. What kind it says they are is not looked at."""
    head, comma, data = address.partition(",")
    try:
        if not comma:
            raise ValueError("there is no comma in it")
        content = urllib.parse.unquote_to_bytes(data)
        return base64.b64decode(content, validate=True) if head.endswith(";base64") else content
    except (ValueError, binascii.Error) as error:
        raise PictureError(f"the image {describe(address)} is no data address ({error}). Write it anew.") from error


def _open(file: str | io.BytesIO, image: Any, formats: tuple[str, ...] | None) -> Image.Image:
    if isinstance(file, str) and os.path.isdir(file):
        raise PictureError(f"{describe(image)} is a folder, not an image. Give the path of a file.")
    try:
        picture = Image.open(file, formats=formats)
    except UnidentifiedImageError:
        head = _head(file)
        if formats or _format_of(head) not in ("HEIC", "AVIF") or not _heif_opener():
            raise _unidentified(describe(image), head) from None
        picture = Image.open(file)
    if picture.format == "EPS":  # Pillow would hand it to Ghostscript, which runs programs
        picture.close()
        raise _unidentified(describe(image), b"%!PS")
    return picture


def _head(file: str | io.BytesIO) -> bytes:
    if isinstance(file, io.BytesIO):
        return file.getvalue()[:256]
    with open(file, "rb") as content:
        return content.read(256)


def _heif_opener() -> bool:
    """Have Pillow read HEIC by `pillow_heif`, where that is installed."""
    try:
        importlib.import_module("pillow_heif").register_heif_opener()
    except ImportError:
        return False
    return True


def _format_of(head: bytes) -> str | None:
    """A format that Pillow may not read, by the first bytes of a file."""
    if head[4:8] == b"ftyp":
        brand = head[8:12]
        return "AVIF" if brand in (b"avif", b"avis") else "HEIC" if brand[:2] in (b"he", b"mi", b"ms") else "a video"
    if head.startswith((b"\xff\x0a", b"\0\0\0\x0cJXL ")):
        return "JPEG XL"
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for start, name in ((b"%pdf", "PDF"), (b"%!ps", "EPS"), (b"<!doctype html", "HTML"), (b"<html", "HTML")):
        if text.startswith(start):
            return name
    return "SVG" if text.startswith((b"<svg", b"<?xml")) and b"<svg" in text else None


def _unidentified(what: str, head: bytes) -> PictureError:
    found = _format_of(head)
    if found in (None, "HTML", "a video"):
        it_is = {"HTML": "it is a page of HTML, ", "a video": "it is a video, "}.get(found or "", "")
        it_is = it_is or ("the file is empty, " if not head else "")
        return PictureError(
            f"{what} cannot be read as an image: {it_is}not an image that Pillow can read. Give an image file."
        )
    remedy = " (pip install pillow-heif has it read)" if found == "HEIC" else ""
    return PictureError(
        f"{what} cannot be read as an image: it is {found}, which Pillow does not read here{remedy}. Save it as JPEG or PNG.",
        "image format",
    )


@contextlib.contextmanager
def naming(image: Any) -> Iterator[None]:
    """Errors of Pillow's, with the picture's name on them."""
    try:
        yield
    except PictureError:
        raise
    except FileNotFoundError as error:
        raise PictureError(
            f"there is no image {describe(image)}: it cannot be read as an image. Correct the path.",
            "image missing",
        ) from error
    except Image.DecompressionBombError as error:
        raise PictureError(
            f"the image {describe(image)} is a decompression bomb ({error}). Scale it down.", "image too large"
        ) from error
    except MemoryError:
        raise
    except Exception as error:  # what Pillow raises for broken data differs by format
        raise PictureError(
            f"the image {describe(image)} is damaged or truncated ({error or type(error).__name__}). Replace it."
        ) from error
