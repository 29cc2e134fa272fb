"""Where a point of a picture lies in what the model sees of it, and back.

    picture, upright  ── Placement ──>  canvas  ── cut ──>  views  ── encoder, connector ──>  tokens

A layout puts the upright picture on a canvas, by a scale and an offset for each axis, and cuts its views out of that;
see `ImageLayout.placement`. From there to views and tokens: `image_regions`.

Every picture is turned upright as its EXIF tag says before anything looks at it (`image_inputs.to_rgb`), so that pixels
and boxes are those of the upright picture, as people see it; annotations that count on the picture as it lies in its
file have to be turned first.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Placement:
    """A picture on a canvas: pixels of the canvas = pixels of the picture * scale + offset.

    Pixels are counted along the edges: 0 is the left edge of the first, `width` the right edge of the last.

    Attributes:
        width (`int`): Of the canvas, in pixels.
        height (`int`): Of the canvas, in pixels.
        scale_x (`float`): Pixels of the canvas for one of the picture, across.
        scale_y (`float`): The same, down.
        left (`float`): Where the left edge of the picture lies on the canvas; negative where it was cut off.
        top (`float`): The same for its top edge.
    """

    width: int
    height: int
    scale_x: float
    scale_y: float
    left: float = 0.0
    top: float = 0.0

    @classmethod
    def stretched(cls, width: int, height: int, canvas: tuple[int, int]) -> "Placement":
        """The picture fills a canvas of that width and height, whatever the shape of either."""
        return cls(*canvas, canvas[0] / width, canvas[1] / height)

    @classmethod
    def padded_to_square(cls, width: int, height: int, canvas: tuple[int, int] | None = None) -> "Placement":
        """The picture on a square of its longer side, as `pad_to_square` lays it, which is resized to `canvas`."""
        side = max(width, height)
        across, down = (length / side for length in canvas or (side, side))
        left, top = ((side - length) // 2 for length in (width, height))
        return cls(*(canvas or (side, side)), across, down, left * across, top * down)

    def window(self, left: int, top: int, width: int, height: int) -> "Placement":
        """Where the picture lies on a part of the canvas, cut out of it."""
        return Placement(width, height, self.scale_x, self.scale_y, self.left - left, self.top - top)

    def onto_canvas(self, points: Sequence[float]) -> list[float]:
        """Points of the picture, `(x, y, x, y, ...)` in pixels, as points of the canvas; boxes are two points."""
        scales, offsets = (self.scale_x, self.scale_y), (self.left, self.top)
        return [value * scales[index % 2] + offsets[index % 2] for index, value in enumerate(points)]

    def onto_picture(self, points: Sequence[float]) -> list[float]:
        """Points of the canvas as points of the picture, in pixels."""
        scales, offsets = (self.scale_x, self.scale_y), (self.left, self.top)
        return [(value - offsets[index % 2]) / scales[index % 2] for index, value in enumerate(points)]


def clipped(box: Sequence[float], width: float, height: float) -> list[float] | None:
    """What lies between 0 and `width` and `height` of a box `(left, top, right, bottom)`, or of a point.

    Returns:
        None: Nothing of it does.
    """
    inside = [min(max(value, 0.0), (width, height)[index % 2]) for index, value in enumerate(box)]
    if len(box) == 2:
        return inside if inside == list(box) else None
    return inside if area(inside) else None


def area(box: Sequence[float]) -> float:
    """Of a box `(left, top, right, bottom)`; 0 where its corners are out of order."""
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])
