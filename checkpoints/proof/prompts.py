"""The conversations that a conversion is proven with, and their pictures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

# Widths and heights in views: a square, a wide and a tall one of odd sizes, and a strip
SHAPES = ((1.0, 1.0), (2.3, 0.9), (0.7, 1.9), (3.0, 0.04))


def proof_conversations(
    view_size: tuple[int, int], folder: Path, shapes: Sequence[tuple[float, float]] = SHAPES
) -> list[Any]:
    """A question about each picture, a second turn about one, and a question without a picture.

    Args:
        view_size: Height and width of a view of the checkpoint, in pixels.
        folder: Where the pictures go.
        shapes: Of the pictures, in views; two or more.

    Returns:
        Conversations in transformers' format, images as paths.
    """
    pictures = [_picture(index, *shape, view_size, folder) for index, shape in enumerate(shapes)]
    conversations = [[_asked("What is in this picture?", picture)] for picture in pictures]
    answer = {"role": "assistant", "content": [{"type": "text", "text": "Stripes, and a square."}]}
    return [
        *conversations,
        [_asked("Describe it.", pictures[1]), answer, _asked("Where is the square?")],
        [_asked("Which colour has the sky?")],
    ]


def question_of(conversation: list[Any]) -> str:
    """The last question, with the size of the conversation's picture."""
    blocks = [block for turn in conversation for block in turn["content"]]
    shown = [Path(block["image"]).stem for block in blocks if block["type"] == "image"]
    return " ".join([blocks[-1]["text"], *(f"({size} px)" for size in shown)])


def _asked(text: str, picture: str | None = None) -> dict[str, Any]:
    image = [{"type": "image", "image": picture}] if picture is not None else []
    return {"role": "user", "content": [*image, {"type": "text", "text": text}]}


def _picture(index: int, across: float, down: float, view_size: tuple[int, int], folder: Path) -> str:
    """Stripes that grow finer, a square, and noise: nothing of it looks the same elsewhere."""
    height, width = max(1, round(down * view_size[0])), max(1, round(across * view_size[1]))
    rng = np.random.default_rng(index)
    columns, rows = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    waves = np.stack([np.sin(40 * columns**2), np.cos(25 * rows**2), np.sin(18 * (rows + columns))], -1)
    pixels = 128 + 90 * np.roll(waves, index, -1) + rng.normal(0, 12, waves.shape)
    pixels[height // 3 : height // 2, width // 4 : width // 2] = (220, 40, 30)
    path = folder / str(index) / f"{width} x {height}.png"
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path)
    return str(path)
