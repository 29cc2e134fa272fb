"""What a connector is: what turns the features of the vision encoder into word embeddings of the language model."""

from abc import abstractmethod
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import initialization as init

from .fusions import FUSIONS


class Connector(nn.Module):
    """What a connector is. To add one, write a subclass in a file of its own and a line in `connectors.CONNECTORS`.

    Attributes:
        OPTIONS (`dict[str, Any]`): Its options with their defaults; `LlavaConfig.projector_options` overrides them.
        of_image (`bool`): Whether it reads all views of an image at once, and makes a fixed number of tokens of them. It
            is called with `(images, rows, columns, vision width)` then, once for each mosaic of the images' views (see
            `image_features`), in place of the features of single views, and has no `grid`.
        line_break (`torch.nn.Parameter`, *optional*): `(hidden_size,)`, the embedding that ends a row of features where
            the layout of images asks for it (`LlavaConfig.image_line_break`).
        fusion_layers (`torch.nn.ModuleList`, *optional*): The layers that the fusion puts into the language model
            (`LlavaConfig.image_fusion`). Here, so that they learn with the connector, and the language model's own
            parameters keep their names.
    """

    OPTIONS: ClassVar[dict[str, Any]] = {}
    of_image: ClassVar[bool] = False
    line_break: nn.Parameter | None
    fusion_layers: nn.ModuleList | None

    def __init__(self, config: Any):
        super().__init__()
        has_rows = config.image_line_break and not self.of_image and config.feature_grid is not None
        width = config.text_config.hidden_size
        self.register_parameter("line_break", nn.Parameter(torch.empty(width)) if has_rows else None)
        self.fusion_layers = FUSIONS[config.image_fusion].layers(config, self.width(config))
        # Asked for where a model is spread over devices: a layer with its residual goes whole
        self._no_split_modules = sorted({type(layer).__name__ for layer in self.fusion_layers or ()})

    @classmethod
    def options(cls, config: Any) -> dict[str, Any]:
        """The options that a `LlavaConfig` gives it, with the defaults of those that it leaves out.

        Raises:
            ValueError: There is no such option.
        """
        given, fusion = config.projector_options or {}, FUSIONS[config.image_fusion].OPTIONS
        if unknown := sorted(set(given) - set(cls.OPTIONS) - set(fusion)):
            has = f"its options are {list(cls.OPTIONS)}" if cls.OPTIONS else "it has no options"
            also = f", and those of the fusion {config.image_fusion!r} {list(fusion)}" if fusion else ""
            raise ValueError(
                f"projector_options names {unknown[0]!r}, which the connector {config.projector_type!r} does not have: "
                f"{has}{also}."
            )
        return {name: given.get(name, default) for name, default in cls.OPTIONS.items()}

    @classmethod
    def check(cls, config: Any) -> None:
        """Refuse a `LlavaConfig` that it cannot be built from, when that is made.

        Raises:
            ValueError: There is no such option; or what else a connector cannot do, with the remedy.
        """
        cls.options(config)
        FUSIONS[config.image_fusion].check(config, cls)

    @classmethod
    def num_tokens(cls, num_patches: int, config: Any) -> int:
        """How many word embeddings a `LlavaConfig` makes it return for the patches of one view."""
        return num_patches

    @classmethod
    def width(cls, config: Any) -> int:
        """Channels of what it returns."""
        return config.text_config.hidden_size

    @classmethod
    def grid(cls, patches: tuple[int, int], config: Any) -> tuple[int, int] | None:
        """Rows and columns of what it returns for a view of so many rows and columns of patches.

        None: its tokens have no order in space, so that those of neighbouring views cannot be laid side by side.
        """
        return patches

    def init_weights(self, std: float) -> None:
        """Draw what it holds itself, beside its layers, which are initialised as those of any model."""
        if self.line_break is not None:  # as LLaVA-NeXT draws it
            init.normal_(self.line_break, std=self.line_break.shape[0] ** -0.5)
        layers: Any = self.fusion_layers or ()
        for layer in layers:
            layer.init_weights(std)

    @abstractmethod
    def forward(self, features: torch.Tensor, grid: tuple[int, int] | None = None) -> torch.Tensor:
        """`(views, patches, vision width)` to `(views, tokens, hidden_size)` of the language model.

        Args:
            grid: Rows and columns of the patches; None where other features stand before them
                (`vision_feature_select_strategy="full"`).
        """


def vision_width(config: Any) -> int:
    """Channels of the features: those of the encoder, once for each feature layer."""
    return config.vision_config.hidden_size * len(config.vision_feature_layers)


__all__ = ["Connector", "vision_width"]
