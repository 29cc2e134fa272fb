"""transformers' `llava`: LLaVA and LLaVA-1.5, one view an image."""

from typing import Any, ClassVar

from transformers import LlavaConfig as TheirConfig

from ...modeling_llava import LlavaConfig, LlavaForConditionalGeneration
from ...processing import LlavaProcessor
from .format_base import CannotExpress
from .image_processors import with_settings_of
from .native import NativeFormat, their_feature_fields


class LlavaFormat(NativeFormat):
    """`LlavaForConditionalGeneration` of transformers."""

    MODEL_TYPE: ClassVar[str] = "llava"
    MODEL: ClassVar[str] = "LlavaForConditionalGeneration"
    PROCESSOR: ClassVar[str] = "LlavaProcessor"
    LAYOUTS: ClassVar[tuple[str, ...]] = ("crop", "pad", "squeeze")

    def layout_of(self, processor: Any) -> tuple[Any, dict[str, Any]]:
        image_processor = processor.image_processor
        if getattr(image_processor, "do_pad", None):  # a field of `LlavaImageProcessor`
            return with_settings_of(image_processor, "clip"), {"image_aspect_ratio": "pad"}
        layout = "crop" if getattr(image_processor, "do_center_crop", None) else "squeeze"
        return image_processor, {"image_aspect_ratio": layout}

    def check(self, model: LlavaForConditionalGeneration, processor: LlavaProcessor) -> None:
        super().check(model, processor)
        if processor.image_aspect_ratio == "crop" and not crops(processor):
            raise CannotExpress(
                f"image_aspect_ratio='crop' takes the centre of an image, and {self.MODEL_TYPE!r} has the image processor "
                "do that, which here does not: serve our own class (trust_remote_code=True), or train with 'squeeze' or "
                "'pad'."
            )

    def config_of(self, config: LlavaConfig, processor: LlavaProcessor) -> Any:
        return TheirConfig(image_seq_length=config.num_image_tokens, **their_feature_fields(config))

    def their_image_processor(self, processor: LlavaProcessor) -> Any:
        image_processor = processor.image_processor
        if processor.image_aspect_ratio == "pad":
            image_processor = with_settings_of(image_processor, "llava", do_pad=True)
        elif processor.image_aspect_ratio == "squeeze" and crops(processor):
            height, width = processor.image_size
            size = {"height": height, "width": width}
            image_processor = with_settings_of(image_processor, "llava", size=size, do_center_crop=False)
        return image_processor


def crops(processor: LlavaProcessor) -> bool:
    """Whether the image processor takes the centre of an image."""
    return bool(processor.image_processor.to_dict().get("do_center_crop"))
