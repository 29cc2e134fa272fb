"""Images on their way to the vision encoder: loading, and making them square.

Images are read as the original LLaVA reads them: converted to RGB, not turned by their EXIF tag. A `datasets` column
or an address loaded by transformers has been turned upright before it comes here.
"""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def to_rgb(image: Any) -> Image.Image:
    """An RGB image from a PIL image, a path, a URL, a data URL, bytes, `{"bytes", "path"}` or a `(H, W, 3)` array.

    Raises:
        ValueError: If the image is none of these, or cannot be read.
    """
    if isinstance(image, Image.Image):
        return image if image.mode == "RGB" else image.convert("RGB")
    if isinstance(image, Mapping) and (image.get("bytes") is not None or image.get("path") is not None):
        return to_rgb(image["bytes"] if image.get("bytes") is not None else image["path"])
    if isinstance(image, np.ndarray) and image.ndim == 3 and image.shape[2] == 3 and image.dtype == np.uint8:
        return Image.fromarray(image)
    if isinstance(image, bytes):
        return _open(io.BytesIO(image), "the given bytes")
    if isinstance(image, (str, Path)):
        if str(image).startswith(("http://", "https://", "data:")):
            from transformers.image_utils import load_image  # not at the top: reading a file needs no transformers

            return load_image(str(image))
        return _open(image, f"image={str(image)[:200]!r}")
    raise ValueError(
        f"image of type {type(image).__name__} is not understood. Pass a PIL image, a path, a URL, bytes, or a uint8 "
        "array of shape (height, width, 3)."
    )


def _open(file: Any, what: str) -> Image.Image:
    try:
        with Image.open(file) as image:
            return image.convert("RGB")
    except OSError as error:
        raise ValueError(f"{what} cannot be read as an image: {error}. Give an existing image file.") from error


def pad_to_square(image: Image.Image, colour: tuple[int, ...]) -> Image.Image:
    """Centre an image on a square of its longer side filled with `colour` (LLaVA-1.5, section 3.2)."""
    width, height = image.size
    if width == height:
        return image
    side = max(width, height)
    square = Image.new("RGB", (side, side), colour)
    square.paste(image, ((side - width) // 2, (side - height) // 2))
    return square


def crop_to_square(image: Image.Image) -> Image.Image:
    """Cut the centred square of an image's shorter side."""
    width, height = image.size
    if width == height:
        return image
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return image.crop((left, top, left + side, top + side))
