"""The connectors, by name: `CONNECTORS`."""

from typing import Any

import torch
from torch import nn
from transformers.activations import ACT2FN

from .connector_base import Connector, vision_width
from .connector_pixel_shuffle import PixelShuffleConnector


class LinearConnector(Connector):
    """One trainable matrix, H_v = W Z_v (arXiv:2304.08485, equation 1)."""

    def __init__(self, config: Any):
        super().__init__(config)
        self.linear = nn.Linear(
            vision_width(config), config.text_config.hidden_size, bias=config.multimodal_projector_bias
        )

    def forward(self, features: torch.Tensor, grid: tuple[int, int] | None = None) -> torch.Tensor:
        """`(views, patches, vision width)` to `(views, patches, hidden_size)` of the language model."""
        return self.linear(features)


class MLPConnector(Connector):
    """Two layers with a GELU between them (LLaVA-1.5, arXiv:2310.03744, section 3.3)."""

    def __init__(self, config: Any):
        super().__init__(config)
        width, bias = config.text_config.hidden_size, config.multimodal_projector_bias
        self.linear_1 = nn.Linear(vision_width(config), width, bias=bias)
        self.act = ACT2FN[config.projector_hidden_act]
        self.linear_2 = nn.Linear(width, width, bias=bias)

    def forward(self, features: torch.Tensor, grid: tuple[int, int] | None = None) -> torch.Tensor:
        """`(views, patches, vision width)` to `(views, patches, hidden_size)` of the language model."""
        return self.linear_2(self.act(self.linear_1(features)))


# `LlavaConfig.projector_type` is a key of this.
CONNECTORS: dict[str, type[Connector]] = {
    "linear": LinearConnector,
    "mlp2x_gelu": MLPConnector,
    "pixel_shuffle_mlp": PixelShuffleConnector,
}

__all__ = ["CONNECTORS", "LinearConnector", "MLPConnector"]
