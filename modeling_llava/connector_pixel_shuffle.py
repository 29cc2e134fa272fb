"""InternVL's connector: patches that are neighbours become one token (arXiv:2404.16821, section 3.1)."""

from typing import Any, ClassVar

import torch
from torch import nn
from transformers.activations import ACT2FN

from .connector_base import Connector, vision_width


class PixelShuffleConnector(Connector):
    """The patches of a square joined along their channels, a layer norm, and two layers with a GELU between them.

    With `downsample=2` four patches make one token: 448 pixels in patches of 14 are 256 tokens.

    The option `downsample` is the side of the square, in patches.
    """

    OPTIONS: ClassVar[dict[str, Any]] = {"downsample": 2}

    def __init__(self, config: Any):
        super().__init__(config)
        self.downsample = self.options(config)["downsample"]
        joined, width = vision_width(config) * self.downsample**2, config.text_config.hidden_size
        self.layer_norm = nn.LayerNorm(joined)
        self.linear_1 = nn.Linear(joined, width, bias=config.multimodal_projector_bias)
        self.act = ACT2FN[config.projector_hidden_act]
        self.linear_2 = nn.Linear(width, width, bias=config.multimodal_projector_bias)

    @classmethod
    def check(cls, config: Any) -> None:
        """Refuse what leaves patches over, or is no grid of them.

        Raises:
            ValueError: A `downsample` that is no whole number from 1 on; features that are no grid; a grid whose rows or
                columns are no multiple of `downsample`.
        """
        downsample = cls.options(config)["downsample"]
        if not isinstance(downsample, int) or isinstance(downsample, bool) or downsample < 1:
            raise ValueError(
                f"projector_options has downsample={downsample!r}: give the side of the square of patches that become "
                "one token, a whole number."
            )
        if config.vision_feature_select_strategy == "full" and config.num_additional_image_tokens:
            raise ValueError(
                f"vision_feature_select_strategy='full' keeps {config.num_additional_image_tokens} features before the "
                "patches, which have no neighbours to be joined with: use 'default' with the connector "
                f"{config.projector_type!r}."
            )
        if config.patch_grid is None:
            raise ValueError(
                f"The connector {config.projector_type!r} joins neighbouring patches, and vision_config (model_type "
                f"{config.vision_config.model_type!r}) has no `image_size` and `patch_size` to know them from: set them."
            )
        cls.grid(config.patch_grid, config)

    @classmethod
    def num_tokens(cls, num_patches: int, config: Any) -> int:
        return num_patches // cls.options(config)["downsample"] ** 2

    @classmethod
    def grid(cls, patches: tuple[int, int], config: Any) -> tuple[int, int]:
        """Rows and columns of squares.

        Raises:
            ValueError: Some patches would be left over.
        """
        side = cls.options(config)["downsample"]
        if patches[0] % side or patches[1] % side:
            raise ValueError(
                f"The {patches[0]} x {patches[1]} patches of a view are no whole number of squares of {side} x {side}: "
                f"choose view_size (the size of the image processor) as a multiple of {side} patches, or another "
                "downsample in projector_options."
            )
        return patches[0] // side, patches[1] // side

    def forward(self, features: torch.Tensor, grid: tuple[int, int] | None = None) -> torch.Tensor:
        """`(views, patches, vision width)` to `(views, patches / downsample**2, hidden_size)` of the language model.

        Raises:
            ValueError: `grid` is None, so that it is not known which patches are neighbours.
        """
        if grid is None:
            raise ValueError("grid=None: the rows and columns of the patches are needed to know which are neighbours.")
        side = self.downsample
        squares = features.unflatten(1, (grid[0] // side, side, grid[1] // side, side))
        joined = squares.transpose(2, 3).flatten(3).flatten(1, 2)  # a square's patches row by row: (V, F, joined)
        return self.linear_2(self.act(self.linear_1(self.layer_norm(joined))))


__all__ = ["PixelShuffleConnector"]
