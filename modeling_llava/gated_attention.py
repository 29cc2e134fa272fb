"""The layers that Flamingo puts between those of a language model, and how they get there (arXiv:2204.14198).

Shapes: B samples, S tokens, M images at most in a sample, L features of an image, Z their width, D the language model's.
"""

from typing import Any

import torch
from torch import nn
from transformers import initialization as init

from .cross_attention import CrossAttention, FeedForward

CONTEXT = "image_context"  # argument of the language model, which hands it on to its layers


class GatedCrossAttentionBlock(nn.Module):
    """Cross-attention and a feed-forward layer, each behind a gate that is shut at first (section 3.1.2).

    y = y + tanh(alpha) * attention(q=y, kv=x)
    y = y + tanh(beta) * ffw(y)
    """

    def __init__(self, width: int, width_attended: int, num_heads: int):
        super().__init__()
        self.width_attended = width_attended
        self.norm = nn.LayerNorm(width)
        self.attention = CrossAttention(width, width_attended, num_heads)
        self.feed_forward = FeedForward(width)
        self.attention_gate = nn.Parameter(torch.zeros(1))
        self.feed_forward_gate = nn.Parameter(torch.zeros(1))

    def init_weights(self, std: float) -> None:
        """Shut the gates, so that the language model is at first what it was."""
        init.zeros_(self.attention_gate)
        init.zeros_(self.feed_forward_gate)

    def forward(self, states: torch.Tensor, features: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """What goes into a layer of the language model.

        Args:
            states: `(B, S, D)`, of the text.
            features: `(B, M, L, Z)`, of the images.
            mask: `(B, S, M)`, whether a token sees an image. One that sees none gets exactly nothing of the attention.

        Returns:
            `(B, S, D)`.
        """
        dtype = states.dtype
        _, num_images, length, _ = features.shape
        if num_images:
            sees = mask.any(-1, keepdim=True)  # (B, S, 1)
            # An attention over nothing is not a number, so that tokens that see no image attend to any, for nothing
            each = None if num_images == 1 else (mask | ~sees).repeat_interleave(length, dim=-1)  # (B, S, M * L)
            seen = self.attention(self.norm(states), features.to(dtype).flatten(1, 2), each) * sees
            states = states + torch.tanh(self.attention_gate) * seen
        return (states + torch.tanh(self.feed_forward_gate) * self.feed_forward(states)).to(dtype)


class ImageContext:
    """What the blocks read in one forward. A plain object: what shards or places a model leaves it as it is.

    Args:
        blocks: The blocks, in their order.
        features: `(B, M, L, Z)`.
        mask: `(B, S, M)`, whether a token sees an image.
    """

    def __init__(self, blocks: Any, features: torch.Tensor, mask: torch.Tensor):
        self.blocks, self.features, self.mask = blocks, features, mask
        self.was_read = False

    def show_blank(self) -> None:
        """Show a blank image to no token: in training every weight needs a gradient, whatever the batch (DDP)."""
        rows, num_tokens, _ = self.mask.shape
        self.features = self.features.new_zeros(rows, 1, 1, self.blocks[0].width_attended)
        self.mask = self.mask.new_zeros(rows, num_tokens, 1)


class BlockBeforeLayer:
    """A hook before a layer of the language model: takes the context out of its arguments, and runs the layer's block.

    It knows the number of the block alone, and takes the block from the context: copies, adapters and wrappers of the
    model then use their own.

    Args:
        number: Of the block; None for a layer without one.
    """

    def __init__(self, number: int | None):
        self.number = number

    def __call__(self, layer: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]] | None:
        context = kwargs.pop(CONTEXT, None)
        if context is None or self.number is None:
            return args, kwargs
        context.was_read = True
        block = context.blocks[self.number]
        if args:
            return (block(args[0], context.features, context.mask), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": block(kwargs["hidden_states"], context.features, context.mask)}
