"""What a fusion is: where image features enter the language model."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import nn


class Fusion:
    """How a language model reads a text with images. To add one, write a subclass and a line in `fusions.FUSIONS`.

    A fusion has no state: what it learns is part of the connector, and what it has to remember of a text goes with the
    cache of the language model.

    Attributes:
        OPTIONS (`dict[str, Any]`): Its options with their defaults, given in `LlavaConfig.projector_options` beside those
            of the connector.
    """

    OPTIONS: ClassVar[dict[str, Any]] = {}

    def options(self, config: Any) -> dict[str, Any]:
        """Its options as a `LlavaConfig` gives them, with the defaults of those that it leaves out."""
        given = config.projector_options or {}
        return {name: given.get(name, default) for name, default in self.OPTIONS.items()}

    def check(self, config: Any, connector: Any) -> None:
        """Refuse a `LlavaConfig` that it cannot work for, when that is made.

        Args:
            config: The config.
            connector: The class of its connector.

        Raises:
            ValueError: With the remedy.
        """

    def num_tokens(self, num_features: int) -> int:
        """How many image tokens in the text so many features of a view, or an image, take."""
        return num_features

    def as_tokens(self, images: list[torch.Tensor]) -> list[torch.Tensor]:
        """The features of N images, `(features, D)` each, as `(tokens in the text, channels of a token)` each."""
        return images

    def layers(self, config: Any, width_of_features: int) -> nn.ModuleList | None:
        """New layers that it puts into the language model; the connector holds them as `fusion_layers`, and has each
        draw itself by `init_weights`, beside its layers."""
        return None

    def attach(self, language_model: nn.Module, config: Any) -> None:
        """Make a new language model ready for `read`.

        Raises:
            ValueError: It cannot be, saying why.
        """

    @abstractmethod
    def read(
        self,
        language_model: nn.Module,
        connector: Any,
        inputs: dict[str, Any],
        placeholders: torch.Tensor | None = None,
        images: Sequence[torch.Tensor] | None = None,
    ) -> Any:
        """Have the language model read.

        Args:
            language_model: It, without head.
            connector: The connector of the LLaVA.
            inputs: Arguments of its forward, `inputs_embeds` of shape `(B, S, D)` among them.
            placeholders: `(B, S)`, where an image token stands; None without images.
            images: N tensors `(tokens, channels)`, as `as_tokens` gives them.

        Returns:
            What its forward returns.

        Raises:
            ValueError: if a sample's placeholders do not match its images, naming the sample and both numbers.
        """
