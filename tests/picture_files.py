"""Picture files of every kind that people have, each with the pixels that whoever reads it must see.

`FILES` is name -> (content, expected): the expected pixels are an array of shape `(height, width, 3)`, and a lossy format
may miss them by a little. All show the same scene where the format can: a ramp of grey from left to right, with a red
square in its top left corner, so that no turn of it looks like another.
"""

import io
from typing import Any

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 48, 32
RAMP = np.tile(np.linspace(0, 255, WIDTH).round().astype(np.uint8), (HEIGHT, 1))
SCENE = np.repeat(RAMP[..., None], 3, axis=2)
SCENE[:16, :16] = (255, 0, 0)
GREY = np.repeat(RAMP[..., None], 3, axis=2)
# What a camera stores for a scene that is shown upright once the tag is obeyed: the inverse of the turn
STORED = {
    1: lambda scene: scene,
    2: lambda scene: scene[:, ::-1],
    3: lambda scene: scene[::-1, ::-1],
    4: lambda scene: scene[::-1],
    5: lambda scene: scene.transpose(1, 0, 2),
    6: lambda scene: np.rot90(scene, 1),
    7: lambda scene: np.rot90(scene, 2).transpose(1, 0, 2),
    8: lambda scene: np.rot90(scene, -1),
}


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def tagged(turn: int, kind: str, **options: Any) -> bytes:
    """The scene as a camera held in one of eight ways stores it."""
    exif = Image.Exif()
    exif[0x0112] = turn
    stored = np.ascontiguousarray(STORED[turn](SCENE))
    return encoded(Image.fromarray(stored), kind, exif=exif, **options)


def tagged_behind() -> bytes:
    """A PNG whose tag stands behind its pixels, where who reads the header alone does not come by."""
    content = tagged(6, "PNG")
    start = content.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(content[start : start + 4], "big")
    return content[:start] + content[end:-12] + content[start:end] + content[-12:]


def _with_alpha() -> tuple[Image.Image, np.ndarray]:
    """Clear on the left, where other pixels stand that nobody sees; half clear in the middle."""
    alpha = np.full((HEIGHT, WIDTH), 255, np.uint8)
    alpha[:, :16], alpha[:, 16:32] = 0, 128
    image = Image.fromarray(np.dstack([SCENE, alpha]))
    share = alpha[..., None] / 255
    return image, np.rint(SCENE * share + 255 * (1 - share)).astype(np.uint8)


def _of_palette(**options: Any) -> bytes:
    image = Image.new("P", (WIDTH, HEIGHT), 1)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.paste(0, (0, 0, 16, 16))
    return encoded(image, "PNG", **options)


def _palette_pixels(first: tuple[int, int, int]) -> np.ndarray:
    pixels = np.full((HEIGHT, WIDTH, 3), (0, 0, 255), np.uint8)
    pixels[:16, :16] = first
    return pixels


def _files() -> dict[str, tuple[bytes, np.ndarray]]:
    scene, (clear, on_white) = Image.fromarray(SCENE), _with_alpha()
    grey_alpha = Image.merge("LA", (Image.fromarray(RAMP), clear.getchannel("A")))
    share = np.asarray(clear)[..., 3:] / 255
    grey_on_white = np.rint(GREY * share + 255 * (1 - share)).astype(np.uint8)
    without_red = np.where((SCENE == (255, 0, 0)).all(axis=2, keepdims=True), 255, SCENE)
    sixteen = RAMP.astype(np.uint16) * 257
    other = Image.new("RGB", (WIDTH, HEIGHT), "green")
    thin = np.linspace(0, 255, 3000).round().astype(np.uint8)
    files = {f"turn {turn} of JPEG": (tagged(turn, "JPEG", quality=95, subsampling=0), SCENE) for turn in STORED}
    files |= {f"turn {turn} of {kind}": (tagged(turn, kind), SCENE) for turn in (3, 6, 7) for kind in ("PNG", "TIFF")}
    return files | {
        "turn 6 behind the pixels of PNG": (tagged_behind(), SCENE),
        "turn 6 of WebP": (tagged(6, "WEBP", lossless=True), SCENE),
        "16-bit PNG": (encoded(Image.fromarray(sixteen), "PNG"), GREY),
        "16-bit TIFF": (encoded(Image.fromarray(sixteen), "TIFF"), GREY),
        "16-bit big-endian TIFF": (encoded(Image.fromarray(sixteen.astype(">u2")), "TIFF"), GREY),
        "32-bit integers of 16 bits": (encoded(Image.fromarray(sixteen.astype(np.int32)), "TIFF"), GREY),
        "32-bit integers of 8 bits": (encoded(Image.fromarray(RAMP.astype(np.int32)), "TIFF"), GREY),
        "32-bit integers below zero": (encoded(Image.fromarray(sixteen.astype(np.int32) - 30_000), "TIFF"), GREY),
        "float TIFF of 0 to 1": (encoded(Image.fromarray((RAMP / 255).astype(np.float32)), "TIFF"), GREY),
        "float TIFF of metres": (encoded(Image.fromarray((RAMP / 51 - 2).astype(np.float32)), "TIFF"), GREY),
        "dark float TIFF": (encoded(Image.fromarray((RAMP / 2550).astype(np.float32)), "TIFF"), np.rint(GREY / 10)),
        "alpha PNG": (encoded(clear, "PNG"), on_white),
        "alpha WebP": (encoded(clear, "WEBP", lossless=True, exact=True), on_white),
        "grey with alpha": (encoded(grey_alpha, "PNG"), grey_on_white),
        "palette": (_of_palette(), _palette_pixels((255, 0, 0))),
        "palette with a clear colour": (_of_palette(transparency=0), _palette_pixels((255, 255, 255))),
        "a clear colour": (encoded(scene, "PNG", transparency=(255, 0, 0)), without_red),
        "CMYK JPEG": (encoded(scene.convert("CMYK"), "JPEG", quality=95, subsampling=0), SCENE),
        "1 bit": (encoded(Image.fromarray(RAMP > 99), "PNG"), np.repeat((RAMP > 99)[..., None], 3, axis=2) * 255),
        "animated GIF": (encoded(scene, "GIF", save_all=True, append_images=[other]), SCENE),
        "animated PNG": (encoded(scene, "PNG", save_all=True, append_images=[other]), SCENE),
        "animated WebP": (encoded(scene, "WEBP", save_all=True, append_images=[other], lossless=True), SCENE),
        "pages of a TIFF": (encoded(scene, "TIFF", save_all=True, append_images=[other]), SCENE),
        "MPO": (encoded(scene, "MPO", save_all=True, append_images=[other], quality=95, subsampling=0), SCENE),
        "thin": (encoded(Image.fromarray(thin[:, None]), "PNG"), np.repeat(thin[:, None, None], 3, axis=2)),
    }  # fmt: skip


FILES = _files()
# What a lossy format may miss a pixel by, at most and on average
MOST, MEAN = 90, 6


def distance(seen: np.ndarray, expected: np.ndarray) -> tuple[float, float]:
    """The largest and the mean difference of pixels."""
    apart = np.abs(seen.astype(int) - expected.astype(int))
    return float(apart.max()), float(apart.mean())
