"""The resampler of Qwen-VL: a fixed number of tokens for an image of any size, by cross-attention."""

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import initialization as init

from .connector_base import Connector, vision_width

TEMPERATURE = 10000.0  # of the sines and cosines, as in arXiv:1706.03762, section 3.5


class ResamplerConnector(Connector):
    """One layer of cross-attention, whose queries are learnt and lie in a grid over the image (Qwen-VL,
    arXiv:2308.12966, section 2.1, "position-aware vision-language adapter").

        x = LN_kv(W_kv Z_v),    q = LN_q(queries)
        H_v = LN_post(attention(q + p_q, x + p_x, x)) W_proj

    Z_v are the patches of all views of an image. p are two-dimensional sines and cosines, not learnt: of where a query or
    a patch lies in the whole image, whatever the number of patches, so that the picture in its parts and the picture as
    a whole share their places. Values are without positions. D is the width of the language model throughout.

    Options:
        num_queries (`int`, defaults to 256): The tokens of an image, a square number.
        num_heads (`int`, *optional*): Of the attention, a divisor of D. Default: the largest that leaves each at least
            128 channels, and 1 where D has fewer.
    """

    OPTIONS: ClassVar[dict[str, Any]] = {"num_queries": 256, "num_heads": None}
    of_image: ClassVar[bool] = True

    def __init__(self, config: Any):
        super().__init__(config)
        options, width = self.options(config), config.text_config.hidden_size
        bias = config.multimodal_projector_bias
        self.side = math.isqrt(options["num_queries"])
        self.num_heads = num_heads(config)
        self.query = nn.Parameter(torch.empty(options["num_queries"], width))
        self.kv_proj = nn.Linear(vision_width(config), width, bias=False)
        self.ln_q = nn.LayerNorm(width, eps=1e-6)
        self.ln_kv = nn.LayerNorm(width, eps=1e-6)
        self.q_proj = nn.Linear(width, width, bias=bias)
        self.k_proj = nn.Linear(width, width, bias=bias)
        self.v_proj = nn.Linear(width, width, bias=bias)
        self.out_proj = nn.Linear(width, width, bias=bias)
        self.ln_post = nn.LayerNorm(width, eps=1e-6)
        self.proj = nn.Linear(width, width, bias=False)

    @classmethod
    def check(cls, config: Any) -> None:
        """See `Connector.check`.

        Raises:
            ValueError: There is no such option, an option has a value that it cannot have, or there is no grid of
                patches.
        """
        super().check(config)
        queries = cls.options(config)["num_queries"]
        if type(queries) is not int or queries < 1 or math.isqrt(queries) ** 2 != queries:
            raise ValueError(
                f"projector_options={{'num_queries': {queries!r}}}: the queries of a resampler lie in a square grid; "
                "give a square number, as 256."
            )
        num_heads(config)
        if config.text_config.hidden_size % 4:
            raise ValueError(
                f"The resampler's positions are sines and cosines of two coordinates, four parts of equal width, but the "
                f"language model has hidden_size={config.text_config.hidden_size}: choose one that 4 divides."
            )
        if config.patch_grid is None:
            raise ValueError(
                "The resampler places patches in the image, so that they must lie in a known grid: use "
                'vision_feature_select_strategy="default" (class and register tokens have no place in it), and an '
                "encoder whose config has `patch_size` and `image_size`."
            )

    @classmethod
    def num_tokens(cls, num_patches: int, config: Any) -> int:
        """How many word embeddings it returns for an image: one a query."""
        return cls.options(config)["num_queries"]

    @classmethod
    def grid(cls, patches: tuple[int, int], config: Any) -> tuple[int, int] | None:
        """None: it reads whole images, and nothing lies beside their tokens."""
        return None

    def init_weights(self, std: float) -> None:
        """Draw the queries, and the last matrix so that its output has the length of its input."""
        super().init_weights(std)
        init.trunc_normal_(self.query, std=std)
        init.normal_(self.proj.weight, std=self.proj.in_features**-0.5)

    def forward(self, features: Sequence[torch.Tensor], grid: None = None) -> torch.Tensor:  # type: ignore[override]
        """The mosaics of images, each `(images, rows, columns, vision width)`, to `(images, num_queries, D)`."""
        width = self.query.shape[1]
        places = torch.cat([positions(mosaic.shape[1:3], self.side, width, mosaic.device) for mosaic in features])
        patches = torch.cat([mosaic.flatten(1, 2) for mosaic in features], dim=1)  # (images, patches, Z)
        values = self.ln_kv(self.kv_proj(patches))  # (images, patches, D)
        keys = values + places.to(values.dtype)
        queries = self.ln_q(self.query)  # (num_queries, D)
        queries = queries + positions((self.side, self.side), self.side, width, queries.device).to(queries.dtype)
        queries = self._heads(self.q_proj(queries).expand(len(patches), -1, -1))
        attended = nn.functional.scaled_dot_product_attention(
            queries, self._heads(self.k_proj(keys)), self._heads(self.v_proj(values))
        )  # (images, heads, num_queries, D / heads)
        return self.proj(self.ln_post(self.out_proj(attended.transpose(1, 2).flatten(2))))

    def _heads(self, hidden: torch.Tensor) -> torch.Tensor:
        """`(images, tokens, D)` to `(images, heads, tokens, D / heads)`."""
        return hidden.unflatten(2, (self.num_heads, -1)).transpose(1, 2)


def positions(grid: Sequence[int], side: int, width: int, device: torch.device) -> torch.Tensor:
    """Sines and cosines of where the cells of a grid lie in an image, `(rows * columns, width)`, in float32.

    An image is `side` long each way, as the grid of queries counts it: query i lies at i, and of n cells the i-th at
    (i + 1/2) side / n - 1/2, in the middle of what it covers. The first half of the channels is of columns, the second of
    rows, as in the published model; of either, the first half sines and the second cosines.

    Args:
        grid: Rows and columns of cells.
        side: Rows, and columns, of the grid of queries.
        width: A multiple of 4.
        device: Where the result goes.
    """
    rows, columns = grid
    frequencies = TEMPERATURE ** -(torch.arange(width // 4, device=device, dtype=torch.float32) / (width // 4))

    def axis(cells: int) -> torch.Tensor:
        middles = (torch.arange(cells, device=device, dtype=torch.float32) + 0.5) * (side / cells) - 0.5
        angles = middles[:, None] * frequencies
        return torch.cat([angles.sin(), angles.cos()], dim=1)  # (cells, width / 2)

    across = axis(columns).expand(rows, columns, -1)
    down = axis(rows)[:, None].expand(rows, columns, -1)
    return torch.cat([across, down], dim=2).flatten(0, 1)


def num_heads(config: Any) -> int:
    """The heads of a resampler's attention: an option of a `LlavaConfig`, or its default.

    Raises:
        ValueError: They do not divide the width.
    """
    width = config.text_config.hidden_size
    heads = (config.projector_options or {}).get("num_heads")
    if heads is None:
        return next(heads for heads in range(max(1, width // 128), 0, -1) if width % heads == 0)
    if type(heads) is not int or heads < 1 or width % heads:
        raise ValueError(
            f"projector_options={{'num_heads': {heads!r}}} does not divide hidden_size={width} of the language model: "
            f"give a divisor, or leave it out."
        )
    return heads


__all__ = ["ResamplerConnector"]
