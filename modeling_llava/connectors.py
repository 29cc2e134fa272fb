"""Connectors: what turns the features of the vision encoder into word embeddings of the language model."""

import torch
from torch import nn
from transformers.activations import ACT2FN

from .configuration_llava import LlavaConfig


class LinearConnector(nn.Module):
    """One trainable matrix, H_v = W Z_v (arXiv:2304.08485, equation 1)."""

    def __init__(self, config: LlavaConfig):
        super().__init__()
        self.linear = nn.Linear(
            vision_width(config), config.text_config.hidden_size, bias=config.multimodal_projector_bias
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """`(images, tokens, vision width)` to `(images, tokens, hidden_size)` of the language model."""
        return self.linear(features)


class MLPConnector(nn.Module):
    """Two layers with a GELU between them (LLaVA-1.5, arXiv:2310.03744, section 3.3)."""

    def __init__(self, config: LlavaConfig):
        super().__init__()
        width, bias = config.text_config.hidden_size, config.multimodal_projector_bias
        self.linear_1 = nn.Linear(vision_width(config), width, bias=bias)
        self.act = ACT2FN[config.projector_hidden_act]
        self.linear_2 = nn.Linear(width, width, bias=bias)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """`(images, tokens, vision width)` to `(images, tokens, hidden_size)` of the language model."""
        return self.linear_2(self.act(self.linear_1(features)))


# `LlavaConfig.projector_type` is a key of this.
CONNECTORS: dict[str, type[nn.Module]] = {"linear": LinearConnector, "mlp2x_gelu": MLPConnector}


def vision_width(config: LlavaConfig) -> int:
    """Channels of the features: those of the encoder, once for each feature layer."""
    return config.vision_config.hidden_size * len(config.vision_feature_layers)


__all__ = ["CONNECTORS", "LinearConnector", "MLPConnector"]
