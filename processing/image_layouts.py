"""The layouts of images, by name: `IMAGE_LAYOUTS`."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from PIL import Image

from .image_geometry import Placement
from .image_inputs import pad_to_square
from .image_plan import ImageLayout, Mosaic, View, resized
from .layout_anyres import AnyResLayout
from .layout_native import NativeLayout
from .layout_tiles import TilesLayout


class SingleViewLayout(ImageLayout):
    """One square view of an image, all features of which are its tokens."""

    single_view: ClassVar[bool] = True

    def mosaics(self, width: int, height: int, view: View) -> list[Mosaic]:
        return [Mosaic((1, 1), view)]

    def cut(self, image: Image.Image, view: View, image_processor: Any) -> list[Image.Image]:
        return [self.frame(image, view, image_processor)]


@dataclass(frozen=True)
class CropLayout(SingleViewLayout):
    """The centre of an image (LLaVA v1, arXiv:2304.08485)."""

    def placement(self, width: int, height: int, view: View) -> Placement:
        side = min(width, height)
        across, down = view.width / side, view.height / side
        return Placement(
            view.width, view.height, across, down, (side - width) / 2 * across, (side - height) / 2 * down
        )


@dataclass(frozen=True)
class PadLayout(SingleViewLayout):
    """The whole of an image on a square of the mean colour (LLaVA-1.5, arXiv:2310.03744, section 3.2)."""

    def frame(self, image: Image.Image, view: View, image_processor: Any) -> Image.Image:
        return pad_to_square(image, tuple(int(mean * 255) for mean in image_processor.image_mean))

    def placement(self, width: int, height: int, view: View) -> Placement:
        return Placement.padded_to_square(width, height, (view.width, view.height))


@dataclass(frozen=True)
class SqueezeLayout(SingleViewLayout):
    """The whole of an image stretched onto the view, as encoders are trained that never crop (SigLIP, arXiv:2303.15343)."""

    def frame(self, image: Image.Image, view: View, image_processor: Any) -> Image.Image:
        return resized(image, view.width, view.height, image_processor)

    def placement(self, width: int, height: int, view: View) -> Placement:
        return Placement.stretched(width, height, (view.width, view.height))


# `image_aspect_ratio` of the processor is a key of this, `image_layout_options` are fields of the class.
IMAGE_LAYOUTS: dict[str, type[ImageLayout]] = {
    "crop": CropLayout,
    "pad": PadLayout,
    "squeeze": SqueezeLayout,
    "anyres": AnyResLayout,
    "tiles": TilesLayout,
    "native": NativeLayout,
}


def image_layout(name: str, options: Mapping[str, Any] | None = None) -> ImageLayout:
    """The layout of a name, with its options.

    Raises:
        ValueError: If there is none, or it has no such option; the message lists the names.
    """
    # Not the look-up of `rows/`: this file ships with checkpoints
    if name not in IMAGE_LAYOUTS:
        raise ValueError(f"image_aspect_ratio={name!r} is no layout of images: use one of {list(IMAGE_LAYOUTS)}.")
    layout: Any = IMAGE_LAYOUTS[name]
    known = [field.name for field in fields(layout)]
    if unknown := sorted(set(options or ()) - set(known)):
        has = f"its options are {known}" if known else "it has no options"
        raise ValueError(f"image_layout_options names {unknown[0]!r}, which the layout {name!r} does not have: {has}.")
    return layout(**(options or {}))
