"""The fusion of Flamingo: text tokens attend to images, in layers between those of the language model (arXiv:2204.14198).

    images, (N, L, Z), and where <image> stands, (B, S)  ──>  ReadImages: features (B, M, L, Z), places (B, M)
    with those of the tokens before, off the cache       ──>  ReadImages, on the cache
    which of them each token sees                        ──>  ImageContext, an argument of the language model
    hook before a layer: takes the argument out          ──>  GatedCrossAttentionBlock  ──>  hidden states of the layer

An image takes one token in the text, its place, and the tokens from there to the next image attend to it. The features
reach the layers as an argument and not by way of a state: gradient checkpointing runs a layer anew with the arguments that
it had. What later tokens need of earlier images goes with the keys and values, on the cache.

Shapes as in `gated_attention`.
"""

import inspect
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import nn
from transformers.utils import torch_compilable_check

from .cache_name import CACHE
from .cross_attention import check_heads
from .fusion_base import Fusion
from .gated_attention import CONTEXT, BlockBeforeLayer, GatedCrossAttentionBlock, ImageContext
from .image_tokens import check_image_tokens
from .read_images import ON_CACHE, ReadImages


class GatedAttentionFusion(Fusion):
    """Gated cross-attention blocks before some layers of the language model (section 3.1.2).

    Options:
        cross_attention_every: A block stands before the first layer, and before each so many-th after that. 1 in
            Flamingo-3B, 4 in Flamingo-9B, 7 in Flamingo-80B.
        cross_attention_heads: Of each block. Default: as many as the language model's, as in the paper.
    """

    OPTIONS: ClassVar[dict[str, Any]] = {"cross_attention_every": 4, "cross_attention_heads": None}

    def check(self, config: Any, connector: Any) -> None:
        """See `Fusion.check`."""
        if not connector.of_image:
            raise ValueError(
                f"image_fusion={config.image_fusion!r} takes one token for a whole image, and the connector "
                f"projector_type={config.projector_type!r} makes features of single views: use one that reads a whole "
                "image, such as 'perceiver'."
            )
        every, heads = self._every_and_heads(config)
        if every < 1:
            raise ValueError(f"projector_options has cross_attention_every={every}: give 1 or more.")
        check_heads("cross_attention_heads", heads, config.text_config.hidden_size, "the language model")

    def num_tokens(self, num_features: int) -> int:
        """One, whatever the features."""
        return 1

    def as_tokens(self, images: list[torch.Tensor]) -> list[torch.Tensor]:
        """`(L, Z)` each to `(1, L * Z)` each: one token with all of them, as transformers counts tokens."""
        return [image.flatten().unsqueeze(0) for image in images]

    def layers(self, config: Any, width_of_features: int) -> nn.ModuleList:
        """The blocks, in their order."""
        every, heads = self._every_and_heads(config)
        numbers = range(0, config.text_config.num_hidden_layers, every)
        width = config.text_config.hidden_size
        return nn.ModuleList(GatedCrossAttentionBlock(width, width_of_features, heads) for _ in numbers)

    def attach(self, language_model: nn.Module, config: Any) -> None:
        """Put a hook before each layer; parameters and their names stay what they are."""
        kinds = [parameter.kind for parameter in inspect.signature(language_model.forward).parameters.values()]
        if inspect.Parameter.VAR_KEYWORD not in kinds:
            raise ValueError(_hands_nothing_on(language_model))
        every, _ = self._every_and_heads(config)
        for index, layer in enumerate(decoder_layers(language_model)):
            number = None if index % every else index // every
            layer.register_forward_pre_hook(BlockBeforeLayer(number), with_kwargs=True)

    def read(
        self,
        language_model: nn.Module,
        connector: Any,
        inputs: dict[str, Any],
        placeholders: torch.Tensor | None = None,
        images: Sequence[torch.Tensor] | None = None,
    ) -> Any:
        """See `Fusion.read`; the cache that comes back has the images on it."""
        embeds = inputs["inputs_embeds"]
        cache = inputs.get("cache", inputs.get("past_key_values"))
        start = 0 if cache is None else cache.get_seq_length()
        positions = start + torch.arange(embeds.shape[1], device=embeds.device)
        if images and placeholders is not None:
            if torch.compiler.is_compiling():
                torch_compilable_check(placeholders.sum() == len(images), "image tokens and images differ in number")
            else:
                check_image_tokens(placeholders.sum(-1).tolist(), [len(image) for image in images], unit="tokens")
            tokens = torch.cat(list(images)).to(embeds)  # (N, L * Z)
            features = tokens.unflatten(-1, (-1, connector.fusion_layers[0].width_attended))
            read = ReadImages.of_text(placeholders, positions, features)
        else:
            read = ReadImages.none(embeds)
        if (before := _read_before(cache, start)) is not None:
            # A compiled step of generation makes nothing that outlives it: its memory is used again
            compiled_step = torch.compiler.is_compiling() and len(positions) == 1
            read = before if compiled_step else before.followed_by(read, start)

        context = ImageContext(connector.fusion_layers, *read.seen_from(positions, _text_starts(inputs, cache)))
        if connector.training and not context.features.shape[1]:
            context.show_blank()
        outputs = language_model(**inputs, **{CONTEXT: context})
        if not (context.was_read or torch.compiler.is_compiling()):
            raise ValueError(_hands_nothing_on(language_model))
        if (cache := getattr(outputs, CACHE, None)) is not None and read is not before:
            setattr(cache, ON_CACHE, read)
        return outputs

    def _every_and_heads(self, config: Any) -> tuple[int, int]:
        options = self.options(config)
        return options["cross_attention_every"], (
            options["cross_attention_heads"] or config.text_config.num_attention_heads
        )


def decoder_layers(language_model: Any) -> nn.ModuleList:
    """The layers of any decoder: its one list of as many modules as its config says.

    Raises:
        ValueError: There is none, or more than one.
    """
    number = language_model.config.num_hidden_layers
    lists = {name: module for name, module in language_model.named_modules() if isinstance(module, nn.ModuleList)}
    outer = {
        name: module
        for name, module in lists.items()
        if len(module) == number and not any(name.startswith(f"{other}.") for other in lists)
    }
    if len(outer) != 1 or len(set(*outer.values())) != number:
        raise ValueError(
            f"image_fusion='attend' puts layers before those of the language model, and a "
            f"{type(language_model).__name__} has {len(outer)} lists of {number} different layers "
            f"({', '.join(outer) or 'none'}): use a decoder with one, or image_fusion='splice'."
        )
    return next(iter(outer.values()))


def _read_before(cache: Any, start: int | torch.Tensor) -> ReadImages | None:
    """The images of the tokens whose keys and values a cache holds; None where it holds nothing yet."""
    before = getattr(cache, ON_CACHE, None)
    if cache is None or torch.compiler.is_compiling():
        return before
    if start == 0:
        return None
    if before is None:
        raise ValueError(
            f"The {type(cache).__name__} holds {int(start)} tokens, and not the images among them: go on from a cache "
            f"that this model filled, and take cache.{ON_CACHE} along where you copy one by hand."
        )
    return before


def _text_starts(inputs: dict[str, Any], cache: Any) -> torch.Tensor | None:
    """Where the text of each token begins, `(B or 1, S)`, in rows of several texts; None where each row is one.

    As language models tell it themselves: without a mask and a cache, a text begins where positions do not go on.
    """
    position_ids = inputs.get("position_ids")
    if position_ids is None or position_ids.ndim != 2 or cache is not None or inputs.get("attention_mask") is not None:
        return None
    begins = position_ids.diff(prepend=position_ids[:, :1] - 1) != 1
    return torch.arange(position_ids.shape[1], device=begins.device).where(begins, 0).cummax(-1).values


def _hands_nothing_on(language_model: nn.Module) -> str:
    return (
        f"image_fusion='attend' reaches the layers of the language model by a keyword argument, and a "
        f"{type(language_model).__name__} does not hand those on: use another one, or image_fusion='splice'."
    )


__all__ = ["GatedAttentionFusion", "decoder_layers"]
