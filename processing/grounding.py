"""Where things are: the half of the processor that knows which part of a picture a view, a token or a text speaks of."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

from .box_formats import FoundBox, read_boxes, write_box
from .image_geometry import Placement
from .image_plan import ImageLayout, View, view_zoom
from .image_regions import ImageRegions


class GroundingMixin:
    """Places in the user's picture, in what the model sees of it, and in text."""

    image_processor: Any
    patch_size: int | Sequence[int] | None
    box_format: str

    @property
    @abstractmethod
    def layout(self) -> ImageLayout:
        """How images are cut into views, and the features of the views joined."""

    @property
    @abstractmethod
    def view(self) -> View:
        """A view as the layout is told of it."""

    def image_regions(self, width: int, height: int) -> ImageRegions:
        """Which views and tokens show a part of a picture, and which part of it they show.

        Args:
            width (`int`): Of the picture, upright, in pixels.
            height (`int`): The same.
        """
        layout, view = self.layout, self.view
        placements = layout.placements(width, height, view)
        zoom = (1.0, 1.0) if layout.cuts_to_size else view_zoom(self.image_processor)
        return ImageRegions(width, height, layout.plan(width, height, view), placements, self.patch_size, zoom)

    # ------------------------------------------------------------------------------------------------ text

    def box_text(self, box: Sequence[float], width: int, height: int) -> str:
        """A box or a point of a picture as this checkpoint reads and writes it (`box_format`).

        Args:
            box (`Sequence[float]`): Left, top, right and bottom, or x and y, in pixels of the upright picture.
            width (`int`): Of the picture, in pixels.
            height (`int`): The same.

        Raises:
            ValueError: Nothing of it lies in the picture, or the convention has no such form.
        """
        return write_box(box, self.box_format, width, height, self._canvas(width, height))

    def boxes_in(self, text: str, width: int, height: int) -> list[list[float]]:
        """The boxes and points in an answer: left, top, right and bottom, or x and y, in pixels of the upright picture.

        Args:
            text (`str`): The answer.
            width (`int`): Of the picture, upright, in pixels.
            height (`int`): The same.
        """
        return [found.box for found in self.read_boxes(text, width, height) if found.box is not None]

    def read_boxes(self, text: str, width: int, height: int) -> list[FoundBox]:
        """As `boxes_in`, with where each stands in the text, and with those that cannot be read, saying why."""
        return read_boxes(text, self.box_format, width, height, self._canvas(width, height))

    def _canvas(self, width: int, height: int) -> Placement:
        return self.layout.placement(width, height, self.view)
