"""The one way from a file to pixels: whatever a picture comes as, it leaves as upright RGB; and how it becomes square.

Training, chat, evaluation, a teacher's request and a saved checkpoint's own processor all see what `to_rgb` returns, so
a picture looks the same to all of them:

- *Turned upright* as its EXIF tag says; a phone stores most of its photographs lying on their side.
- *Scaled to 8 bits*: Pillow's own conversion clips a 16-bit depth map to white and a float one to black.
- *Transparency laid on white*; Pillow's own conversion shows what happens to stand in the pixels that nobody sees.
- *The first picture* of an animation, of a TIFF's pages, or of the several that a phone keeps in one JPEG (MPO).
- *Known by content*: neither suffix nor declared type is looked at.

Needs Pillow and NumPy alone.
"""

import io
import math
from typing import Any

import numpy as np
from PIL import Image

from .image_files import MAX_IMAGE_PIXELS, describe, naming, opened, too_large

BACKGROUND = (255, 255, 255)  # what transparency is laid on
LONGEST_STRIP = 8  # times as long as wide: the longest that a picture is resized whole, to be cropped afterwards
PADDED_SIDE = 4096  # pixels; of pictures so long that a square of their longer side would not fit MAX_IMAGE_PIXELS

_ORIENTATION = 0x0112  # the EXIF tag
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = (5, 6, 7, 8)  # turns that swap width and height


def to_rgb(image: Any) -> Image.Image:
    """A picture as upright RGB.

    Args:
        image: A PIL image, a path, an http or data address, bytes, `{"bytes", "path"}` as `datasets` stores a picture,
            or an array of shape `(height, width)` or `(height, width, channels)` with 1, 3 or 4 channels: 8 or 16 bits,
            or floats from 0 to 1.

    Returns:
        A PIL image of mode RGB; the given one itself, if it is that already.

    Raises:
        PictureError: It is missing, damaged, of an unknown format, or a file of more than `MAX_IMAGE_PIXELS` pixels.
        ValueError: It is none of what `image` may be.
    """
    if isinstance(image, np.ndarray):
        return _from_array(image)
    with opened(image) as picture, naming(image):
        # Only of a file: who holds a picture in memory has paid for its pixels
        if picture is not image and picture.size[0] * picture.size[1] > MAX_IMAGE_PIXELS:
            raise too_large(describe(image), picture.size)
        picture.load()
        rgb = _eight_bit_rgb(_turned(picture))
        return rgb.copy() if rgb is picture is not image else rgb  # a copy knows nothing of the file


def upright_size(image: Any) -> tuple[int, int]:
    """Width and height of a picture once it is upright, from its header alone.

    Args:
        image: As for `to_rgb`.

    Raises:
        PictureError: As `to_rgb`, but for damage that only the pixels show.
    """
    if isinstance(image, np.ndarray):
        return image.shape[1], image.shape[0]
    with opened(image) as picture:
        width, height = picture.size
        if picture is not image and width * height > MAX_IMAGE_PIXELS:
            raise too_large(describe(image), picture.size)
        # Pillow turns TIFF by itself, and its size says so before it has
        sideways = picture.format != "TIFF" and _orientation(picture) in _SIDEWAYS
        return (height, width) if sideways else (width, height)


def shows_alike(picture: Image.Image) -> bool:
    """Whether every program shows a picture as `to_rgb` does: upright, in 8 bits, one frame, nothing transparent."""
    still = picture.format == "MPO" or not getattr(picture, "is_animated", False)
    plain = picture.mode in ("1", "L", "P", "RGB") and not picture.has_transparency_data
    return still and plain and _orientation(picture) not in _TURNS


# ---------------------------------------------------------------------------------------------------- pixels


def _orientation(picture: Image.Image) -> int:
    try:
        # Pillow reads the pixels of a PNG to look for a tag behind them; nearly always there is none
        only_before = picture.format == "PNG" and not _may_be_tagged_behind(picture)
        return (Image.Image.getexif(picture) if only_before else picture.getexif()).get(_ORIENTATION, 1)
    except Exception:  # a damaged tag says nothing, and what Pillow raises for one differs
        return 1


def _may_be_tagged_behind(picture: Any) -> bool:
    """Whether something that may hold a tag stands behind the pixels of a PNG; the headers of its parts are read."""
    file, behind = picture.fp, False
    if file is None:  # the pixels are read, and with them what stands behind
        return False
    place = file.tell()
    try:
        file.seek(8)
        while len(head := file.read(8)) == 8:
            behind = behind or head[4:] == b"IDAT"
            if behind and head[4:] in (b"eXIf", b"iTXt", b"tEXt", b"zTXt"):
                return True
            file.seek(int.from_bytes(head[:4], "big") + 4, io.SEEK_CUR)
        return False
    finally:
        file.seek(place)


def _turned(picture: Image.Image) -> Image.Image:
    turn = _TURNS.get(_orientation(picture))
    if turn is None:
        return picture
    transparency = picture.info.get("transparency")
    picture = picture.transpose(turn)
    picture.info = {} if transparency is None else {"transparency": transparency}  # the turn is done, once
    return picture


def _eight_bit_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I;16"):
        return Image.fromarray(_of_sixteen_bits(np.asarray(picture))).convert("RGB")
    if picture.mode == "I":
        return Image.fromarray(_of_integers(np.asarray(picture), picture.format)).convert("RGB")
    if picture.mode == "F":
        return Image.fromarray(_of_floats(np.asarray(picture))).convert("RGB")
    if picture.has_transparency_data:
        picture = picture.convert({"La": "LA", "RGBa": "RGBA"}.get(picture.mode, picture.mode)).convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", picture.size, (*BACKGROUND, 255)), picture).convert("RGB")
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def _of_sixteen_bits(values: np.ndarray) -> np.ndarray:
    """0 to 65535 -> 0 to 255, rounded: 257 = 65535 / 255."""
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _of_integers(values: np.ndarray, kind: str | None) -> np.ndarray:
    """32-bit integers -> 0 to 255: 16 bits in a wider place, 8 bits in a wider place, else over their own range."""
    low, high = int(values.min()), int(values.max())
    if 0 <= low and high <= 65535 and (high > 255 or kind in ("PNG", "PPM")):  # those two formats hold no more than 16
        return _of_sixteen_bits(values)
    return values.astype(np.uint8) if 0 <= low and high <= 255 else _of_floats(values.astype(np.float64))


def _of_floats(values: np.ndarray) -> np.ndarray:
    """0 to 1 -> 0 to 255; what does not lie there, over its own range. What is no number is black.

    Raises:
        ValueError: Nothing in it is a number.
    """
    finite = np.isfinite(values)
    if not finite.any():
        raise ValueError("there is no number in it, only NaN or infinity")
    low, high = float(values[finite].min()), float(values[finite].max())
    if 0 <= low and high <= 1:
        low, high = 0.0, 1.0
    scaled = (np.where(finite, values, low) - low) * (255 / (high - low or 1.0))
    return np.rint(scaled).astype(np.uint8)


def _from_array(values: np.ndarray) -> Image.Image:
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[..., 0]
    shape_is_known = values.ndim == 2 or (values.ndim == 3 and values.shape[2] in (3, 4))
    if shape_is_known and values.size and values.dtype == np.uint16:
        values = _of_sixteen_bits(values)
    elif shape_is_known and values.size and (values.dtype.kind == "f" or values.dtype == bool):
        values = _of_floats(values.astype(np.float64))
    if not shape_is_known or not values.size or values.dtype != np.uint8:
        raise ValueError(
            f"image is an array of shape {values.shape} and type {values.dtype}. Pass one of shape (height, width) or "
            "(height, width, channels) with 1, 3 or 4 channels, and uint8, uint16 or floats from 0 to 1."
        )
    return _eight_bit_rgb(Image.fromarray(np.ascontiguousarray(values)))


# ---------------------------------------------------------------------------------------------------- squares


def pad_to_square(image: Image.Image, colour: tuple[int, ...]) -> Image.Image:
    """Centre an image on a square of its longer side filled with `colour` (LLaVA-1.5, section 3.2).

    An image whose square would have more than `MAX_IMAGE_PIXELS` is first scaled to a longer side of `PADDED_SIDE`.
    """
    width, height = image.size
    if width == height:
        return image
    if max(width, height) ** 2 > MAX_IMAGE_PIXELS:
        scale = PADDED_SIDE / max(width, height)
        image = image.resize((max(1, round(width * scale)), max(1, round(height * scale))))
        width, height = image.size
    side = max(width, height)
    square = Image.new("RGB", (side, side), colour)
    square.paste(image, ((side - width) // 2, (side - height) // 2))
    return square


def crop_to_square(image: Image.Image) -> Image.Image:
    """Cut the centred square of an image's shorter side."""
    return _centre(image, min(image.size), min(image.size))


def trim_strip(image: Image.Image) -> Image.Image:
    """Cut off what lies far outside the centred square, for an image that is resized whole and cropped afterwards.

    A strip of 1 x 3000 pixels, resized to a shorter side of 224, would have 150 million pixels for the 224 x 224 that are
    kept. An image up to `LONGEST_STRIP` times as long as wide comes back as it is.
    """
    width, height = image.size
    side = min(width, height)
    most = LONGEST_STRIP * side
    # An even number off the length keeps the centre where it was, to the pixel
    return _centre(image, *(length - math.ceil(max(0, length - most) / 2) * 2 for length in (width, height)))


def _centre(image: Image.Image, width: int, height: int) -> Image.Image:
    if image.size == (width, height):
        return image
    left, top = (image.size[0] - width) // 2, (image.size[1] - height) // 2
    return image.crop((left, top, left + width, top + height))
