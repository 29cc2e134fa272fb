"""How a picture is cut into views: in words, and as a drawing."""

from dataclasses import dataclass
from typing import Any

DRAWN = 120  # pixels of the longer side of a canvas that is drawn


@dataclass(frozen=True)
class ImageCut:
    """What a processor makes of a picture of some size.

    Attributes:
        rows: Of tiles, which lie side by side on a canvas.
        columns: The same.
        num_views: All, those too that show the picture once more as a whole.
        num_tokens: What it takes in the text.
        canvas: Width and height in pixels.
        picture: Left, top, right and bottom of the picture on the canvas.
        overview_first: Whether a view of the whole picture stands before the tiles.
    """

    rows: int
    columns: int
    num_views: int
    num_tokens: int
    canvas: tuple[int, int]
    picture: tuple[float, float, float, float]
    overview_first: bool

    @classmethod
    def of(cls, processor: Any, width: int, height: int) -> "ImageCut":
        """Of an upright picture of that size, in pixels, by a `LlavaProcessor`."""
        layout, plan = processor.layout, processor.plan(width, height)
        view = plan.mosaics[0].view
        placement = layout.placement(width, height, processor.view)
        first = layout.placements(width, height, processor.view)[0]
        fills = round(first.scale_x * width) == view.width and round(first.scale_y * height) == view.height
        columns, rows = max(1, placement.width // view.width), max(1, placement.height // view.height)
        left, top, right, bottom = placement.onto_canvas([0, 0, width, height])
        return cls(
            rows,
            columns,
            plan.num_views,
            plan.num_tokens,
            (placement.width, placement.height),
            (max(0.0, left), max(0.0, top), min(right, placement.width), min(bottom, placement.height)),
            fills and plan.num_views > rows * columns,
        )

    @property
    def words(self) -> str:
        """As "2 x 3 tiles and an overview: 7 views, 2,928 tokens"; rows come before columns."""
        tiles = self.rows * self.columns
        tokens = f"{self.num_tokens:,} token{'s' * (self.num_tokens != 1)}"
        if self.num_views == 1:
            return f"1 view, {tokens}"
        named = "1 tile" if tiles == 1 else f"{self.rows} x {self.columns} tiles"
        overview = " and an overview" if self.num_views > tiles else ""
        return f"{named}{overview}: {self.num_views} views, {tokens}"

    def drawing(self) -> str:
        """The canvas with the picture on it and the edges of its tiles, as SVG."""
        width, height = self.canvas
        left, top, right, bottom = self.picture
        stroke = max(width, height) / DRAWN
        down = "".join(f"M0 {height * row / self.rows:g}h{width}" for row in range(1, self.rows))
        across = "".join(f"M{width * column / self.columns:g} 0v{height}" for column in range(1, self.columns))
        return (
            f'<svg role="img" aria-label="{self.words}" viewBox="{-stroke:g} {-stroke:g} {width + 2 * stroke:g} '
            f'{height + 2 * stroke:g}" width="{DRAWN * width / max(width, height):.0f}" '
            f'height="{DRAWN * height / max(width, height):.0f}">'
            f'<rect width="{width}" height="{height}" fill="#888" fill-opacity=".25"/>'
            f'<rect x="{left:g}" y="{top:g}" width="{right - left:g}" height="{bottom - top:g}" fill="#4a90d9" '
            f'fill-opacity=".55"/><path d="M0 0h{width}v{height}h{-width}z{down}{across}" fill="none" '
            f'stroke="currentColor" stroke-width="{stroke:g}"/></svg>'
        )
