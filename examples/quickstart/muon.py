"""Muon for the matrices of the layers and AdamW for the rest: a model of this size learns as much in half of the steps.

Muon (Keller Jordan, https://kellerjordan.github.io/posts/muon/) turns each matrix's momentum into the nearest one whose
singular values are level. Scaled to the size of AdamW's steps (arXiv:2502.16982, section 2.2), it takes AdamW's learning rate.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn


class MuonWithAdamW(torch.optim.Optimizer):
    """Both as one optimizer, for trainers and schedules.

    Args:
        params: The weights, or groups of them; no weight decays.
        lr: Learning rate of all.
        betas: Of AdamW.
        embeddings: The matrices among the weights that AdamW is to have: rows of tokens, not layers.

    Raises:
        ValueError: There is nothing but embeddings and vectors, or nothing but matrices.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.98),
        embeddings: Iterable[nn.Parameter] = (),
    ) -> None:
        given = list(params)
        weights = [weight for each in given for weight in (each["params"] if isinstance(each, dict) else [each])]
        apart = {id(weight) for weight in embeddings}
        layers = [weight for weight in weights if weight.ndim == 2 and id(weight) not in apart]
        rest = [weight for weight in weights if weight.ndim != 2 or id(weight) in apart]
        if not layers or not rest:
            raise ValueError(f"{len(layers)} matrices and {len(rest)} other weights: each optimizer needs some.")
        self.both: tuple[torch.optim.Optimizer, ...] = (
            torch.optim.Muon(layers, lr=lr, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(rest, lr=lr, betas=betas, weight_decay=0.0, fused=True),
        )
        # The very groups of both: what a schedule does to them reaches both
        super().__init__([group for each in self.both for group in each.param_groups], {})

    def step(self, closure: Any = None) -> Any:
        loss = None if closure is None else closure()
        for each in self.both:
            each.step()
        return loss
