"""Attention of rows that share a prefix, on a CPU: what a row sees of it and of itself is merged, as in ring attention.

Of two sets of keys, attention over both is the mean of what it is over each, weighed by the sums of their exponentials; the
kernel says the logarithm of these. So neither are keys of a prefix copied for each of its rows, nor a mask made, and the
first row of a prefix takes one call with it. Going back, the kernel is given the whole result and sum with each part.
"""

from typing import Any

import torch

from .pieces import Pieces


def can_merge(query: torch.Tensor, value: torch.Tensor, pieces: Pieces, window: int | None, dropout: float) -> bool:
    """Whether rows share a prefix, and torch's kernel for CPUs takes what is asked; shapes as `merged_attention` has them."""
    return (
        query.device.type == "cpu"
        and pieces.shares
        and not dropout
        and (window is None or window >= pieces.longest)
        and query.shape[-1] == value.shape[-1]
        and hasattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu")
    )


def merged_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, pieces: Pieces, scaling: float | None
) -> torch.Tensor:
    """Attend within each row of a pack.

    Args:
        query, key, value: `(1, heads, T, width of a head)`.
        pieces: Where the rows are.
        scaling: Of the scores. None: by the root of a head's width.

    Returns:
        `(1, T, heads, width of a head)`.
    """
    merged = _Merged.apply(query, key, value, pieces, scaling)
    return merged.transpose(1, 2)


class _Merged(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, pieces: Pieces, scaling: float | None
    ) -> torch.Tensor:
        attend = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        _, heads, length, width = query.shape
        seen = query.new_empty(1, length, heads, width).transpose(1, 2)
        log_sum = query.new_empty(1, length, heads).transpose(1, 2)
        texts, onward = pieces.products()
        for own in texts:
            part = query[:, :, own], key[:, :, own], value[:, :, own]
            seen[:, :, own], log_sum[:, :, own] = attend(*part, 0.0, True, scale=scaling)
        for rows, prefix in onward:
            part = query[:, :, rows], key[:, :, prefix], value[:, :, prefix]
            of_prefix, its_sum = attend(*part, 0.0, False, scale=scaling)
            own_sum = log_sum[:, :, rows]
            seen[:, :, rows].lerp_(of_prefix, torch.sigmoid(its_sum - own_sum)[..., None])
            log_sum[:, :, rows] = torch.logaddexp(its_sum, own_sum)
        ctx.save_for_backward(query, key, value, seen, log_sum)
        ctx.pieces, ctx.scaling = pieces, scaling
        return seen

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Any, ...]:
        query, key, value, seen, log_sum = ctx.saved_tensors
        found = tuple(torch.empty_like(each) for each in (query, key, value))

        def back(rows: slice, keys: slice, causal: bool) -> tuple[torch.Tensor, ...]:
            return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
                *(each[:, :, rows] for each in (grads[0], query)),
                *(each[:, :, keys] for each in (key, value)),
                *(each[:, :, rows] for each in (seen, log_sum)),
                0.0,
                causal,
                scale=ctx.scaling,
            )

        texts, onward = ctx.pieces.products()
        for own in texts:  # each token is in one of them
            for whole, part in zip(found, back(own, own, True), strict=True):
                whole[:, :, own] = part
        for rows, prefix in onward:
            for whole, part, place in zip(found, back(rows, prefix, False), (rows, prefix, prefix), strict=True):
                whole[:, :, place] += part
        return (*found, None, None)
