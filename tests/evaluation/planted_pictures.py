"""Pictures of a set with planted leaks: drawn ones of several kinds, photographs, and what becomes of a picture that leaks.

Written before the check of leaks was tuned; seed 0 is for tuning, the others are looked at once.
"""

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

LETTERS = "abcdefghijklmnoprstuvwyz"
PARTS = 3  # photographs are dealt out to so many seeds, so that no seed sees another one's


def photographs(shared: Path, seed: int) -> list[Path]:
    """The photographs of a seed, in random order."""
    found = sorted((shared / "coco_photos" / "images").glob("*")) + sorted((shared / "clothing").glob("*/*/*"))
    mine = [path for place, path in enumerate(found) if place % PARTS == seed % PARTS]
    return [mine[place] for place in np.random.default_rng(seed).permutation(len(mine))]


def drawn_picture(draw: np.random.Generator, kind: str | None = None) -> Image.Image:
    """A picture that was not there before."""
    kinds = {"scene": _scene, "texture": _texture, "chart": _chart, "page": _page}
    return kinds[kind or str(draw.choice(list(kinds), p=[0.5, 0.25, 0.15, 0.1]))](draw)


def sibling(picture: Image.Image, draw: np.random.Generator) -> Image.Image:
    """Another picture of the same place: the background stays, other things stand there."""
    other = picture.copy()
    _shapes(other, draw, int(draw.integers(4, 9)), largest=0.4)
    return other


def leaked_picture(picture: Image.Image, how: str, draw: np.random.Generator) -> bytes:
    """The file of a picture that came into a training set by some way.

    Args:
        how: "same" is stored without loss; "resized" by 0.4 to 2 times, by any filter; "recompressed" as JPEG of quality
            20 to 90, or as WebP; "cropped" loses 10 % of width and of height, wherever; "cropped anew" is cropped, resized
            and recompressed.
    """
    quality = 92
    if how.startswith("cropped"):
        width, height = (round(0.9 * side) for side in picture.size)
        left, top = (
            int(draw.integers(0, picture.width - width + 1)),
            int(draw.integers(0, picture.height - height + 1)),
        )
        picture = picture.crop((left, top, left + width, top + height))
    if how in ("resized", "cropped anew"):
        factor = float(draw.uniform(0.4, 2)) if how == "resized" else float(draw.uniform(0.6, 1.5))
        filters = [Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS, Image.Resampling.BOX]
        size = tuple(max(16, round(factor * side)) for side in picture.size)
        picture = picture.resize(size, filters[draw.integers(len(filters))])
    if how in ("recompressed", "cropped anew"):
        quality = int(draw.integers(20, 91))
    if how == "same":
        return _file(picture, "PNG")
    return _file(picture, "WEBP" if how == "recompressed" and draw.random() < 0.3 else "JPEG", quality)


LEAKS = ("same", "resized", "recompressed", "cropped", "cropped anew")


def _file(picture: Image.Image, kind: str, quality: int = 92) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **({"compress_level": 1} if kind == "PNG" else {"quality": quality}))
    return file.getvalue()


def saved(picture: Image.Image) -> bytes:
    """The file of a picture that nobody changed."""
    return _file(picture, "JPEG")


def _size(draw: np.random.Generator) -> tuple[int, int]:
    return int(draw.integers(140, 300)), int(draw.integers(120, 240))


def _colour(draw: np.random.Generator) -> tuple[int, int, int]:
    return tuple(int(value) for value in draw.integers(0, 256, 3))  # type: ignore[return-value]


def _smooth(draw: np.random.Generator, size: tuple[int, int], cells: int) -> np.ndarray:
    grid = draw.integers(0, 256, (cells, cells, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(grid).resize(size, Image.Resampling.BICUBIC), dtype=np.float32)


def _texture(draw: np.random.Generator) -> Image.Image:
    size, steps = _size(draw), [3, 7, 17, 40]
    weights = draw.dirichlet([1.5] * len(steps))
    layers = [weight * _smooth(draw, size, cells) for weight, cells in zip(weights, steps, strict=True)]
    return Image.fromarray(np.clip(sum(layers), 0, 255).astype(np.uint8))


def _scene(draw: np.random.Generator) -> Image.Image:
    size = _size(draw)
    ground = _smooth(draw, size, int(draw.integers(2, 5)))
    ground += draw.normal(0, 4, ground.shape)
    picture = Image.fromarray(np.clip(ground, 0, 255).astype(np.uint8))
    _shapes(picture, draw, int(draw.integers(4, 14)), largest=0.5)
    return picture


def _shapes(picture: Image.Image, draw: np.random.Generator, number: int, largest: float) -> None:
    pen, (width, height) = ImageDraw.Draw(picture), picture.size
    for _ in range(number):
        across, down = width * draw.uniform(0.05, largest), height * draw.uniform(0.05, largest)
        left, top = draw.uniform(0, width - across), draw.uniform(0, height - down)
        box = (left, top, left + across, top + down)
        match draw.integers(4):
            case 0:
                pen.rectangle(box, fill=_colour(draw))
            case 1:
                pen.ellipse(box, fill=_colour(draw))
            case 2:
                pen.polygon([(left, top + down), (left + across, top + down), (left + across / 2, top)], _colour(draw))
            case _:
                pen.line(box, fill=_colour(draw), width=int(draw.integers(2, 8)))


def _chart(draw: np.random.Generator) -> Image.Image:
    """Bars on white: charts look much alike."""
    size = _size(draw)
    picture = Image.new("RGB", size, "white")
    pen, (width, height) = ImageDraw.Draw(picture), size
    pen.text((width * 0.3, 2), _word(draw) + " " + _word(draw), fill="black")
    pen.line((20, 16, 20, height - 20, width - 8, height - 20), fill="black")
    bars = int(draw.integers(3, 10))
    colours = [_colour(draw) for _ in range(int(draw.integers(1, 4)))]
    step = (width - 36) / bars
    for place in range(bars):
        top = draw.uniform(20, height - 30)
        left = 26 + place * step
        pen.rectangle((left, top, left + step * 0.7, height - 21), fill=colours[place % len(colours)])
        pen.text((left, height - 16), _word(draw)[:3], fill="black")
    return picture


def _page(draw: np.random.Generator) -> Image.Image:
    """Lines of text on white: pages look more alike still."""
    size = _size(draw)
    picture = Image.new("RGB", size, "white")
    pen, (width, height) = ImageDraw.Draw(picture), size
    pen.text((12, 8), f"{_word(draw)} {_word(draw)}".upper(), fill=_colour(draw))
    for top in range(28, height - 16, 12):
        if draw.random() < 0.15:
            continue
        words = " ".join(_word(draw) for _ in range(int(draw.integers(2, 7))))
        pen.text((12, top), words[: (width - 24) // 6], fill="black")
    return picture


def _word(draw: np.random.Generator) -> str:
    return "".join(LETTERS[place] for place in draw.integers(0, len(LETTERS), int(draw.integers(3, 9))))
