"""The two stages of training: which part of the model learns, and what "frozen" means for the others."""

from typing import TYPE_CHECKING, Literal

from torch import nn

if TYPE_CHECKING:
    from .modeling_llava import LlavaPreTrainedModel

Stage = Literal["align", "instruct"]

# What learns in each stage (arXiv:2304.08485, section 4.2). The vision encoder stays frozen in both.
STAGES: dict[str, tuple[str, ...]] = {
    "align": ("multi_modal_projector",),
    "instruct": ("multi_modal_projector", "language_model", "lm_head"),
}


def model_parts(model: "LlavaPreTrainedModel") -> dict[str, nn.Module]:
    """See `LlavaPreTrainedModel.named_parts`."""
    base = model.base_model
    parts = {name: getattr(base, name) for name in ("vision_tower", "multi_modal_projector", "language_model")}
    if (lm_head := model.get_output_embeddings()) is not None:
        parts["lm_head"] = lm_head
    return parts


def apply_stage(model: "LlavaPreTrainedModel", stage: Stage | None) -> None:
    """See `LlavaPreTrainedModel.set_stage`."""
    if stage is not None and stage not in STAGES:
        raise ValueError(f"stage={stage!r} is unknown; choose one of {', '.join(map(repr, STAGES))}, or None.")
    for name, part in model_parts(model).items():
        learns = stage is None or name in STAGES[stage]
        for parameter in part.parameters():
            if parameter.is_floating_point():  # quantized weights cannot learn
                parameter.requires_grad_(learns)
    model.config.stage = stage
    model.train(model.training)


def is_learning(module: nn.Module) -> bool:
    """Whether any parameter of the module has a gradient coming."""
    return any(parameter.requires_grad for parameter in module.parameters())
