"""The layers of a connector by the names that other formats have for them."""

from collections.abc import Mapping

import torch

from ...modeling_llava import LlavaConfig

LINE_BREAK = "line_break"  # ours, within the connector


def as_two_layers(weights: Mapping[str, torch.Tensor], config: LlavaConfig) -> dict[str, torch.Tensor]:
    """A linear connector as the two layers of LLaVA-1.5's, for classes that have no other.

    The second layer is the identity, and there is no activation between them (`two_layer_act`): what comes out is what came
    out, to the bit, for 1 x is x and adding zeros changes nothing.

    Args:
        weights: The state dict of our connector.
        config: Of the LLaVA.

    Returns:
        `linear_1.*` and `linear_2.*`, and whatever else there was.
    """
    if config.projector_type != "linear":
        return dict(weights)
    renamed = {name.replace("linear.", "linear_1."): tensor for name, tensor in weights.items()}
    first = renamed["linear_1.weight"]
    width = first.shape[0]
    renamed["linear_2.weight"] = torch.eye(width, dtype=first.dtype, device=first.device)
    if config.multimodal_projector_bias:
        renamed["linear_2.bias"] = torch.zeros(width, dtype=first.dtype, device=first.device)
    return renamed


def two_layer_act(config: LlavaConfig) -> str:
    """`projector_hidden_act` of what `as_two_layers` makes."""
    return "linear" if config.projector_type == "linear" else config.projector_hidden_act
