"""The Perceiver resampler of Flamingo (arXiv:2204.14198, section 3.1.1 and appendix A.1.1)."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import initialization as init

from .connector_base import Connector, vision_width
from .cross_attention import CrossAttention, FeedForward, check_heads


class PerceiverConnector(Connector):
    """However many features an image has, as a fixed number of latents that have read them.

    Each of its layers has latents x attend to the features x_f and to themselves, and passes them on:

        x = x + attention(q=x, kv=[x_f, x])
        x = x + ffw(x)

    With the fusion `"attend"` the latents are what the language model attends to, as wide as the features; with
    `"splice"` a last layer makes word embeddings of them.

    Options:
        num_latents: How many there are, 64 in the paper.
        num_layers: 6 in the paper.
        num_heads: 16 in the paper.
        num_view_embeddings: So many learnt embeddings are added to the features, one a mosaic of views by its place (a
            picture as a whole, its tiles, ...): the time embeddings of the paper's videos. 0 for none.
    """

    OPTIONS: ClassVar[dict[str, Any]] = {"num_latents": 64, "num_layers": 6, "num_heads": 16, "num_view_embeddings": 0}
    of_image: ClassVar[bool] = True

    def __init__(self, config: Any):
        super().__init__(config)
        options, width = self.options(config), vision_width(config)
        self.latents = nn.Parameter(torch.empty(options["num_latents"], width))
        num_embeddings = options["num_view_embeddings"]
        self.view_embeddings = nn.Parameter(torch.empty(num_embeddings, width)) if num_embeddings else None
        self.layers = nn.ModuleList(PerceiverLayer(width, options["num_heads"]) for _ in range(options["num_layers"]))
        self.norm = nn.LayerNorm(width)
        self.linear = nn.Linear(width, self.width(config)) if config.image_fusion == "splice" else nn.Identity()

    @classmethod
    def check(cls, config: Any) -> None:
        """See `Connector.check`."""
        super().check(config)
        if config.patch_grid is None:
            raise ValueError(
                f"projector_type={config.projector_type!r} reads the patches of an image, which this encoder's features are "
                'not known to have: use vision_feature_select_strategy="default", and an encoder whose config has '
                "`patch_size` and `image_size`."
            )
        options = cls.options(config)
        for name, least in (("num_latents", 1), ("num_layers", 1), ("num_view_embeddings", 0)):
            if options[name] < least:
                raise ValueError(f"projector_options has {name}={options[name]}: give {least} or more.")
        check_heads("num_heads", options["num_heads"], vision_width(config), "the image features")

    @classmethod
    def num_tokens(cls, num_patches: int, config: Any) -> int:
        """As many as there are latents."""
        return cls.options(config)["num_latents"]

    @classmethod
    def width(cls, config: Any) -> int:
        """That of the features, unless word embeddings are made of them."""
        return super().width(config) if config.image_fusion == "splice" else vision_width(config)

    @classmethod
    def grid(cls, patches: tuple[int, int], config: Any) -> None:
        """None: latents have no order in space."""

    def init_weights(self, std: float) -> None:
        """Draw latents and embeddings as the rows of an embedding are drawn."""
        super().init_weights(std)
        init.normal_(self.latents, std=std)
        if self.view_embeddings is not None:
            init.normal_(self.view_embeddings, std=std)

    def forward(self, features: Sequence[torch.Tensor], grid: tuple[int, int] | None = None) -> torch.Tensor:  # type: ignore[override]  # of_image
        """The mosaics of N images, each `(N, rows, columns, Z)`, to `(N, latents, Z)`; `(N, latents, D)` when spliced.

        Raises:
            ValueError: if an image has more mosaics than there are embeddings of them.
        """
        if self.view_embeddings is not None:
            if len(features) > len(self.view_embeddings):
                raise ValueError(
                    f"An image comes in {len(features)} mosaics of views, but num_view_embeddings="
                    f"{len(self.view_embeddings)} in projector_options: build the model with more, or use another layout."
                )
            features = [mosaic + place for mosaic, place in zip(features, self.view_embeddings, strict=False)]
        attended = torch.cat([mosaic.flatten(1, 2) for mosaic in features], dim=1)  # (N, features, Z)
        latents = self.latents.to(attended).expand(len(attended), -1, -1)
        for layer in self.layers:
            latents = layer(attended, latents)
        return self.linear(self.norm(latents))


class PerceiverLayer(nn.Module):
    """One layer of the resampler; features and latents have a norm each before they are attended to."""

    def __init__(self, width: int, num_heads: int):
        super().__init__()
        self.norm_features, self.norm_latents = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = CrossAttention(width, width, num_heads)
        self.feed_forward = FeedForward(width)

    def forward(self, features: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        """`(N, features, Z)` and `(N, latents, Z)` to `(N, latents, Z)`."""
        queries = self.norm_latents(latents)
        latents = latents + self.attention(queries, torch.cat([self.norm_features(features), queries], dim=1))
        return latents + self.feed_forward(latents)


__all__ = ["PerceiverConnector"]
