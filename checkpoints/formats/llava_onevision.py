"""transformers' `llava_onevision`: AnyRes whose features are interpolated down to those of some views."""

from typing import Any, ClassVar

import transformers
from transformers import LlavaOnevisionConfig as TheirConfig

from ...modeling_llava import LlavaConfig, LlavaForConditionalGeneration
from ...processing import LlavaProcessor
from ...processing.layout_anyres import NEXT_GRIDS, ONEVISION_GRIDS
from .image_processors import with_settings_of
from .llava_next import canvases_of, check_square_views
from .native import NativeFormat, their_feature_fields, their_strategy, their_template
from .special_tokens import with_named_tokens

ASPECT_RATIO = "anyres_max_{}"
UNLIMITED = 10_000  # views: more than the largest canvas has


class LlavaOnevisionFormat(NativeFormat):
    """`LlavaOnevisionForConditionalGeneration` of transformers."""

    MODEL_TYPE: ClassVar[str] = "llava_onevision"
    MODEL: ClassVar[str] = "LlavaOnevisionForConditionalGeneration"
    PROCESSOR: ClassVar[str] = "LlavaOnevisionProcessor"
    LAYOUTS: ClassVar[tuple[str, ...]] = ("anyres",)
    NEWLINE: ClassVar[str | None] = "image_newline"
    SHOWS_VIDEOS: ClassVar[bool] = True
    DIFFERS: ClassVar[str] = (
        "Several pictures in one conversation: llava_onevision shows each as one view on a square, here each is cut into "
        "tiles as a single one is. Videos are counted otherwise."
    )

    def layout_of(self, processor: Any) -> tuple[Any, dict[str, Any]]:
        canvases = [list(canvas) for canvas in processor.image_processor.image_grid_pinpoints]
        options: dict[str, Any] = {"candidates": canvases}
        max_views = int(processor.vision_aspect_ratio.removeprefix(ASPECT_RATIO.format("")))
        if max_views < UNLIMITED:
            options["max_views"] = max_views
        layout = {"image_aspect_ratio": "anyres", "image_layout_options": options}
        return with_settings_of(processor.image_processor, "clip"), layout

    def check(self, model: LlavaForConditionalGeneration, processor: LlavaProcessor) -> None:
        super().check(model, processor)
        check_square_views(self.MODEL_TYPE, processor)

    def config_of(self, config: LlavaConfig, processor: LlavaProcessor) -> Any:
        return TheirConfig(
            image_grid_pinpoints=_canvases(processor),
            vision_aspect_ratio=_aspect_ratio(processor),
            **their_feature_fields(config),
        )

    def their_image_processor(self, processor: LlavaProcessor) -> Any:
        height, width = processor.image_size
        fields = {"image_grid_pinpoints": _canvases(processor), "size": {"height": height, "width": width}}
        return with_settings_of(processor.image_processor, "llava_onevision", **fields)

    def their_processor(self, config: LlavaConfig, processor: LlavaProcessor) -> Any:
        strategy = their_strategy(config)
        return transformers.LlavaOnevisionProcessor(
            self.their_image_processor(processor),
            with_named_tokens(processor.tokenizer, video_token="<video>"),
            transformers.LlavaOnevisionVideoProcessor(),
            num_image_tokens=config.num_image_tokens + (strategy == "default"),  # as many as the encoder returns
            vision_feature_select_strategy=strategy,
            chat_template=their_template(processor),
            image_token=processor.image_token,
            vision_aspect_ratio=_aspect_ratio(processor),
        )


def _max_views(processor: LlavaProcessor) -> int | None:
    return (processor.image_layout_options or {}).get("max_views")


def _aspect_ratio(processor: LlavaProcessor) -> str:
    return ASPECT_RATIO.format(_max_views(processor) or UNLIMITED)


def _canvases(processor: LlavaProcessor) -> list[list[int]]:
    return canvases_of(processor, NEXT_GRIDS if _max_views(processor) is None else ONEVISION_GRIDS)
