"""Dynamic tiles: an image is stretched onto as many tiles as its shape asks for (InternVL 1.5, arXiv:2404.16821, 3.2)."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

from PIL import Image

from .image_geometry import Placement
from .image_plan import ImageLayout, Mosaic, View, corners_of_tiles, resized, tiles_of


@dataclass(frozen=True)
class TilesLayout(ImageLayout):
    """Tiles of the encoder's own size, row by row, and the whole image once more, small, where there are several.

    The image is stretched to the canvas of tiles whose shape is closest to its own. The features of a view follow those
    of the view before; nothing says where a row of tiles ends.

    Args:
        min_tiles: How many tiles an image is cut into at least.
        max_tiles: How many at most, without the small whole image.
        thumbnail: Whether the whole image follows the tiles where there is more than one.

    Raises:
        ValueError: Not `1 <= min_tiles <= max_tiles`.
    """

    cuts_to_size: ClassVar[bool] = True

    min_tiles: int = 1
    max_tiles: int = 12
    thumbnail: bool = True

    def __post_init__(self) -> None:
        if not 1 <= self.min_tiles <= self.max_tiles:
            raise ValueError(
                f"image_layout_options has min_tiles={self.min_tiles} and max_tiles={self.max_tiles}: an image is cut "
                "into at least one tile, and into max_tiles at most."
            )

    def tile_grid(self, width: int, height: int, view: View) -> tuple[int, int]:
        """Rows and columns of the tiles of an upright image of this size, in pixels.

        The grid whose width divided by its height comes closest to the image's. Of several as close, the one of most
        tiles that together have less than twice the image's pixels, so that small images are not blown up.
        """
        grids = _grids(self.min_tiles, self.max_tiles)
        distances = [abs(width / height - columns / rows) for rows, columns in grids]
        closest = [grid for grid, distance in zip(grids, distances, strict=True) if distance == min(distances)]
        not_blown_up = [
            (rows, columns)
            for rows, columns in closest
            if 2 * width * height > rows * view.height * columns * view.width
        ]
        return not_blown_up[-1] if not_blown_up else closest[0]

    def mosaics(self, width: int, height: int, view: View) -> list[Mosaic]:
        rows, columns = self.tile_grid(width, height, view)
        whole = [Mosaic((1, 1), view)] * (self.thumbnail and rows * columns > 1)
        # A connector that reads the image at once is shown where its tiles lie
        tiles = [Mosaic((rows, columns), view)] if view.of_image else [Mosaic((1, 1), view)] * (rows * columns)
        return tiles + whole

    def cut(self, image: Image.Image, view: View, image_processor: Any) -> list[Image.Image]:
        rows, columns = self.tile_grid(*image.size, view)
        tiles = tiles_of(resized(image, columns * view.width, rows * view.height, image_processor), view)
        if not self.thumbnail or len(tiles) == 1:
            return tiles
        return [*tiles, resized(image, view.width, view.height, image_processor)]

    def placement(self, width: int, height: int, view: View) -> Placement:
        rows, columns = self.tile_grid(width, height, view)
        return Placement.stretched(width, height, (columns * view.width, rows * view.height))

    def placements(self, width: int, height: int, view: View) -> list[Placement]:
        canvas, size = self.placement(width, height, view), (view.width, view.height)
        tiles = [canvas.window(left, top, *size) for left, top in corners_of_tiles(canvas, view)]
        whole = [Placement.stretched(width, height, size)] * (self.thumbnail and len(tiles) > 1)
        return ([canvas] if view.of_image else tiles) + whole


@lru_cache
def _grids(min_tiles: int, max_tiles: int) -> list[tuple[int, int]]:
    """Rows and columns of all grids of so many tiles: those of fewer tiles first, then those of fewer columns."""
    sides = range(1, max_tiles + 1)
    grids = [(rows, columns) for columns in sides for rows in sides if min_tiles <= rows * columns <= max_tiles]
    return sorted(grids, key=lambda grid: grid[0] * grid[1])
