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
            the same would cost more, and with a linear layer give the same. What stands before the patches (class and
            register tokens, under `vision_feature_select_strategy="full"`) stays as it is, a token each.
    """

    OPTIONS: ClassVar[dict[str, Any]] = {"pooled_tokens": None}

    def __init__(self, config: Any):
        super().__init__(config)
        self.pooled_grid = pooled_grid(config)
        # Of a view with other features before its patches, whose grid nobody else can tell
        self.num_prefix, self.view_grid = config.num_prefix_features, config.view_grid

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
        """How many word embeddings it returns for the features of one view: as many; where patches are pooled, those that
        stand before the patches, and rows x columns.
        """
        pooled = pooled_grid(config)
        return num_patches if pooled is None else config.num_prefix_features + pooled[0] * pooled[1]

    @classmethod
    def grid(cls, patches: tuple[int, int], config: Any) -> tuple[int, int] | None:
        """Rows and columns of what it returns: those of the patches, unless they are pooled."""
        return pooled_grid(config) or patches

    def pool(self, features: torch.Tensor, grid: tuple[int, int] | None) -> torch.Tensor:
        """Means of neighbouring patches where that was asked for, behind what stands before the patches.

        `(views, prefix + patches, Z)` to `(views, prefix + tokens, Z)`.

        Raises:
            ValueError: There are other features than the config says.
        """
        if self.pooled_grid is None:
            return features
        rows, columns = grid or self.view_grid or (0, 0)
        if self.num_prefix + rows * columns != features.shape[1]:
            raise ValueError(
                f"projector_options={{'pooled_tokens': ...}} pools {rows} x {columns} patches, and the config has "
                f"{self.num_prefix} features before them, but {features.shape[1]} features of a view were given: give "
                "views of the size that the model was built for, and leave vision_feature_select_strategy as it was then."
            )
        prefix, patches = features.split([self.num_prefix, rows * columns], dim=1)
        channels_first = patches.transpose(1, 2).unflatten(2, (rows, columns))
        means = nn.functional.adaptive_avg_pool2d(channels_first, self.pooled_grid).flatten(2).transpose(1, 2)
        return torch.cat([prefix, means], dim=1) if self.num_prefix else means


class LinearConnector(PatchwiseConnector):
    """One trainable matrix, H_v = W Z_v (arXiv:2304.08485, equation 1)."""

    def __init__(self, config: Any):
        super().__init__(config)
        self.linear = nn.Linear(
            vision_width(config), config.text_config.hidden_size, bias=config.multimodal_projector_bias
        )

    def forward(self, features: torch.Tensor, grid: tuple[int, int] | None = None) -> torch.Tensor:
        """`(views, features, vision width)` to `(views, tokens, hidden_size)` of the language model."""
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
        """`(views, features, vision width)` to `(views, tokens, hidden_size)` of the language model."""
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
        ValueError: They are no numbers of rows and columns, the patches are fewer or have no grid, or a line break is to
            end rows that class and register tokens stand beside.
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
    grid = config.view_grid
    if grid is None:
        raise ValueError(
            f"projector_options={{'pooled_tokens': {tokens!r}}} pools a grid of patches, which this encoder's features "
            "are not known to have: use an encoder whose config has `patch_size` and `image_size`."
        )
    if sides[0] > grid[0] or sides[1] > grid[1]:
        raise ValueError(
            f"projector_options={{'pooled_tokens': {tokens!r}}} asks for {sides[0]} x {sides[1]} tokens, but a view has "
            f"{grid[0]} x {grid[1]} patches: ask for no more than those."
        )
    if config.image_line_break and config.num_prefix_features:
        raise ValueError(
            f"image_line_break=True ends each row of tokens, but vision_feature_select_strategy='full' keeps "
            f"{config.num_prefix_features} before the {sides[0]} x {sides[1]} that projector_options={{'pooled_tokens': "
            f"{tokens!r}}} makes of the patches, and they lie in no row: use 'default'."
        )
    return sides[0], sides[1]


__all__ = ["CONNECTORS", "LinearConnector", "MLPConnector", "PatchwiseConnector"]
