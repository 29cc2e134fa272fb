"""What a layout of images is: how an image becomes views, tokens, and joined features.

    width, height   ── plan ──>  rows of `pixel_values`, tokens in the text, which feature is which token
    upright pixels  ── cut ───>  so many views, each to be resized and normalized by the image processor

The processor asks a layout, and nobody else decides or counts. `plan` needs no pixels, so ids and lengths are known
before a picture is decoded. The model joins the features as `feature_places` tells it, and checks.

Shapes: N images, V views over all of them, F features that encoder and connector make of one view.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image


@dataclass(frozen=True)
class View:
    """One view as the vision encoder and the connector take it.

    Attributes:
        height (`int`): In pixels.
        width (`int`): In pixels.
        num_tokens (`int`): F, how many features come of it.
    """

    height: int
    width: int
    num_tokens: int


@dataclass(frozen=True)
class ImagePlan:
    """What an image of a certain size becomes.

    Attributes:
        num_views (`int`): How many rows of `pixel_values` are the image's.
        num_tokens (`int`): How many tokens it takes in the text.
        feature_places (`list[list[int]]`): For each view, where each of its F features goes among the tokens of the
            image; -1 for one that is left out. A token that no feature goes to is a line break between rows of
            features, for which the model has a trained embedding. None: all features, view by view.
    """

    num_views: int
    num_tokens: int
    feature_places: Sequence[Sequence[int]] | None = None


def view_size(image_processor: Any) -> tuple[int, int]:
    """Height and width in pixels of a view as an image processor makes it.

    Raises:
        ValueError: If its size does not fix both.
    """
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


class ImageLayout(ABC):
    """How images are cut and joined. To add one, write a file with a subclass and a line in `IMAGE_LAYOUTS`.

    Attributes:
        single_view (`bool`): Whether every image, whatever its size, is one view whose features are its tokens. Sizes
            are not asked for then, and nothing goes with the pixels.
    """

    single_view: bool = False

    @abstractmethod
    def plan(self, width: int, height: int, view: View) -> ImagePlan:
        """What becomes of an upright image of this size, in pixels."""

    @abstractmethod
    def cut(self, image: Image.Image, view: View, image_processor: Any) -> list[Image.Image]:
        """The views of an upright RGB image, in the order of the plan, for the image processor to resize."""

    def apply(self, images: Sequence[Image.Image], view: View, image_processor: Any, **options: Any) -> dict[str, Any]:
        """Images as the model takes them.

        Args:
            images (`list[PIL.Image.Image]`): N upright RGB images, at least one.
            view (`View`): What the encoder takes.
            image_processor (`BaseImageProcessor`): Of the vision encoder.
            options: For the call of the image processor.

        Returns:
            `dict`: `pixel_values` of shape `(V, channels, height, width)`; `tokens_of_image`, N numbers; and, unless
            every image is a single view, `feature_places`, V rows of `1 + F` numbers: the tokens of the image in the
            row of its first view and 0 in the others, then the places of the view's features. One row a view, so that
            a serving program that slices all tensors by views slices this one rightly.

        Raises:
            ValueError: If the image processor gives views of another size than the one counted for, or the layout
                cuts otherwise than it plans.
        """
        plans = [self.plan(*image.size, view) for image in images]
        views = [self.cut(image, view, image_processor) for image in images]
        for image, plan, cuts in zip(images, plans, views, strict=True):
            if len(cuts) != plan.num_views:
                raise ValueError(
                    f"{type(self).__name__} plans {plan.num_views} views for an image of {image.size[0]} x "
                    f"{image.size[1]} pixels and cuts {len(cuts)}: plan and cut must agree."
                )
        outputs = dict(image_processor([cut for cuts in views for cut in cuts], **options))
        height, width = outputs["pixel_values"][0].shape[-2:]
        if (height, width) != (view.height, view.width):
            raise ValueError(
                f"The image processor gave {height} x {width} pixels, and tokens are counted for {view.height} x "
                f"{view.width}: set the size on processor.image_processor, where it is saved with the checkpoint, not "
                "in the call."
            )
        if not self.single_view:
            outputs["feature_places"] = [row for plan in plans for row in _rows(plan, view)]
        return outputs | {"tokens_of_image": [plan.num_tokens for plan in plans]}


def _rows(plan: ImagePlan, view: View) -> list[list[int]]:
    """The rows of `feature_places` of one image."""
    places = plan.feature_places
    if places is None:
        places = [range(start * view.num_tokens, (start + 1) * view.num_tokens) for start in range(plan.num_views)]
    return [[plan.num_tokens if not index else 0, *row] for index, row in enumerate(places)]
