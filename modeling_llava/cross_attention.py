"""Attention of one sequence to another, and the feed-forward layer beside it, as Flamingo has them (arXiv:2204.14198)."""

import torch
from torch import nn


class CrossAttention(nn.Module):
    """Multi-head attention without biases, from one sequence to another of another width.

    Args:
        width (`int`): D, of what attends; a multiple of `num_heads`.
        width_attended (`int`): Z, of what is attended to.
        num_heads (`int`): How many heads.
    """

    def __init__(self, width: int, width_attended: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        # Not `q_proj` and the like, by which adapters find the language model's own
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width_attended, width, bias=False)
        self.value = nn.Linear(width_attended, width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, queries: torch.Tensor, attended: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Attend.

        Args:
            queries: `(B, S, D)`.
            attended: `(B, T, Z)`.
            mask: `(B, S, T)`, True where a query sees what is attended to: something for every one of them. None: all.

        Returns:
            `(B, S, D)`.
        """
        query, key, value = (
            layer(states).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (B, heads, S or T, D / heads)
            for layer, states in ((self.query, queries), (self.key, attended), (self.value, attended))
        )
        mask = None if mask is None else mask.unsqueeze(1)
        attended_to = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.out(attended_to.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """Two layers, four times as wide between them, after a norm; a squared ReLU (arXiv:2204.14198, appendix B.1.1)."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """`(..., width)` to the same."""
        return self.down(nn.functional.relu(self.up(self.norm(states))).square())


def check_heads(option: str, num_heads: int, width: int, of: str) -> None:
    """Refuse a number of heads that does not divide a width.

    Raises:
        ValueError: It does not.
    """
    if num_heads < 1 or width % num_heads:
        raise ValueError(
            f"projector_options has {option}={num_heads}, which does not divide the {width} channels of {of}: give a "
            f"number that does."
        )
