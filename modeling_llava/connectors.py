"""The connectors, by name: `CONNECTORS`."""

import math
from typing import Any, ClassVar

import torch
from torch import nn
from transformers.activations import ACT2FN

from .connector_base import Connector, vision_width
from .connector_perceiver import PerceiverConnector
from .connector_pixel_shuffle import PixelShuffleConnector
from .connector_qformer import QFormerConnector
from .connector_resampler import ResamplerConnector


class PatchwiseConnector(Connector):
    """The same layers for every patch, or for every mean of neighbouring patches.

    Options:
        pooled_tokens (`int` or `[rows, columns]`, *optional*): How many tokens a view becomes: a square number, or rows and
            columns. The patches are averaged before the layers, as in MM1 (arXiv:2403.09611, section 3.1): after them
            the same would cost more, and with a linear layer give the same.
    """

    OPTIONS: ClassVar[dict[str, Any]] = {"pooled_tokens": None}

    def __init__(self, config: Any):
        super().__init__(config)
        self.pooled_grid = pooled_grid(config)

    @classmethod
    def check(cls, config: Any) -> None:
        """See `Connector.check`.

        Raises:
            ValueError: There is no such option, or the patches of a view cannot be pooled so.
        """
        super().check(config)
        pooled_grid(config)

    @classmethod
    def num_tokens(cls, num_patches: int, config: Any) -> int:
        """How many word embeddings it returns for the patches of one view: as many, unless they are pooled."""
        pooled = pooled_grid(config)
        return num_patches if pooled is None else pooled[0] * pooled[1]

    @classmethod
    def grid(cls, patches: tuple[int, int], config: Any) -> tuple[int, int] | None:
        """Rows and columns of what it returns: those of the patches, unless they are pooled."""
        return pooled_grid(config) or patches

    def pool(self, features: torch.Tensor, grid: tuple[int, int] | None) -> torch.Tensor:
        """Means of neighbouring patches where that was asked for: `(views, patches, Z)` to `(views, tokens, Z)`.

        Raises:
            ValueError: Other features stand before the patches.
        """
        if self.pooled_grid is None:
            return features
        if grid is None or grid[0] * grid[1] != features.shape[1]:
            raise ValueError(
                f"projector_options={{'pooled_tokens': ...}} pools patches alone, but {features.shape[1]} features of a "
                f'view were given, with a grid of {grid}: use vision_feature_select_strategy="default".'
            )
        channels_first = features.transpose(1, 2).unflatten(2, grid)
        return nn.functional.adaptive_avg_pool2d(channels_first, self.pooled_grid).flatten(2).transpose(1, 2)


class LinearConnector(PatchwiseConnector):
    """One trainable matrix, H_v = W Z_v (arXiv:2304.08485, equation 1)."""

    def __init__(self, config: Any):
        super().__init__(config)
        self.linear = nn.Linear(
            vision_width(config), config.text_config.hidden_size, bias=config.multimodal_projector_bias
        )

    def forward(self, features: torch.Tensor, grid: tuple[int, int] | None = None) -> torch.Tensor:
        """`(views, patches, vision width)` to `(views, tokens, hidden_size)` of the language model."""
        return self.linear(self.pool(features, grid))


class MLPConnector(PatchwiseConnector):
    """Layers with a GELU between each two: two of them in LLaVA-1.5 (arXiv:2310.03744, section 3.3).

    Attributes:
        depth (`int`): How many layers it has, at least 2. They are named `linear_1`, `linear_2`, ...
    """

    depth: ClassVar[int] = 2

    def __init__(self, config: Any):
        super().__init__(config)
        width, bias = config.text_config.hidden_size, config.multimodal_projector_bias
        self.linear_1 = nn.Linear(vision_width(config), width, bias=bias)
        self.act = ACT2FN[config.projector_hidden_act]
        for layer in range(2, self.depth + 1):
            self.add_module(f"linear_{layer}", nn.Linear(width, width, bias=bias))

    def forward(self, features: torch.Tensor, grid: tuple[int, int] | None = None) -> torch.Tensor:
        """`(views, patches, vision width)` to `(views, tokens, hidden_size)` of the language model."""
        hidden = self.linear_1(self.pool(features, grid))
        for layer in range(2, self.depth + 1):
            hidden = self.get_submodule(f"linear_{layer}")(self.act(hidden))
        return hidden


class MLP3Connector(MLPConnector):
    """Three layers."""

    depth: ClassVar[int] = 3


class MLP4Connector(MLPConnector):
    """Four layers."""

    depth: ClassVar[int] = 4


# `LlavaConfig.projector_type` is a key of this.
CONNECTORS: dict[str, type[Connector]] = {
    "linear": LinearConnector,
    "mlp2x_gelu": MLPConnector,
    "mlp3x_gelu": MLP3Connector,
    "mlp4x_gelu": MLP4Connector,
    "pixel_shuffle_mlp": PixelShuffleConnector,
    "resampler": ResamplerConnector,
    "qformer": QFormerConnector,
    "perceiver": PerceiverConnector,
}


def pooled_grid(config: Any) -> tuple[int, int] | None:
    """Rows and columns that a `LlavaConfig` has the patches of a view averaged to; None where they stay.

    Raises:
        ValueError: They are no numbers of rows and columns, or the patches are fewer or have no grid.
    """
    tokens = (config.projector_options or {}).get("pooled_tokens")
    if tokens is None:
        return None
    sides = [math.isqrt(max(tokens, 0))] * 2 if type(tokens) is int else tokens
    valid = isinstance(sides, list | tuple) and len(sides) == 2 and all(type(s) is int and s > 0 for s in sides)
    if not valid or (type(tokens) is int and sides[0] ** 2 != tokens):
        raise ValueError(
            f"projector_options={{'pooled_tokens': {tokens!r}}} is neither a square number, as 64, nor [rows, columns], "
            "as [8, 8]."
        )
    if config.patch_grid is None:
        raise ValueError(
            f"projector_options={{'pooled_tokens': {tokens!r}}} pools a grid of patches, which this encoder's features "
            'are not known to have: use vision_feature_select_strategy="default" (class and register tokens have no '
            "place in the grid), and an encoder whose config has `patch_size` and `image_size`."
        )
    if sides[0] > config.patch_grid[0] or sides[1] > config.patch_grid[1]:
        raise ValueError(
            f"projector_options={{'pooled_tokens': {tokens!r}}} asks for {sides[0]} x {sides[1]} tokens, but a view has "
            f"{config.patch_grid[0]} x {config.patch_grid[1]} patches: ask for no more than those."
        )
    return sides[0], sides[1]


__all__ = ["CONNECTORS", "LinearConnector", "MLPConnector", "PatchwiseConnector"]
