"""What a layout of images is: how an image becomes views, tokens, and joined features.

    width, height   ── plan ──>  rows of `pixel_values`, tokens in the text, where the features of each view go
    upright pixels  ── cut ───>  so many views, each to be resized and normalized by the image processor

The processor asks a layout, and nobody else decides or counts. `plan` needs no pixels, so ids and lengths are known
before a picture is decoded. The model joins the features as `feature_places` tells it, and checks.

Shapes: N images, V views over all of them, F features that encoder and connector make of one view.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from PIL import Image
from transformers.image_utils import SizeDict

from .image_geometry import Placement
from .image_inputs import crop_to_square, trim_strip
from .video_frames import Video


@dataclass(frozen=True)
class View:
    """One view as the vision encoder and the connector take it.

    Attributes:
        height (`int`): In pixels.
        width (`int`): In pixels.
        num_tokens (`int`): F, how many features come of it.
        grid (`tuple[int, int]`): Rows and columns of these features; `(F, 1)` where they have no order in space.
        spatial (`bool`): Whether they have one: the features of neighbouring views can be laid side by side.
        of_image (`bool`): Whether the connector makes its F features of all views of an image together: every image
            takes F tokens then, and `grid` is that of a view's patches.
        keep_rate (`float`): The share of an image's features that the model keeps; the others get no token.
        patch (`tuple[int, int]`, *optional*): Height and width of a patch, in pixels.
        token_patches (`tuple[int, int]`, *optional*): Rows and columns of the patches that become one feature, in a view of
            any size; None where there are F of them in any.
    """

    height: int
    width: int
    num_tokens: int
    grid: tuple[int, int]
    spatial: bool = True
    of_image: bool = False
    keep_rate: float = 1.0
    patch: tuple[int, int] | None = None
    token_patches: tuple[int, int] | None = None


@dataclass(frozen=True)
class Mosaic:
    """Views that lie side by side in a grid, and what stays of their features.

    Attributes:
        views (`tuple[int, int]`): Rows and columns of views, which come row by row.
        view (`View`): What each of them is.
        kept (`tuple[int, int, int, int]`, *optional*): Top, left, rows and columns of the features that stay, counted
            over the whole mosaic. Default: all.
        pooled (`tuple[int, int]`, *optional*): Rows and columns that those are interpolated to.
        line_break (`bool`): Whether a learnt embedding ends each row.
    """

    views: tuple[int, int]
    view: View
    kept: tuple[int, int, int, int] | None = None
    pooled: tuple[int, int] | None = None
    line_break: bool = False

    @property
    def num_views(self) -> int:
        """How many views it is made of."""
        return self.views[0] * self.views[1]

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, in pixels, of its views laid side by side."""
        return self.views[1] * self.view.width, self.views[0] * self.view.height

    @property
    def kept_features(self) -> tuple[int, int, int, int]:
        """Top, left, rows and columns of the features that stay."""
        (rows, columns), (height, width) = self.views, self.view.grid
        return self.kept or (0, 0, rows * height, columns * width)

    @property
    def token_grid(self) -> tuple[int, int]:
        """Rows and columns of the features that become tokens."""
        return self.pooled or self.kept_features[2:]

    @property
    def num_tokens(self) -> int:
        """How many tokens its features take, with the ends of rows."""
        rows, columns = self.token_grid
        return rows * (columns + self.line_break)

    def feature_places(self) -> list[list[int]]:
        """A row a view, see `FEATURE_PLACES`; the first and the last number, which are of the image, are left 0."""
        places = [*self.views, *self.view.grid, *self.kept_features, *(self.pooled or (0, 0)), int(self.line_break)]
        first = [0, *places, 0]
        return [first] + [[0] * len(first) for _ in range(self.num_views - 1)]


# The columns of `feature_places`. The first is the tokens of an image in the row of its first view, and 0 in the others,
# and so is the last, of how many features these tokens are to be chosen, or 0 where all are tokens; the rest describe a
# mosaic in the row of its first view, and are 0 in the others.
FEATURE_PLACES = (
    *("tokens of the image", "rows of views", "columns of views", "rows of features in a view", "columns in a view"),
    *("top", "left", "rows that stay", "columns that stay", "pooled rows", "pooled columns", "line break"),
    "features to choose from",
)


@dataclass(frozen=True)
class ImagePlan:
    """What an image of a certain size becomes.

    Attributes:
        mosaics (`tuple[Mosaic, ...]`): Its views, and where their features go; one after the other in the text.
        num_tokens (`int`): How many tokens it takes in the text.
        chosen_from (`int`): Of how many features the model chooses those tokens; 0 where all are tokens.
    """

    mosaics: tuple[Mosaic, ...]
    num_tokens: int
    chosen_from: int = 0

    @property
    def num_views(self) -> int:
        """How many rows of `pixel_values` are the image's."""
        return sum(mosaic.num_views for mosaic in self.mosaics)

    def feature_places(self) -> list[list[int]]:
        """`(views, 13)`: a row a view with the columns of `FEATURE_PLACES`."""
        rows = [row for mosaic in self.mosaics for row in mosaic.feature_places()]
        rows[0][0], rows[0][-1] = self.num_tokens, self.chosen_from
        return rows


def view_size(image_processor: Any) -> tuple[int, int]:
    """Height and width in pixels of a view as an image processor makes it.

    Raises:
        ValueError: If its size does not fix both.
    """
    if (most := getattr(image_processor, "max_num_patches", None)) is not None:  # SigLIP 2 NaFlex: in any shape
        return (math.isqrt(most) * image_processor.patch_size,) * 2
    crops = getattr(image_processor, "do_center_crop", None)
    size = dict((crops and image_processor.crop_size) or image_processor.size)
    if "height" in size and "width" in size:
        return size["height"], size["width"]
    for edge in ("shortest_edge", "longest_edge"):  # views are square before they are resized
        if edge in size:
            return size[edge], size[edge]
    raise ValueError(
        f"The size of {type(image_processor).__name__}, {size}, does not fix height and width. Set its `size` to "
        '{"height": ..., "width": ...}.'
    )


def check_keep_rate(keep_rate: float, tokens_are_patches: bool) -> None:
    """Refuse a `keep_rate` that a view cannot have.

    Raises:
        ValueError: It is no share, or leaves out tokens that are no patches.
    """
    if not 0 < keep_rate <= 1:
        raise ValueError(
            f"image_keep_rate={keep_rate!r} is the share of image tokens that stay: give a number above 0 and up to 1."
        )
    if not tokens_are_patches:
        raise ValueError(
            f"image_keep_rate={keep_rate!r} leaves out patches, and this model's image tokens are none (a connector has made "
            "fewer of them, each with a part of its own, or class and register tokens stand among them): leave it at 1."
        )


def view_zoom(image_processor: Any) -> tuple[float, float]:
    """How much larger a view is resized, across and down, than what an image processor then crops from its centre.

    1 for most; 256 / 224 for DINOv2, which takes the inner 224 of 256 pixels.
    """
    if not getattr(image_processor, "do_center_crop", None):
        return 1.0, 1.0
    height, width = view_size(image_processor)
    size = dict(image_processor.size)
    if "shortest_edge" in size:  # of a view, which is square before it is resized
        return size["shortest_edge"] / width, size["shortest_edge"] / height
    return (size["width"] / width, size["height"] / height) if "width" in size else (1.0, 1.0)


def resampling(image_processor: Any) -> Image.Resampling:
    """How an image processor resizes; bicubic where it does not say."""
    named = getattr(image_processor, "resample", None)
    return Image.Resampling.BICUBIC if named is None else Image.Resampling(named)


def resized(image: Image.Image, width: int, height: int, image_processor: Any) -> Image.Image:
    """An RGB image at another size, as its image processor resizes: by PIL, or by torchvision where that is installed.

    The two round differently, by a grey level here and there; so layouts do what transformers' processors do with it.
    """
    resample = resampling(image_processor)
    if getattr(image_processor, "backend", "pil") != "torchvision":
        return image.resize((width, height), resample)
    from torch import from_numpy  # a processor alone, without a model, is used without torch

    pixels = from_numpy(np.array(image)).permute(2, 0, 1)
    made = image_processor.resize(pixels, SizeDict(height=height, width=width), resample)
    return Image.fromarray(made.permute(1, 2, 0).numpy())


def corners_of_tiles(canvas: Image.Image | Placement, view: View) -> list[tuple[int, int]]:
    """Left and top, in pixels, of each view that a canvas is cut into, row by row."""
    return [(left, top) for top in range(0, canvas.height, view.height) for left in range(0, canvas.width, view.width)]


def tiles_of(canvas: Image.Image, view: View) -> list[Image.Image]:
    """The views that a canvas is cut into, row by row."""
    return [
        canvas.crop((left, top, left + view.width, top + view.height)) for left, top in corners_of_tiles(canvas, view)
    ]


class ImageLayout(ABC):
    """How images are cut and joined. To add one, write a file with a subclass, whose fields are its options, and a line
    in `IMAGE_LAYOUTS`.

    Attributes:
        single_view (`bool`): Whether every image, whatever its size, is one view whose features are its tokens. Sizes
            are not asked for then, and nothing goes with the pixels.
        line_breaks (`bool`): Whether rows of features end in a learnt embedding, where features have rows.
        cuts_to_size (`bool`): Whether views are cut in the size that the encoder takes, so that the image processor is
            not to resize and crop them: one that does both would take a margin off every tile.
        own_sizes (`bool`): Whether views have sizes of their own, and are given to the model as patches.
    """

    single_view: ClassVar[bool] = False
    line_breaks: ClassVar[bool] = False
    cuts_to_size: ClassVar[bool] = False
    own_sizes: ClassVar[bool] = False

    def check(self, view: View) -> None:  # noqa: B027  most can cut any
        """Refuse views that images cannot be cut into. Asked when a processor is made.

        Raises:
            ValueError: With the option that does not fit.
        """

    @abstractmethod
    def mosaics(self, width: int, height: int, view: View) -> Sequence[Mosaic]:
        """What becomes of an upright image of this size, in pixels."""

    @abstractmethod
    def cut(self, image: Image.Image, view: View, image_processor: Any) -> list[Image.Image]:
        """The views of an upright RGB image, in the order of the plan, for the image processor to resize."""

    @abstractmethod
    def placement(self, width: int, height: int, view: View) -> Placement:
        """Where an upright image of this size, in pixels, lies on the canvas that its views are cut from."""

    def placements(self, width: int, height: int, view: View) -> list[Placement]:
        """Where an upright image of this size, in pixels, lies in each of its mosaics, their views laid side by side.

        A mosaic of the canvas's size is cut from it; any other shows the whole image, resized to its own size, as a
        thumbnail does. To be overridden where it is otherwise.
        """
        canvas = self.placement(width, height, view)
        return [
            canvas if size == (canvas.width, canvas.height) else Placement.stretched(width, height, size)
            for size in (mosaic.size for mosaic in self.plan(width, height, view).mosaics)
        ]

    def plan(self, width: int, height: int, view: View) -> ImagePlan:
        """What becomes of an upright image of this size, in pixels, and how many tokens it takes."""
        mosaics = tuple(self.mosaics(width, height, view))
        return _plan(mosaics, view)

    def frame(self, image: Image.Image, view: View, image_processor: Any) -> Image.Image:
        """The one view of an upright RGB frame of a video: its centre, unless a layout shows an image of one view
        otherwise."""
        if self.cuts_to_size:
            return resized(crop_to_square(image), view.width, view.height, image_processor)
        # One that crops does so after it has resized, as CLIP was trained
        return (trim_strip if getattr(image_processor, "do_center_crop", None) else crop_to_square)(image)

    def plan_of(self, size: Sequence[int], view: View, video_pooling: int = 1) -> ImagePlan:
        """What becomes of an image, or of a video: an image whose views are its frames, one after the other.

        Args:
            size (`tuple[int, ...]`): Width and height in pixels of an upright image; of a video, also how many frames were
                taken of it.
            view (`View`): What the encoder takes.
            video_pooling (`int`): How many rows, and columns, of the features of a frame become one: by 2, each token is
                the mean of 2 x 2 of them, as LLaVA-NeXT-Video's. Features without an order in space all stay, and so do
                those that a connector makes of all views together.
        """
        width, height, *frames = size
        if not frames:
            return self.plan(width, height, view)
        mosaic = self.frame_mosaic(width, height, view)
        rows, columns = mosaic.token_grid
        if video_pooling > 1 and view.spatial and not view.of_image:
            mosaic = replace(mosaic, pooled=(-(-rows // video_pooling), -(-columns // video_pooling)))
        return _plan((mosaic,) * frames[0], view)

    def frame_mosaic(self, width: int, height: int, view: View) -> Mosaic:
        """The one view of an upright frame of this size, in pixels."""
        return Mosaic((1, 1), view)

    def apply(
        self,
        images: Sequence[Image.Image | Video],
        view: View,
        image_processor: Any,
        video_pooling: int = 1,
        **options: Any,
    ) -> dict[str, Any]:
        """Images as the model takes them.

        Args:
            images (`list[PIL.Image.Image | Video]`): N upright RGB images, or videos; at least one.
            view (`View`): What the encoder takes.
            image_processor (`BaseImageProcessor`): Of the vision encoder.
            video_pooling (`int`): See `plan_of`.
            options: For the call of the image processor.

        Returns:
            `dict`: `pixel_values` of shape `(V, channels, height, width)`; `tokens_of_image`, N numbers; and, unless
            every image is a single view of which all features stay, `feature_places`, `(V, 13)`, with the columns of
            `FEATURE_PLACES`. One row a view, so that a serving program that slices all tensors by views slices this one
            rightly.

        Raises:
            ValueError: If the image processor gives views of another size than the one counted for, or the layout
                cuts otherwise than it plans.
        """
        plans = [self.plan_of(image.size, view, video_pooling) for image in images]
        views = [
            [self.frame(frame, view, image_processor) for frame in image.frames]
            if isinstance(image, Video)
            else self.cut(image, view, image_processor)
            for image in images
        ]
        for image, plan, cuts in zip(images, plans, views, strict=True):
            if len(cuts) != plan.num_views:
                raise ValueError(
                    f"{type(self).__name__} plans {plan.num_views} views for an image of {image.size[0]} x "
                    f"{image.size[1]} pixels and cuts {len(cuts)}: plan and cut must agree."
                )
        if self.cuts_to_size and not {"size", "crop_size"} & options.keys():  # those are refused below
            options |= {"do_resize": False, "do_center_crop": False}
        # What else it says, as the `num_patches` of InternVL's, is of no use to the model
        pixel_values = image_processor([cut for cuts in views for cut in cuts], **options)["pixel_values"]
        num_views = sum(plan.num_views for plan in plans)
        if len(pixel_values) != num_views:
            raise ValueError(
                f"The image processor made {len(pixel_values)} views of {num_views}: it is to cut none of its own (set "
                "`crop_to_patches` to False on processor.image_processor), which is what the layout does."
            )
        height, width = pixel_values[0].shape[-2:]
        if (height, width) != (view.height, view.width):
            raise ValueError(
                f"The image processor gave {height} x {width} pixels, and tokens are counted for {view.height} x "
                f"{view.width}: set the size on processor.image_processor, where it is saved with the checkpoint, not "
                "in the call."
            )
        outputs: dict[str, Any] = {"pixel_values": pixel_values}
        if not self.single_view or view.keep_rate < 1 or any(isinstance(image, Video) for image in images):
            outputs["feature_places"] = np.array([row for plan in plans for row in plan.feature_places()])
        return outputs | {"tokens_of_image": [plan.num_tokens for plan in plans]}


def _plan(mosaics: tuple[Mosaic, ...], view: View) -> ImagePlan:
    features = view.num_tokens if view.of_image else sum(mosaic.num_tokens for mosaic in mosaics)
    kept = max(1, round(features * view.keep_rate))
    return ImagePlan(mosaics, kept, features if kept < features else 0)
