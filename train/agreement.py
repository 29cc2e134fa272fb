"""Whether a processor and a model belong together: what would otherwise only fall out in the first step."""

from typing import Any

from ..modeling_llava import LlavaConfig
from ..modeling_llava.connectors import CONNECTORS
from ..processing import LlavaProcessor


def check_agreement(config: LlavaConfig, processor: Any) -> None:
    """Refuse a processor that counts, cuts or joins images otherwise than a model takes them.

    Args:
        config: Of the model.
        processor: Of whatever kind; only a `LlavaProcessor` can be asked.

    Raises:
        ValueError: With the first of `disagreements`.
    """
    for reason in disagreements(config, processor) if isinstance(processor, LlavaProcessor) else ():
        raise ValueError(reason)


def disagreements(config: LlavaConfig, processor: LlavaProcessor) -> list[str]:
    """Why every row with an image would fail, each reason with its remedy."""
    connector, layout, view = CONNECTORS[config.projector_type], processor.layout, processor.view
    if config.num_image_tokens != view.num_tokens:
        return [
            f"The processor writes {view.num_tokens} tokens an image, and the model makes {config.num_image_tokens} "
            "features of one: every row with an image would fail. Make the two agree on the image size, patch_size and "
            "vision_feature_select_strategy."
        ]
    if connector.of_image != view.of_image:
        wanted = "image" if connector.of_image else "view"
        return [
            f"The connector {config.projector_type!r} makes its tokens of each {wanted}, and the processor has "
            f"image_tokens_of={processor.image_tokens_of!r}: set it to {wanted!r} in processor_config.json."
        ]
    if layout.single_view or view.of_image:
        return []
    reasons = []
    grid = config.feature_grid
    if view.spatial and grid is not None and tuple(grid) != view.grid:
        reasons.append(
            f"The processor lays {view.grid[0]} x {view.grid[1]} tokens of a view side by side, and the connector makes "
            f"{grid[0]} x {grid[1]}: set image_token_grid to {list(grid)} in processor_config.json."
        )
    if view.spatial and layout.line_breaks and not (config.image_line_break and grid is not None):
        reasons.append(
            f"The layout image_aspect_ratio={processor.image_aspect_ratio!r} ends each row of features with a line break, "
            f"and the model has no embedding for one (image_line_break={config.image_line_break} in its config): build it "
            f"by `llavakit init --image_aspect_ratio {processor.image_aspect_ratio}`, or give the processor the layout "
            "that the model was built with."
        )
    return reasons


def num_positions(config: LlavaConfig) -> int | None:
    """How many tokens the language model knows positions for; None where it has no limit."""
    return getattr(config.text_config, "max_position_embeddings", None)
