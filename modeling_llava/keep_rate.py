"""Fewer image tokens at inference: which features of an image are kept, chosen without the text."""

import torch
from torch import nn

# Distances are compared to so many decimals: the features of an image alone and in a batch differ in their last bits, and
# are to be chosen alike
DECIMALS = 4


@torch.no_grad()
def most_diverse(features: torch.Tensor, count: int) -> torch.Tensor:
    """Which features to keep: those that differ most from each other (DivPrune, arXiv:2503.02175).

    A greedy solution of the max-min diversity problem under the cosine distance: first the feature that is farthest from
    the one most like it, then, again and again, the one that is farthest from all that are chosen. It takes no attention
    of the encoder, so that it is the same rule with a class token and without, and for every attention kernel; and what an
    image shows twice, as a wall or the sky, it keeps once.

    Args:
        features: `(tokens, D)`.
        count: How many to keep, from 1 to the number of tokens.

    Returns:
        `(count,)`, their indices, ascending.
    """
    directions = nn.functional.normalize(features.float(), dim=-1)
    distances = (1 - directions @ directions.T).round(decimals=DECIMALS)  # (tokens, tokens)
    chosen = distances.fill_diagonal_(torch.inf).amin(1).argmax()
    distances.fill_diagonal_(-torch.inf)  # what is chosen is never chosen again
    kept, closest = [chosen], distances[chosen]
    for _ in range(count - 1):
        chosen = closest.argmax()
        kept.append(chosen)
        closest = torch.minimum(closest, distances[chosen])
    return torch.stack(kept).sort().values
