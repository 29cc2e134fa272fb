"""A vision tower that does not learn: run up to the layer that features are taken from, and no further."""

import contextlib
import types
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from ...modeling_llava.model_parts import is_learning
from ...modeling_llava.vision_encoding import encode_views


@contextlib.contextmanager
def heard_layers_alone(llava: Any) -> Iterator[int]:
    """Leave out the layers of a frozen tower behind the one that features come from.

    Nothing changes for features: that is tried on a blank image, and where they differ, or the tower is sharded or laid out
    otherwise, all layers run.

    Args:
        llava: A `LlavaForConditionalGeneration`.

    Yields:
        How many layers are left out.
    """
    tower = llava.model.vision_tower
    layers = [] if is_learning(tower) else unheard_layers(tower, llava.config.vision_feature_layer)
    if not layers or "forward" in vars(layers[0]):  # left out already, or somebody else's
        yield 0
        return
    expected = _blank_features(llava)
    for layer in layers:
        layer.forward = types.MethodType(_pass_on, layer)
    try:
        if torch.equal(_blank_features(llava), expected):
            yield len(layers)
            return
        for layer in layers:
            del layer.forward
        layers = []
        yield 0
    finally:
        for layer in layers:
            del layer.forward


def _pass_on(self: nn.Module, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    return hidden_states


def unheard_layers(tower: Any, feature_layer: int | list[int]) -> list[nn.Module]:
    """The layers of a tower behind the hidden states that features are taken from; none where it cannot be told."""
    number = getattr(tower.config, "num_hidden_layers", None)
    parameters = list(tower.parameters())
    if number is None or any(hasattr(each, "ds_id") or hasattr(each, "device_mesh") for each in parameters):
        return []
    stacks = [each for each in tower.modules() if isinstance(each, nn.ModuleList) and len(each) == number]
    if len(stacks) != 1:
        return []
    # Hidden states are one more than layers: before the first, and behind each
    chosen = [feature_layer] if isinstance(feature_layer, int) else feature_layer
    last = max(layer + number + 1 if layer < 0 else layer for layer in chosen)
    return list(stacks[0][last:])


@torch.no_grad()
def _blank_features(llava: Any) -> torch.Tensor:
    tower, config = llava.model.vision_tower, llava.config
    weight = next(tower.parameters())
    blank = torch.zeros(1, *config.image_shape, dtype=weight.dtype, device=weight.device)
    was_training = tower.training
    tower.eval()
    strategy = config.vision_feature_select_strategy
    features = encode_views(tower, config, blank, None, config.vision_feature_layer, strategy).features
    tower.train(was_training)
    return features[0]
