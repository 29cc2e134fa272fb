"""Which views and which tokens of an image show a part of the picture, and which part of it a view or a token shows.

A token is said to show what lies at its place: the patches that the connector made it of. What a vision encoder knows
there has come from everywhere in its view.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from .image_geometry import Placement, area, clipped
from .image_plan import ImagePlan, Mosaic

Box = Sequence[float]


@dataclass(frozen=True)
class Piece:
    """What one view shows of a box.

    Attributes:
        view (`int`): Its number among the views of the image, its row of `pixel_values`.
        box (`list[float]`): `(left, top, right, bottom)` in pixels of the view.
        share (`float`): Of the area of the box, 0 to 1: below 1, a part of it was cut off or lies in another view.
    """

    view: int
    box: list[float]
    share: float


@dataclass(frozen=True)
class ImageRegions:
    """The picture, the views and the tokens of one image laid over each other; see `LlavaProcessor.image_regions`.

    Points and boxes of the picture are in its pixels, upright, counted along the edges: `(x, y)`, or
    `(left, top, right, bottom)`. Those of views are in pixels of the view.

    Attributes:
        width (`int`): Of the picture, upright, in pixels.
        height (`int`): The same.
        plan (`ImagePlan`): What becomes of it.
        placements (`list[Placement]`): Where it lies in each mosaic (`ImageLayout.placements`).
        patch_size (`int` or `tuple[int, int]`, *optional*): Side of a patch of the vision encoder, in pixels, or height
            and width. Pixels beyond the last whole patch are seen by no token.
        zoom (`tuple[float, float]`): See `view_zoom`.
    """

    width: int
    height: int
    plan: ImagePlan
    placements: Sequence[Placement]
    patch_size: int | Sequence[int] | None = None
    zoom: tuple[float, float] = (1.0, 1.0)

    # ------------------------------------------------------------------------------------------------ views

    def in_views(self, box: Box) -> list[Piece]:
        """A box of the picture as the views show it, those that show something of it.

        Raises:
            ValueError: The box has no area in the picture.
        """
        inside = clipped(box, self.width, self.height)
        if len(box) != 4 or inside is None:
            raise ValueError(
                f"box={list(box)} has no area in a picture of {self.width} x {self.height} pixels: give left, top, "
                "right and bottom in its pixels."
            )
        pieces = []
        for view, (mosaic, placement, row, column) in enumerate(self._views()):
            canvas = placement.onto_canvas(inside)
            shown = clipped(self._onto_view(mosaic, row, column, canvas), mosaic.view.width, mosaic.view.height)
            back = shown and self._onto_picture(mosaic, placement, row, column, shown)
            if shown and back:
                pieces.append(Piece(view, shown, min(1.0, area(back) / area(box))))
        return pieces

    def of_view(self, view: int, box: Box | None = None) -> list[float] | None:
        """The part of the picture that a view shows, or that a box or a point of the view does.

        Returns:
            None: It is padding.
        """
        mosaic, placement, row, column = self._views()[view]
        return self._onto_picture(
            mosaic, placement, row, column, (0, 0, mosaic.view.width, mosaic.view.height) if box is None else box
        )

    # ------------------------------------------------------------------------------------------------ tokens

    def tokens_at(self, x: float, y: float) -> list[int]:
        """The tokens that show a point of the picture, counted among those of the image: none where it was cut off.

        Raises:
            ValueError: With an `image_keep_rate` below 1: which patches have a token is up to the picture.
        """
        self._check_tokens()
        found, first = [], 0
        for mosaic, placement in zip(self.plan.mosaics, self.placements, strict=True):
            cell = self._cell_at(mosaic, *placement.onto_canvas((x, y)))
            if cell is not None:
                if mosaic.view.of_image:
                    return list(range(self.plan.num_tokens))
                found += [first + token for token in self._tokens_of_cell(mosaic, *cell)]
            first += mosaic.num_tokens
        return found

    def of_token(self, token: int) -> list[float] | None:
        """The part of the picture that a token shows, `(left, top, right, bottom)`.

        A token without a place in its view shows all of the view; one of a connector of whole images all that is seen.

        Returns:
            None: It ends a row, or shows padding alone.

        Raises:
            ValueError: The image has fewer tokens, or `image_keep_rate` is below 1.
        """
        self._check_tokens()
        if not 0 <= token < self.plan.num_tokens:
            raise ValueError(f"token={token}: the image has {self.plan.num_tokens} tokens, counted from 0.")
        if self.plan.mosaics[0].view.of_image:
            left, top, right, bottom = zip(*filter(None, map(self.of_view, range(self.plan.num_views))), strict=True)
            return [min(left), min(top), max(right), max(bottom)]
        number = 0
        while token >= self.plan.mosaics[number].num_tokens:
            token, number = token - self.plan.mosaics[number].num_tokens, number + 1
        mosaic, placement = self.plan.mosaics[number], self.placements[number]
        columns = mosaic.token_grid[1]
        row, column = divmod(token, columns + mosaic.line_break)
        if column == columns:
            return None
        left, right = self._extent(mosaic, 1, column)
        top, bottom = self._extent(mosaic, 0, row)
        # Of two corners each lies in a view of its own where features were pooled over the seam of two views
        canvas = [*self._onto_canvas(mosaic, *left, *top), *self._onto_canvas(mosaic, *right, *bottom)]
        return clipped(placement.onto_picture(canvas), self.width, self.height)

    def _check_tokens(self) -> None:
        rate = self.plan.mosaics[0].view.keep_rate
        if rate < 1:
            raise ValueError(
                f"image_keep_rate={rate}: which parts of a picture have a token is known only when the model has read it; "
                "set it to 1 to ask where tokens lie."
            )

    # ------------------------------------------------------------------------------------------------ between them

    def _views(self) -> list[tuple[Mosaic, Placement, int, int]]:
        """Of each view its mosaic, where the picture lies in that, and the view's row and column there."""
        return [
            (mosaic, placement, row, column)
            for mosaic, placement in zip(self.plan.mosaics, self.placements, strict=True)
            for row in range(mosaic.views[0])
            for column in range(mosaic.views[1])
        ]

    def _onto_view(self, mosaic: Mosaic, row: int, column: int, canvas: Box) -> list[float]:
        """Points of the canvas in pixels of one of its views."""
        lengths, views = (mosaic.view.width, mosaic.view.height), (column, row)
        return [
            (value - views[index % 2] * lengths[index % 2] - lengths[index % 2] / 2) * self.zoom[index % 2]
            + lengths[index % 2] / 2
            for index, value in enumerate(canvas)
        ]

    def _onto_picture(
        self, mosaic: Mosaic, placement: Placement, row: int, column: int, box: Box
    ) -> list[float] | None:
        """A box or a point of a view as what it shows of the picture."""
        canvas = [
            value
            for index in range(0, len(box), 2)
            for value in self._onto_canvas(mosaic, column, box[index], row, box[index + 1])
        ]
        return clipped(placement.onto_picture(canvas), self.width, self.height)

    def _onto_canvas(self, mosaic: Mosaic, column: int, x: float, row: int, y: float) -> list[float]:
        """A point of the view in that row and column, on the canvas."""
        width, height = mosaic.view.width, mosaic.view.height
        return [
            (x - width / 2) / self.zoom[0] + width / 2 + column * width,
            (y - height / 2) / self.zoom[1] + height / 2 + row * height,
        ]

    def _seen(self, mosaic: Mosaic) -> tuple[int, int]:
        """Height and width of the whole patches of a view, in pixels."""
        patch = self.patch_size or 1
        height, width = (patch, patch) if isinstance(patch, int) else patch
        return mosaic.view.height // height * height, mosaic.view.width // width * width

    def _extent(self, mosaic: Mosaic, axis: int, token: int) -> tuple[tuple[int, float], tuple[int, float]]:
        """From where to where a row (axis 0) or a column (axis 1) of tokens shows: each a view and a pixel in it."""
        cells, seen = mosaic.view.grid[axis], self._seen(mosaic)[axis]
        first, kept = mosaic.kept_features[axis], mosaic.kept_features[axis + 2]
        size = kept / mosaic.pooled[axis] if mosaic.pooled else 1.0  # features that were pooled into one
        start, end = first + token * size, first + (token + 1) * size
        if not mosaic.view.spatial:
            return (int(start // cells), 0.0), (int(start // cells), float(seen))
        last = max(0, int(-(-round(end, 6) // cells)) - 1)
        return (int(start // cells), start % cells * seen / cells), (last, (end - last * cells) * seen / cells)

    def _cell_at(self, mosaic: Mosaic, x: float, y: float) -> tuple[int, int, float, float] | None:
        """The view's column and row at a point of the canvas, and the place in it as shares of its whole patches."""
        column, row = int(x // mosaic.view.width), int(y // mosaic.view.height)
        if not (0 <= column < mosaic.views[1] and 0 <= row < mosaic.views[0]):
            return None
        height, width = self._seen(mosaic)
        x, y = self._onto_view(mosaic, row, column, (x, y))
        return (column, row, x / width, y / height) if 0 <= x < width and 0 <= y < height else None

    def _tokens_of_cell(self, mosaic: Mosaic, column: int, row: int, x: float, y: float) -> list[int]:
        """Of the tokens of a mosaic those at such a place."""
        tokens = []
        for axis, view, share in ((0, row, y), (1, column, x)):
            cells = mosaic.view.grid[axis]
            first, kept = mosaic.kept_features[axis], mosaic.kept_features[axis + 2]
            features = (
                [view * cells + share * cells] if mosaic.view.spatial else range(view * cells, (view + 1) * cells)
            )
            size = kept / mosaic.pooled[axis] if mosaic.pooled else 1.0
            tokens.append([int((f - first) // size) for f in features if 0 <= f - first < kept])
        rows, columns = tokens
        across = mosaic.token_grid[1] + mosaic.line_break
        return [row * across + column for row in rows for column in columns]
