"""Connectors: what turns the features of the vision encoder into word embeddings of the language model."""

from abc import abstractmethod
from typing import Any

import torch
from torch import nn
from transformers.activations import ACT2FN


class Connector(nn.Module):
    """What a connector is. To add one, write a subclass and a line in `CONNECTORS`.

    Attributes:
        line_break (`torch.nn.Parameter`, *optional*): `(hidden_size,)`, the embedding that stands between two rows of
            features where the layout of images has rows. A connector that has none leaves it None.
    """

    line_break: nn.Parameter | None

    def __init__(self, config: Any):
        super().__init__()
        self.register_parameter("line_break", None)

    @classmethod
    def num_tokens(cls, num_patches: int, config: Any) -> int:
        """How many word embeddings a `LlavaConfig` makes it return for the patches of one view."""
        return num_patches

    @abstractmethod
    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """`(views, patches, vision width)` to `(views, tokens, hidden_size)` of the language model."""


class LinearConnector(Connector):
    """One trainable matrix, H_v = W Z_v (arXiv:2304.08485, equation 1)."""

    def __init__(self, config: Any):
        super().__init__(config)
        self.linear = nn.Linear(
            vision_width(config), config.text_config.hidden_size, bias=config.multimodal_projector_bias
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
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

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """`(views, patches, vision width)` to `(views, patches, hidden_size)` of the language model."""
        return self.linear_2(self.act(self.linear_1(features)))


# `LlavaConfig.projector_type` is a key of this.
CONNECTORS: dict[str, type[Connector]] = {"linear": LinearConnector, "mlp2x_gelu": MLPConnector}


def vision_width(config: Any) -> int:
    """Channels of the features: those of the encoder, once for each feature layer."""
    return config.vision_config.hidden_size * len(config.vision_feature_layers)


__all__ = ["CONNECTORS", "Connector", "LinearConnector", "MLPConnector"]
