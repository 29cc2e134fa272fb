"""Boxes and points drawn into a picture's own pixels."""

from collections.abc import Iterable, Sequence

from PIL import Image, ImageDraw

from .pictures import COLOURS

THIN = 200  # a line is one part in so many of the longer side, two pixels at least
Mark = tuple[Sequence[float], str]  # a box or a point, and its colour


def coloured(boxes: Iterable[Sequence[float]]) -> list[Mark]:
    """Each box with a colour of its own, as far as there are colours."""
    return [(box, COLOURS[number % len(COLOURS)]) for number, box in enumerate(boxes)]


def marked(image: Image.Image, marks: Iterable[Mark]) -> Image.Image:
    """A copy of a picture with boxes and points on it.

    Args:
        image: RGB.
        marks: Left, top, right and bottom, or x and y, in pixels of the picture, each with a colour such as `#1769c0`.
    """
    drawn = image.copy()
    draw = ImageDraw.Draw(drawn)
    line = max(2, round(max(image.size) / THIN))
    for box, colour in marks:
        left, top, right, bottom = box if len(box) == 4 else (box[0], box[1], box[0], box[1])
        if len(box) == 4:
            edges = (left, top, max(left, right - 1), max(top, bottom - 1))
            # A rim of white, so that no background swallows the line
            draw.rectangle([edges[0] - 1, edges[1] - 1, edges[2] + 1, edges[3] + 1], outline="#ffffff", width=line + 2)
            draw.rectangle(edges, outline=colour, width=line)
        else:
            for radius, fill in ((2 * line + 1, "#ffffff"), (2 * line, colour)):
                draw.ellipse((left - radius, top - radius, right + radius, bottom + radius), fill=fill)
    return drawn


def in_words(box: Sequence[float], size: tuple[int, int]) -> str:
    """A box or a point and what its numbers count: `160, 118 to 320, 362 of 640 x 480 pixels`."""
    corners = [f"{round(box[index])}, {round(box[index + 1])}" for index in range(0, len(box), 2)]
    return f"{' to '.join(corners)} of {size[0]} x {size[1]} pixels"
