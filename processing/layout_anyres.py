"""AnyRes: a picture in tiles of the encoder's size, at a resolution that fits it, after an overview of the whole.

    picture ──> overview, squeezed into one view                                F tokens
            └─> resized onto the best canvas, black around it ──> its tiles     the features that lie on the picture,
                                                                                and a line break after each of their rows

LLaVA-NeXT (llava-vl.github.io/blog/2024-01-30-llava-next, "Dynamic High Resolution") takes the features as they are: up to
2,880 at 336 pixels, and 48 line breaks. LLaVA-OneVision (arXiv:2408.03326, section 3.2, "Higher AnyRes") has larger
canvases, and interpolates features that are more than `max_views` views would have.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from PIL import Image

from .image_geometry import Placement
from .image_plan import ImageLayout, Mosaic, View, corners_of_tiles, resized, tiles_of

# Rows and columns of tiles. Of canvases that are as good, the one that is named first is taken.
NEXT_GRIDS = ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))
ONEVISION_GRIDS = tuple(itertools.product(range(1, 7), range(1, 7)))

POOLED_FROM = 1.1  # times as long and wide as `max_views` views: less than that is not worth interpolating


@dataclass(frozen=True)
class AnyResLayout(ImageLayout):
    """An overview, then the tiles of the canvas that suits a picture.

    Over a connector whose tokens have no order in space the tokens of the tiles follow one another, all of them and without
    line breaks. One that reads a whole image reads the patches that lie on the picture.

    Args:
        candidates (`list[list[int]]`, *optional*): The canvases, height and width in pixels, as `image_grid_pinpoints` in
            transformers. Default: those of LLaVA-NeXT in views (1 x 2, 2 x 1, 2 x 2, 3 x 1 and 1 x 3, rows before columns),
            whatever size a view has; with `max_views` those of LLaVA-OneVision, 1 x 1 to 6 x 6.
        max_views (`int`, *optional*): How many views' features the tiles may have, as N in `anyres_max_N`: more of them are
            interpolated down to about as many. Default: as many as there are.

    Raises:
        ValueError: If an option has a value that it cannot have.
    """

    line_breaks: ClassVar[bool] = True
    cuts_to_size: ClassVar[bool] = True

    candidates: Sequence[Sequence[int]] | None = None
    max_views: int | None = None

    def __post_init__(self) -> None:
        if self.max_views is not None and not _is_length(self.max_views):
            raise ValueError(f"max_views={self.max_views!r} of the layout 'anyres': give a whole number from 1 on.")
        if self.candidates is None:
            return
        entries = self.candidates if isinstance(self.candidates, (list, tuple)) else []
        if not entries:
            raise ValueError(
                f"candidates={self.candidates!r} of the layout 'anyres' names no canvas: give a list of [height, width] in "
                "pixels, or leave it out."
            )
        for entry in entries:
            if not (isinstance(entry, (list, tuple)) and len(entry) == 2 and all(map(_is_length, entry))):
                raise ValueError(
                    f"candidates of the layout 'anyres' has the entry {entry!r}: give [height, width], whole numbers of "
                    "pixels."
                )

    def check(self, view: View) -> None:
        for height, width in self.candidates or ():
            if height % view.height or width % view.width:
                raise ValueError(
                    f"candidates of the layout 'anyres' has the entry [{height}, {width}], which views of {view.height} x "
                    f"{view.width} pixels (height x width) do not fill: give multiples of these, or leave candidates out."
                )

    def mosaics(self, width: int, height: int, view: View) -> list[Mosaic]:
        self.check(view)
        overview = Mosaic((1, 1), view)
        rows, columns = self._grid(width, height, view)
        if not view.spatial:
            return [overview] * (1 + rows * columns)
        kept = _on_the_picture(width, height, rows * view.grid[0], columns * view.grid[1], view)
        if view.of_image:  # it takes a fixed number of tokens, and at least a patch
            top, left, kept_rows, kept_columns = kept
            return [overview, Mosaic((rows, columns), view, (top, left, max(1, kept_rows), max(1, kept_columns)))]
        return [overview, Mosaic((rows, columns), view, kept, self._pooled(*kept[2:], view), line_break=True)]

    def cut(self, image: Image.Image, view: View, image_processor: Any) -> list[Image.Image]:
        placement = self.placement(*image.size, view)
        canvas = Image.new("RGB", (placement.width, placement.height))
        across, down = _size_on_canvas(*image.size, *canvas.size)
        canvas.paste(resized(image, across, down, image_processor), (int(placement.left), int(placement.top)))
        return [resized(image, view.width, view.height, image_processor), *tiles_of(canvas, view)]

    def placement(self, width: int, height: int, view: View) -> Placement:
        rows, columns = self._grid(width, height, view)
        canvas = columns * view.width, rows * view.height
        across, down = _size_on_canvas(width, height, *canvas)
        return Placement(*canvas, across / width, down / height, (canvas[0] - across) // 2, (canvas[1] - down) // 2)

    def placements(self, width: int, height: int, view: View) -> list[Placement]:
        canvas, size = self.placement(width, height, view), (view.width, view.height)
        tiles = [canvas]
        if not view.spatial:
            tiles = [canvas.window(left, top, *size) for left, top in corners_of_tiles(canvas, view)]
        return [Placement.stretched(width, height, size), *tiles]

    def _grid(self, width: int, height: int, view: View) -> tuple[int, int]:
        """Rows and columns of tiles: most pixels of the picture, then least canvas that it leaves unused."""
        if self.candidates is None:
            grids: Sequence[tuple[int, int]] = NEXT_GRIDS if self.max_views is None else ONEVISION_GRIDS
        else:
            grids = [(tall // view.height, wide // view.width) for tall, wide in self.candidates]

        def merit(grid: tuple[int, int]) -> tuple[int, int]:
            tall, wide = grid[0] * view.height, grid[1] * view.width
            scale = min(wide / width, tall / height)
            effective = min(int(width * scale) * int(height * scale), width * height)
            return effective, effective - tall * wide

        return max(grids, key=merit)  # the first of equals

    def _pooled(self, rows: int, columns: int, view: View) -> tuple[int, int] | None:
        """Rows and columns that so many of features are interpolated to, if they are."""
        if self.max_views is None:
            return None
        ratio = math.sqrt(rows * columns / (self.max_views * view.num_tokens))
        return (max(1, int(rows // ratio)), max(1, int(columns // ratio))) if ratio > POOLED_FROM else None


def _is_length(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _size_on_canvas(width: int, height: int, canvas_width: int, canvas_height: int) -> tuple[int, int]:
    """Width and height in pixels of a picture resized to touch two edges of a canvas."""
    across, down = canvas_width / width, canvas_height / height
    if across < down:
        return canvas_width, min(math.ceil(height * across), canvas_height)
    return min(math.ceil(width * down), canvas_width), canvas_height


def _on_the_picture(width: int, height: int, rows: int, columns: int, view: View) -> tuple[int, int, int, int]:
    """Top, left, rows and columns of the features of a canvas that lie on the picture, of a strip perhaps none.

    As many are left out on either side, in whole features; the arithmetic, with its rounding, is that of the reference.
    """
    # How much wider than tall the part of a view is that a feature stands for
    stretch = (view.width / view.grid[1]) / (view.height / view.grid[0])
    if width / height > columns * stretch / rows:
        outside = (rows - int(round(height * (columns * stretch / width), 7))) // 2
        return outside, 0, rows - 2 * outside, columns
    outside = (columns - int(round(width * (rows / stretch / height), 7))) // 2
    return 0, outside, rows, columns - 2 * outside
