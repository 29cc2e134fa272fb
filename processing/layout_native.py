"""Native resolution: every picture as so many patches as its own size and shape ask for.

As SigLIP 2 NaFlex (arXiv:2502.14786, section 2.4.2) takes pictures, and before it NaViT (arXiv:2307.06304): no tiles, no
padding in pixels, and no change of shape beyond what whole patches ask for.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from .image_geometry import Placement
from .image_plan import ImageLayout, Mosaic, View, resized
from .video_frames import Video


@dataclass(frozen=True)
class NativeLayout(ImageLayout):
    """One view of an image, of its own size and shape, in whole patches; whole tokens, where several patches make one.

    A picture of more than `max_pixels` is scaled down, one of fewer than `min_pixels` is scaled up, and one that is
    thinner than a token is made as thick as one.

    Args:
        min_pixels: Pixels of a view at least.
        max_pixels: Pixels of a view at most. Default: as many as the view has that the encoder was trained on, in any
            shape.
        line_breaks: Whether a learnt embedding ends each row of tokens, without which a language model that counts
            tokens in one line does not know how wide a picture is.

    Raises:
        ValueError: Not `1 <= min_pixels <= max_pixels`.
    """

    min_pixels: int = 1
    max_pixels: int | None = None
    line_breaks: bool = True  # type: ignore[misc]  # an option here

    cuts_to_size: ClassVar[bool] = True
    own_sizes: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.min_pixels < 1 or (self.max_pixels is not None and self.max_pixels < self.min_pixels):
            raise ValueError(
                f"image_layout_options has min_pixels={self.min_pixels} and max_pixels={self.max_pixels}: a view has at "
                "least one pixel, and max_pixels at most."
            )

    def check(self, view: View) -> None:
        """See `ImageLayout.check`.

        Raises:
            ValueError: No number of whole tokens has between `min_pixels` and `max_pixels`.
        """
        self._bounds(_cell(view), view)

    def token_grid(self, width: int, height: int, view: View) -> tuple[int, int]:
        """Rows and columns of the tokens of an upright image of this size, in pixels; of its patches where the
        connector makes a fixed number of tokens of them.

        Of the whole numbers next to those that its size asks for, the two that keep its shape best.
        """
        cell = _cell(view)
        least, most = self._bounds(cell, view)
        pixels = min(max(width * height, least * cell[0] * cell[1]), most * cell[0] * cell[1])
        scale = math.sqrt(pixels / (width * height))
        rows, columns = height * scale / cell[0], width * scale / cell[1]
        short, long = min(rows, columns), max(rows, columns)
        found = _whole_sides(short, long, least, most)
        return found if rows <= columns else (found[1], found[0])

    def _bounds(self, cell: tuple[int, int], view: View) -> tuple[int, int]:
        """How many tokens a view has at least and at most."""
        pixels = cell[0] * cell[1]
        for name, value in (("min_pixels", self.min_pixels), ("max_pixels", self.max_pixels)):
            if value is not None and value > 1 and value % pixels:
                below, above = value // pixels * pixels, -(-value // pixels) * pixels
                raise ValueError(
                    f"image_layout_options has {name}={value}, which is no multiple of the {cell[0]} x {cell[1]} pixels "
                    f"of a token: choose {f'{below} or ' if below else ''}{above}."
                )
        most = (view.height * view.width if self.max_pixels is None else self.max_pixels) // pixels
        least = max(1, self.min_pixels // pixels)
        if least > most:
            raise ValueError(
                f"image_layout_options has min_pixels={self.min_pixels}, more than the {view.height} x {view.width} of the "
                "encoder's own view: set max_pixels as well."
            )
        return least, most

    def mosaics(self, width: int, height: int, view: View) -> list[Mosaic]:
        rows, columns = self.token_grid(width, height, view)
        cell = _cell(view)
        sized = replace(view, height=rows * cell[0], width=columns * cell[1])
        if view.of_image:
            sized = replace(sized, grid=(rows, columns))
        elif view.token_patches is not None:
            sized = replace(sized, grid=(rows, columns), num_tokens=rows * columns)
        return [Mosaic((1, 1), sized, line_break=self.line_breaks and view.spatial and not view.of_image)]

    def cut(self, image: Image.Image, view: View, image_processor: Any) -> list[Image.Image]:
        [mosaic] = self.mosaics(*image.size, view)
        return [resized(image, *mosaic.size, image_processor)]

    def placement(self, width: int, height: int, view: View) -> Placement:
        [mosaic] = self.mosaics(width, height, view)
        return Placement.stretched(width, height, mosaic.size)

    def frame_mosaic(self, width: int, height: int, view: View) -> Mosaic:
        [mosaic] = self.mosaics(width, height, view)
        return mosaic

    def apply(
        self,
        images: Sequence[Image.Image | Video],
        view: View,
        image_processor: Any,
        video_pooling: int = 1,
        **options: Any,
    ) -> dict[str, Any]:
        """Images as the model takes them. All frames of a video have the size that its first asks for.

        Args:
            images, view, image_processor, video_pooling, options: See `ImageLayout.apply`.

        Returns:
            `dict`: `pixel_values` of shape `(V, L, p * p * C)`, the patches of each view, a patch its pixels row by row,
            with zeros after them up to the most that a view has; `spatial_shapes`, `(V, 2)`, rows and columns of its
            patches; `feature_places`, `(V, 13)`; and `tokens_of_image`.

        Raises:
            ValueError: The image processor cuts patches of another size than the one counted for.
        """
        sides = _patch(view)
        plans = [self.plan_of(image.size, view, video_pooling) for image in images]
        pictures = [one for image in images for one in (image.frames if isinstance(image, Video) else [image])]
        mosaics = [mosaic for plan in plans for mosaic in plan.mosaics]
        views, shapes = [], []
        for picture, mosaic in zip(pictures, mosaics, strict=True):
            sized = mosaic.view
            shape = (sized.height // sides[0], sized.width // sides[1])
            # What the image processor does to the size of a picture is done
            as_it_is = {"do_resize": False, "return_tensors": "np"}
            as_it_is |= {"do_center_crop": False} if getattr(image_processor, "do_center_crop", None) else {}
            as_it_is |= {"max_num_patches": shape[0] * shape[1]} if makes_patches(image_processor) else {}
            shown = resized(picture, *mosaic.size, image_processor)
            [made] = image_processor([shown], **{**options, **as_it_is})["pixel_values"]
            patches = made if made.ndim == 2 else _patches_of(made, sides)
            if len(patches) != shape[0] * shape[1]:
                raise ValueError(
                    f"The image processor made {len(patches)} patches of a view of {sized.height} x {sized.width} pixels, "
                    f"and {shape[0]} x {shape[1]} were counted: set the same patch_size on processor.image_processor and "
                    "on the processor."
                )
            views.append(patches)
            shapes.append(shape)
        longest = max(map(len, views))
        return {
            "pixel_values": np.stack([np.pad(patches, ((0, longest - len(patches)), (0, 0))) for patches in views]),
            "spatial_shapes": np.array(shapes, dtype=np.int64),
            "feature_places": np.array([row for plan in plans for row in plan.feature_places()]),
            "tokens_of_image": [plan.num_tokens for plan in plans],
        }


def makes_patches(image_processor: Any) -> bool:
    """Whether an image processor makes patches, for an encoder that takes nothing else (SigLIP 2 NaFlex)."""
    return getattr(image_processor, "max_num_patches", None) is not None


def _patch(view: View) -> tuple[int, int]:
    if view.patch is None:
        raise ValueError("patch_size=None: give the patch size of the vision encoder (its config's patch_size).")
    return view.patch


def _cell(view: View) -> tuple[int, int]:
    """Height and width in pixels of what a token shows, or of a patch where the number of tokens is fixed."""
    (height, width), (rows, columns) = _patch(view), view.token_patches or (1, 1)
    return height * rows, width * columns


def _whole_sides(short: float, long: float, least: int, most: int) -> tuple[int, int]:
    """The whole numbers next to `short` and `long` that keep their ratio best, whose product is in the bounds; of two
    pairs as good, the one whose product is closest to theirs."""

    def beside(side: int) -> tuple[int, int] | None:
        low, high = max(1, -(-least // side)), most // side
        return (side, min(max(round(side * long / short), low), high)) if low <= high else None

    def away_from(sides: tuple[int, int]) -> tuple[float, float]:
        shape = abs(math.log(sides[1] / sides[0] * short / long))
        return round(shape, 9), abs(math.log(sides[0] * sides[1] / (short * long)))

    nearest = min(max(1, math.floor(short)), most)
    for away in range(most):  # a side of 1 is always possible
        found = [sides for side in (nearest - away, nearest + 1 + away) if side > 0 and (sides := beside(side))]
        if found:
            return min(found, key=away_from)
    raise AssertionError((short, long, least, most))


def _patches_of(pixels: np.ndarray, sides: tuple[int, int]) -> np.ndarray:
    """`(C, H, W)`, cut into patches row by row: `(L, p * p * C)`."""
    channels, height, width = pixels.shape
    cells = pixels.reshape(channels, height // sides[0], sides[0], width // sides[1], sides[1])
    return cells.transpose(1, 3, 2, 4, 0).reshape(-1, sides[0] * sides[1] * channels)


def pixels_of(patches: Any, shape: Sequence[int], patch_size: int | Sequence[int]) -> Any:
    """The patches of one view, `(L, p * p * C)`, put together as they lie in the picture: `(C, H, W)`.

    Args:
        shape: Rows and columns of the patches, a row of `spatial_shapes`.
        patch_size: Side of a patch in pixels, or its height and width.
    """
    rows, columns = (int(side) for side in shape)
    height, width = (patch_size, patch_size) if isinstance(patch_size, int) else patch_size
    cells = patches[: rows * columns].reshape(rows, columns, height, width, -1)
    return cells.permute(4, 0, 2, 1, 3).reshape(-1, rows * height, columns * width)
