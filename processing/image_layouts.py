"""The layouts of images, by name: `IMAGE_LAYOUTS`."""

from typing import Any

from PIL import Image

from .image_inputs import crop_to_square, pad_to_square, trim_strip
from .image_plan import ImageLayout, ImagePlan, View


class SingleViewLayout(ImageLayout):
    """One square view of an image, all features of which are its tokens."""

    single_view = True

    def plan(self, width: int, height: int, view: View) -> ImagePlan:
        return ImagePlan(num_views=1, num_tokens=view.num_tokens)


class CropLayout(SingleViewLayout):
    """The centre of an image (LLaVA v1, arXiv:2304.08485)."""

    def cut(self, image: Image.Image, view: View, image_processor: Any) -> list[Image.Image]:
        # One that crops does so after it has resized, as CLIP was trained
        return [(trim_strip if getattr(image_processor, "do_center_crop", None) else crop_to_square)(image)]


class PadLayout(SingleViewLayout):
    """The whole of an image on a square of the mean colour (LLaVA-1.5, arXiv:2310.03744, section 3.2)."""

    def cut(self, image: Image.Image, view: View, image_processor: Any) -> list[Image.Image]:
        return [pad_to_square(image, tuple(int(mean * 255) for mean in image_processor.image_mean))]


# `image_aspect_ratio` of the processor is a key of this. A layout of several views (see `ImageLayout`) is a file of its
# own and a line here.
IMAGE_LAYOUTS: dict[str, ImageLayout] = {"crop": CropLayout(), "pad": PadLayout()}


def image_layout(name: str) -> ImageLayout:
    """The layout of a name.

    Raises:
        ValueError: If there is none; the message lists the names.
    """
    # Not the look-up of `rows/`: this file ships with checkpoints
    if name not in IMAGE_LAYOUTS:
        raise ValueError(f"image_aspect_ratio={name!r} is no layout of images: use one of {list(IMAGE_LAYOUTS)}.")
    return IMAGE_LAYOUTS[name]
