"""transformers' `llava_next`: LLaVA-NeXT (LLaVA-1.6), an overview and tiles of the canvas that suits an image."""

from typing import Any, ClassVar

from transformers import LlavaNextConfig as TheirConfig

from ...modeling_llava import LlavaConfig, LlavaForConditionalGeneration
from ...processing import LlavaProcessor
from ...processing.layout_anyres import NEXT_GRIDS
from .format_base import CannotExpress
from .image_processors import with_settings_of
from .native import NativeFormat, their_feature_fields


class LlavaNextFormat(NativeFormat):
    """`LlavaNextForConditionalGeneration` of transformers."""

    MODEL_TYPE: ClassVar[str] = "llava_next"
    MODEL: ClassVar[str] = "LlavaNextForConditionalGeneration"
    PROCESSOR: ClassVar[str] = "LlavaNextProcessor"
    LAYOUTS: ClassVar[tuple[str, ...]] = ("anyres",)
    NEWLINE: ClassVar[str | None] = "image_newline"

    def layout_of(self, processor: Any) -> tuple[Any, dict[str, Any]]:
        image_processor = processor.image_processor
        candidates = [list(canvas) for canvas in image_processor.image_grid_pinpoints]
        layout = {"image_aspect_ratio": "anyres", "image_layout_options": {"candidates": candidates}}
        return with_settings_of(image_processor, "clip"), layout

    def check(self, model: LlavaForConditionalGeneration, processor: LlavaProcessor) -> None:
        super().check(model, processor)
        check_square_views(self.MODEL_TYPE, processor)
        if processor.image_layout_options and processor.image_layout_options.get("max_views") is not None:
            raise CannotExpress(
                f"image_layout_options={processor.image_layout_options} interpolate features down to max_views, which "
                f"{self.MODEL_TYPE!r} does not: serve our own class (trust_remote_code=True)."
            )

    def config_of(self, config: LlavaConfig, processor: LlavaProcessor) -> Any:
        return TheirConfig(
            image_seq_length=config.num_image_tokens,
            image_grid_pinpoints=canvases_of(processor, NEXT_GRIDS),
            **their_feature_fields(config),
        )

    def their_image_processor(self, processor: LlavaProcessor) -> Any:
        height, width = processor.image_size
        fields = {
            "image_grid_pinpoints": canvases_of(processor, NEXT_GRIDS),
            "crop_size": {"height": height, "width": width},  # the size of a tile, whether it is cropped or not
        }
        return with_settings_of(processor.image_processor, "llava_next", **fields)


def canvases_of(processor: LlavaProcessor, default: Any) -> list[list[int]]:
    """Heights and widths in pixels of the canvases of the layout "anyres": `image_grid_pinpoints`."""
    candidates = (processor.image_layout_options or {}).get("candidates")
    if candidates is not None:
        return [list(canvas) for canvas in candidates]
    height, width = processor.image_size
    return [[rows * height, columns * width] for rows, columns in default]


def check_square_views(name: str, processor: LlavaProcessor) -> None:
    """Refuse views that are no squares: their classes take the square root of the number of features for a side.

    Raises:
        CannotExpress: They are none.
    """
    height, width = processor.image_size
    if height != width:
        raise CannotExpress(
            f"Views of {height} x {width} pixels (height x width) are no squares, as {name!r} has them: serve our own "
            "class (trust_remote_code=True)."
        )
