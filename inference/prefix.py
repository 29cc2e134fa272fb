"""Prompts that begin alike share one reading: a KV cache that is read once, then branched or cut back.

    prompt 1   system message  <image> x 576  USER: What is it?   ASSISTANT:
    prompt 2   system message  <image> x 576  USER: Where is it?  ASSISTANT:
               ───────── read once ─────────────── ── read each ────────────

Shapes in this file: B prompts in a batch, P tokens that they share, S tokens of the longest remainder, N images.
"""

import copy
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from ..modeling_llava.cache_name import CACHE
from ..modeling_llava.read_images import share_images


@dataclass(frozen=True)
class EncodedPrompt:
    """A conversation as the model reads it.

    Attributes:
        ids: Token ids, images expanded to their run of image tokens.
        images: What the processor makes of each image in order, by itself. Two prompts show the same image if they
            hold the same object.
        tokens_of_image: How many of the ids each image takes.
    """

    ids: list[int]
    images: list[dict[str, torch.Tensor]]
    tokens_of_image: list[int]


@dataclass
class Prefix:
    """Tokens that have been read, and the cache that reading them left.

    Attributes:
        ids: The tokens.
        images: The images among them, as in an `EncodedPrompt`.
        cache: Keys and values of the tokens, of one sequence, with what the model keeps of the images beside them.
    """

    ids: list[int] = field(default_factory=list)
    images: list[dict[str, torch.Tensor]] = field(default_factory=list)
    cache: DynamicCache = field(default_factory=DynamicCache)

    def cut(self, num_tokens: int, num_images: int) -> None:
        """Forget what comes after the first tokens and images."""
        if surplus := len(self.ids) - num_tokens:
            self.cache.crop(-surplus)
        self.ids, self.images = self.ids[:num_tokens], self.images[:num_images]

    def branch(self, count: int) -> DynamicCache:
        """A cache of `count` sequences that begin with these tokens. What is added to it does not reach this one."""
        branched = DynamicCache()
        # Layers grow by making new tensors, so that those of one sequence can be shared
        branched.layers = [copy.copy(layer) for layer in self.cache.layers]
        if count > 1:
            branched.batch_repeat_interleave(count)
        share_images(self.cache, branched, count)
        return branched


class PromptReader:
    """Finds what prompts share, and has a model read it.

    Args:
        model: A LLaVA, in eval mode.
        processor: Its processor.
    """

    def __init__(self, model: Any, processor: Any) -> None:
        self.model, self.processor = model, processor
        self.image_token_id = processor.image_token_id
        self.can_share = keeps_all_tokens(model)
        sliding = [layer for layer in _cache_layers(model) if isinstance(layer, DynamicSlidingWindowLayer)]
        self._window = min((layer.sliding_window for layer in sliding), default=None)

    def shared(self, first: EncodedPrompt, others: Sequence[EncodedPrompt | Prefix], most: int) -> tuple[int, int]:
        """How many tokens a prompt and all others begin with, at most `most`, and how many images are among them.

        All image tokens look alike, so images are compared too; and an image is shared whole or not at all.
        """
        if not self.can_share:
            return 0, 0
        tokens, images = most, len(first.images)
        for other in others:
            tokens = min(tokens, _common_length(first.ids, other.ids, lambda one, two: one == two))
            images = min(images, _common_length(first.images, other.images, lambda one, two: one is two))
        places = [place for place, token in enumerate(first.ids[:tokens]) if token == self.image_token_id]
        ends = list(itertools.accumulate(first.tokens_of_image[:images]))  # in image tokens
        images = sum(end <= len(places) for end in ends)
        whole = ends[images - 1] if images else 0
        return places[whole] if len(places) > whole else tokens, images

    def shared_prefix(self, prompts: Sequence[EncodedPrompt]) -> Prefix:
        """Have the model read what all prompts begin with, once. Each keeps a token to be read by itself."""
        prefix = Prefix()
        if len(prompts) > 1:
            shortest = min(len(prompt.ids) for prompt in prompts)
            tokens, images = self.shared(prompts[0], prompts[1:], shortest - 1)
            if tokens > 0:
                prefix.ids, prefix.images = prompts[0].ids[:tokens], prompts[0].images[:images]
                self._read(prefix)
        return prefix

    def _read(self, prefix: Prefix) -> None:
        inputs = {"input_ids": torch.tensor([prefix.ids], device=self.model.device)}
        self.model(**inputs, **self.pixels(prefix.images), **{CACHE: prefix.cache}, logits_to_keep=1)

    def pixels(self, images: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """What goes into the model for images: `pixel_values`, a row a view; empty where there are no images."""
        if len({"feature_places" in image for image in images}) > 1:  # images of one view beside a video
            images = [self._with_places(image) for image in images]
        inputs = {name: _rows([image[name] for image in images]) for name in (images[0] if images else ())}
        return {
            name: tensor.to(self.model.device, self.model.dtype if tensor.is_floating_point() else None)
            for name, tensor in inputs.items()
        }

    def _with_places(self, image: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        if "feature_places" in image:
            return image
        height, width = self.processor.image_size
        return {**image, "feature_places": torch.tensor(self.processor.plan(width, height).feature_places())}

    def batches(self, prompts: Sequence[EncodedPrompt], size: int, max_new_tokens: int = 0) -> Iterator[list[int]]:
        """Put prompts of like length together, at most `size` of them: the positions of those of a batch."""
        batch: list[int] = []
        for place in sorted(range(len(prompts)), key=lambda place: len(prompts[place].ids)):
            width = len(prompts[place].ids)
            # Padding counts in a window of attention, so where a prompt outgrows the window there may be none
            outgrows = self._window is not None and width + max_new_tokens > self._window
            if batch and (len(batch) == size or (outgrows and len(prompts[batch[0]].ids) < width)):
                yield batch
                batch = []
            batch.append(place)
        if batch:
            yield batch

    def batch(self, prompts: Sequence[EncodedPrompt], prefix: Prefix) -> dict[str, Any]:
        """Inputs of the model for prompts that begin with a prefix, to go on from a branch of it.

        The remainders are padded on their left, whatever the tokenizer's padding side: what is generated comes after
        the last token of each.

        Returns:
            `input_ids` and `attention_mask` of shape `(B, P + S)`, `pixels` of the images after the prefix, and
            what `CACHE` names, which is None for a model whose cache is its own affair (see `keeps_all_tokens`).
        """
        start = len(prefix.ids)
        width = max(len(prompt.ids) for prompt in prompts)
        rows, masks = [], []
        for prompt in prompts:
            gap = width - len(prompt.ids)
            # Hidden by the mask. A token that the prompt has anyway changes nothing for repetition penalties either
            filler = next((token for token in prompt.ids if token != self.image_token_id), 0)
            rows.append([*prompt.ids[:start], *[filler] * gap, *prompt.ids[start:]])
            masks.append([1] * start + [0] * gap + [1] * (len(prompt.ids) - start))
        images = [image for prompt in prompts for image in prompt.images[len(prefix.images) :]]
        return {
            "input_ids": torch.tensor(rows, device=self.model.device),
            "attention_mask": torch.tensor(masks, device=self.model.device),
            CACHE: prefix.branch(len(prompts)) if self.can_share else None,
            **self.pixels(images),
        }


def keeps_all_tokens(model: Any) -> bool:
    """Whether the language model attends to keys and values of tokens, and has no running state beside them.

    A running state (Mamba, linear attention) cannot be cut back to an earlier token, so nothing is shared there.
    """
    return all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in _cache_layers(model))


def _cache_layers(model: Any) -> list[Any]:
    """What the language model would keep of itself, layer by layer."""
    return DynamicCache(config=model.config.get_text_config(decoder=True)).layers


def _rows(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """What goes with several images, a row a view. Views of their own sizes have as many patches as the longest, as
    where the processor makes them together."""
    longest = max(tensor.shape[1] for tensor in tensors)
    return torch.cat([torch.nn.functional.pad(t, (0, 0) * (t.ndim - 2) + (0, longest - t.shape[1])) for t in tensors])


def _common_length(one: Sequence[Any], two: Sequence[Any], same: Any) -> int:
    shorter = min(len(one), len(two))
    return next((place for place in range(shorter) if not same(one[place], two[place])), shorter)
