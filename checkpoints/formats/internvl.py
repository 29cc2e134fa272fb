"""transformers' `internvl`: dynamic tiles, and patches that are joined before two layers (InternVL 1.5 and later)."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import transformers
from transformers import InternVLConfig as TheirConfig

from ...modeling_llava import LlavaConfig, LlavaForConditionalGeneration
from ...modeling_llava.connector_pixel_shuffle import PixelShuffleConnector
from ...processing import LlavaProcessor
from ...processing.layout_tiles import TilesLayout
from .format_base import CannotExpress
from .image_marks import with_image_marks
from .image_processors import with_settings_of
from .llava_next import check_square_views
from .native import NativeFormat, their_strategy, their_template
from .special_tokens import with_named_tokens

VISION = "internvl_vision"


class InternVLFormat(NativeFormat):
    """`InternVLForConditionalGeneration` of transformers.

    Its processor puts a token before and one after the tokens of an image. Here these are the template's business: an import
    writes them into it, and an export gives the processor empty ones.
    """

    MODEL_TYPE: ClassVar[str] = "internvl"
    MODEL: ClassVar[str] = "InternVLForConditionalGeneration"
    PROCESSOR: ClassVar[str] = "InternVLProcessor"
    CONNECTORS: ClassVar[tuple[str, ...]] = ("pixel_shuffle_mlp",)
    LAYOUTS: ClassVar[tuple[str, ...]] = ("tiles", "squeeze")
    SHOWS_VIDEOS: ClassVar[bool] = True
    DIFFERS: ClassVar[str] = "Videos: internvl names each frame in the text, here the frames follow one another."

    # ------------------------------------------------------------------------------------------------ in

    def layout_of(self, processor: Any) -> tuple[Any, dict[str, Any]]:
        image_processor = processor.image_processor
        options = {"min_tiles": image_processor.min_patches, "max_tiles": image_processor.max_patches}
        return with_settings_of(image_processor, "clip"), {
            "image_aspect_ratio": "tiles",
            "image_layout_options": options,
        }

    def our_connector(self, their_config: Any) -> dict[str, Any]:
        downsample = int(1 / their_config.downsample_ratio)
        return {"projector_type": "pixel_shuffle_mlp", "projector_options": {"downsample": downsample}}

    def our_template(self, processor: Any) -> Any:
        template = processor.chat_template
        if not isinstance(template, str):
            return template
        marks = processor.start_image_token, processor.end_image_token
        return with_image_marks(template, processor.image_token, *marks)

    # ------------------------------------------------------------------------------------------------ out

    def check(self, model: LlavaForConditionalGeneration, processor: LlavaProcessor) -> None:
        super().check(model, processor)
        check_square_views(self.MODEL_TYPE, processor)
        config = model.config
        if config.vision_config.model_type != VISION:
            raise CannotExpress(
                f"The vision encoder is a {config.vision_config.model_type!r}, and {self.MODEL_TYPE!r} loads every encoder as "
                f"its own, {VISION!r}: serve our own class (trust_remote_code=True)."
            )
        if not isinstance(config.vision_feature_layer, int):
            raise CannotExpress(
                f"vision_feature_layer={config.vision_feature_layer} joins the features of several layers, and "
                f"{self.MODEL_TYPE!r} takes those of one: serve our own class (trust_remote_code=True)."
            )
        if not config.multimodal_projector_bias:
            raise CannotExpress(
                f"multimodal_projector_bias=False: the layers of {self.MODEL_TYPE!r} have biases. Serve our own class "
                "(trust_remote_code=True)."
            )
        if isinstance(processor.layout, TilesLayout) and not processor.layout.thumbnail:
            raise CannotExpress(
                f"image_layout_options={processor.image_layout_options}: {self.MODEL_TYPE!r} always shows the whole image "
                "once more after its tiles. Serve our own class (trust_remote_code=True)."
            )

    def their_weights(self, weights: Mapping[str, torch.Tensor], config: LlavaConfig) -> dict[str, torch.Tensor]:
        return dict(weights)  # by the same names, and a square's patches are joined row by row

    def config_of(self, config: LlavaConfig, processor: LlavaProcessor) -> Any:
        return TheirConfig(
            vision_config=config.vision_config,
            text_config=config.text_config,
            image_token_id=config.image_token_id,
            image_seq_length=config.num_image_tokens,
            tie_word_embeddings=config.tie_word_embeddings,
            vision_feature_layer=config.vision_feature_layer,
            vision_feature_select_strategy=their_strategy(config),
            downsample_ratio=1 / PixelShuffleConnector.options(config)["downsample"],
            projector_hidden_act=config.projector_hidden_act,
        )

    def their_image_processor(self, processor: LlavaProcessor) -> Any:
        height, width = processor.image_size
        tiles = {"min_patches": 1, "max_patches": 1}
        if isinstance(layout := processor.layout, TilesLayout):
            tiles = {"min_patches": layout.min_tiles, "max_patches": layout.max_tiles}
        size = {"height": height, "width": width}
        return with_settings_of(processor.image_processor, "internvl", size=size, crop_to_patches=True, **tiles)

    def their_processor(self, config: LlavaConfig, processor: LlavaProcessor) -> Any:
        names = {"start_image_token": "", "end_image_token": "", "video_token": "<video>"}
        return transformers.InternVLProcessor(
            self.their_image_processor(processor),
            with_named_tokens(processor.tokenizer, context_image_token=processor.image_token, **names),
            transformers.InternVLVideoProcessor(),
            image_seq_length=config.num_image_tokens,
            chat_template=their_template(processor),
        )
