"""transformers' `llava`: LLaVA and LLaVA-1.5, one view an image."""

from typing import Any, ClassVar

from transformers import LlavaConfig as TheirConfig
from transformers import LlavaProcessor as TheirProcessor

from ...modeling_llava import LlavaConfig, LlavaForConditionalGeneration
from ...processing import LlavaProcessor
from .format_base import CannotExpress, Given
from .image_processors import with_settings_of
from .native import NativeFormat, feature_fields, read_processor, their_feature_fields, their_strategy, their_template


class LlavaFormat(NativeFormat):
    """`LlavaForConditionalGeneration` of transformers."""

    MODEL_TYPE: ClassVar[str] = "llava"
    MODEL: ClassVar[str] = "LlavaForConditionalGeneration"
    LAYOUTS: ClassVar[tuple[str, ...]] = ("crop", "pad", "squeeze")

    def fields_of(self, config: Any, processor: Any) -> dict[str, Any]:
        return {"projector_type": "mlp2x_gelu"} | feature_fields(config)

    def processor_of(self, config: LlavaConfig, processor: Any, given: Given) -> LlavaProcessor:
        theirs = processor.image_processor
        layout = "crop" if getattr(theirs, "do_center_crop", None) else "squeeze"
        if getattr(theirs, "do_pad", None):  # a field of `LlavaImageProcessor`
            theirs, layout = with_settings_of(theirs, "clip"), "pad"
        return read_processor(config, theirs, processor, given, image_aspect_ratio=layout)

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

    def their_processor(self, config: LlavaConfig, processor: LlavaProcessor) -> Any:
        image_processor = processor.image_processor
        if processor.image_aspect_ratio == "pad":
            image_processor = with_settings_of(image_processor, "llava", do_pad=True)
        elif processor.image_aspect_ratio == "squeeze" and crops(processor):
            height, width = processor.image_size
            size = {"height": height, "width": width}
            image_processor = with_settings_of(image_processor, "llava", size=size, do_center_crop=False)
        return TheirProcessor(
            image_processor,
            processor.tokenizer,
            patch_size=processor.patch_size,
            vision_feature_select_strategy=their_strategy(config),
            chat_template=their_template(processor),
            image_token=processor.image_token,
            num_additional_image_tokens=config.num_additional_image_tokens or 0,
        )


def crops(processor: LlavaProcessor) -> bool:
    """Whether the image processor takes the centre of an image."""
    return bool(processor.image_processor.to_dict().get("do_center_crop"))
