"""Where a point of a picture lies in what the model sees of it, and back.

A layout puts the upright picture on a canvas, by a scale and an offset for each axis, and cuts its views out of that;
see `ImageLayout.placement`.
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

    def onto_canvas(self, points: Sequence[float]) -> list[float]:
        """Points of the picture, `(x, y, x, y, ...)` in pixels, as points of the canvas; boxes are two points."""
        scales, offsets = (self.scale_x, self.scale_y), (self.left, self.top)
        return [value * scales[index % 2] + offsets[index % 2] for index, value in enumerate(points)]

    def onto_picture(self, points: Sequence[float]) -> list[float]:
        """Points of the canvas as points of the picture, in pixels."""
        scales, offsets = (self.scale_x, self.scale_y), (self.left, self.top)
        return [(value - offsets[index % 2]) / scales[index % 2] for index, value in enumerate(points)]
