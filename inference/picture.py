"""A picture that a visitor sent: checked before it is decoded, kept as it came."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from ..processing.image_files import PictureError, opened
from ..rows.images import MAX_IMAGE_PIXELS, open_image
from ..rows.schema import BadRow

# What browsers show as well; nothing else is tried on what a stranger sent
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "WEBP")
# MPO is what phones write: a JPEG with more pictures behind the first. Pillow finds it where it looks for a JPEG
SUFFIXES = {"BMP": ".bmp", "GIF": ".gif", "JPEG": ".jpg", "MPO": ".jpg", "PNG": ".png", "WEBP": ".webp"}


@dataclass(frozen=True)
class UploadLimits:
    """How large a picture may be.

    Attributes:
        max_bytes: Size of the file.
        max_pixels: Width times height; `train.images.MAX_IMAGE_PIXELS` at most.
    """

    max_bytes: int = 20_000_000
    max_pixels: int = MAX_IMAGE_PIXELS

    def __post_init__(self) -> None:
        if self.max_bytes < 1:
            raise ValueError(f"max_bytes={self.max_bytes}: give 1 or more.")
        if not 1 <= self.max_pixels <= MAX_IMAGE_PIXELS:
            raise ValueError(f"max_pixels={self.max_pixels}: give 1 to {MAX_IMAGE_PIXELS:,}.")


@dataclass(frozen=True)
class UploadedPicture:
    """A picture that was read.

    Attributes:
        image: RGB, upright.
        content: The file as it came.
        suffix: Of its format, for example `.jpg`, whatever the file was called.
        path: Where it lies.
    """

    image: Image.Image
    content: bytes
    suffix: str
    path: str

    @property
    def digest(self) -> str:
        """Names the content."""
        return hashlib.sha256(self.content).hexdigest()[:32]


def read_picture(path: str | os.PathLike, name: str, limits: UploadLimits) -> UploadedPicture:
    """Read an uploaded file as a picture.

    Args:
        path: Where it lies.
        name: What its sender calls it, for messages.
        limits: How large it may be. Size, format and pixels are checked before anything is decoded.

    Raises:
        BadRow: Too large, of another format, damaged, or no picture at all.
    """
    size = os.path.getsize(path)
    if size > limits.max_bytes:
        raise BadRow(
            f"{name!r} has {size:,} bytes, and {limits.max_bytes:,} are allowed. Scale it down.",
            kind="image too large",
        )
    content = Path(path).read_bytes()
    kind, width, height = None, 0, 0
    try:
        with opened(content, formats=FORMATS) as picture:
            kind, (width, height) = picture.format, picture.size
    except PictureError as error:
        if error.kind == "image too large":
            raise BadRow(f"{name!r} is a decompression bomb. Scale it down.", kind=error.kind) from error
    if kind not in SUFFIXES:
        raise BadRow(
            f"{name!r} is not a picture that can be read: send a {', '.join(FORMATS)} file.",
            kind="image unreadable",
        )
    if width * height > limits.max_pixels:
        raise BadRow(
            f"{name!r} has {width} x {height} pixels, and {limits.max_pixels:,} are allowed. Scale it down.",
            kind="image too large",
        )
    image = open_image({"bytes": content, "path": name}, "the picture")
    return UploadedPicture(image, content, SUFFIXES[kind], os.fspath(path))
