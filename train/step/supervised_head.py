"""The language modelling head at supervised positions alone, in pieces: all scores of a batch never exist at once.

Shapes: K supervised positions, D width of the language model, V words of the vocabulary.
"""

from typing import Any, NamedTuple

import torch
from torch.nn.functional import linear

SCORES_AT_ONCE = 2**24  # 64 MB in float32
SCORES_IN_CACHE = 2**18  # 1 MB: a CPU goes over its scores several times, and has them at hand each time but the first


class TokenScores(NamedTuple):
    """What the head says of each supervised token, each of shape (K,).

    Attributes:
        log_probs: Log-probability of the token, with gradient.
        entropy: Of the distribution that it was drawn from, in nats.
        is_top1: Whether it was the likeliest.
    """

    log_probs: torch.Tensor
    entropy: torch.Tensor
    is_top1: torch.Tensor


def score_tokens(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    targets: torch.Tensor,
    *,
    softcap: float | None = None,
    alike: bool = True,
) -> TokenScores:
    """Score tokens by hidden states and the head.

    Args:
        hidden: `(K, D)`, the states that predict them.
        weight: `(V, D)`.
        bias: `(V,)`, or None.
        targets: `(K,)`, ids.
        softcap: The scores are `softcap * tanh(scores / softcap)` (Gemma 2).
        alike: The loss weighs all of them alike, as a sum or mean does. Gradients are then made along with the scores, which
            need not be made again; a loss that weighs them otherwise takes a second pass.
    """
    return TokenScores(*_Scoring.apply(hidden, weight, bias, targets, softcap, alike, torch.is_grad_enabled()))


def _rows_at_once(number: int, words: int, scores: int) -> list[slice]:
    """So many rows by turns, of at most so many scores together."""
    step = max(1, scores // words)
    return [slice(start, min(start + step, number)) for start in range(0, number, step)]


class _Scoring(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
        softcap: float | None,
        alike: bool,
        learns: bool,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        device = hidden.device.type
        autocast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        needs = ctx.needs_input_grad[:3]
        head = _Head(weight, bias, softcap, autocast or hidden.dtype)
        gradients = _Gradients(head, hidden, needs) if learns and alike and any(needs) else None
        log_probs = hidden.new_empty(len(targets), dtype=torch.float32)
        entropy, is_top1 = torch.empty_like(log_probs), torch.empty_like(log_probs, dtype=torch.bool)
        cached = SCORES_IN_CACHE if device == "cpu" else SCORES_AT_ONCE
        for part in head.parts(len(targets)):
            scores, slopes = head.scores(hidden[part])
            target = targets[part, None]
            for rows in _rows_at_once(len(scores), scores.shape[1], cached):
                own, said = scores[rows], slice(part.start + rows.start, part.start + rows.stop)
                own -= own.amax(-1, keepdim=True)
                score = own.gather(1, target[rows])
                is_top1[said] = score[:, 0] == 0
                exponentials = own.exp()
                total = exponentials.sum(-1, keepdim=True)
                log_total = total.log()
                log_probs[said] = (score - log_total)[:, 0]
                entropy[said] = (log_total - own.mul_(exponentials).sum(-1, keepdim=True) / total)[:, 0]
                if gradients is not None:
                    torch.mul(exponentials, -1 / total, out=own)
            if gradients is not None:
                gradients.add(part, scores, slopes, target)
            del scores, slopes, own, exponentials  # before those of the next part are made
        ctx.gradients, ctx.alike = gradients, alike
        if gradients is None and learns and any(needs):
            ctx.head, ctx.needs = head, needs
            ctx.save_for_backward(hidden, targets)
        ctx.mark_non_differentiable(entropy, is_top1)
        return log_probs, entropy, is_top1

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Any, ...]:
        upstream = grads[0]
        gradients = ctx.gradients
        if gradients is not None:
            if len(upstream) and not torch.equal(upstream, upstream[:1].expand_as(upstream)):
                raise RuntimeError("score_tokens(alike=True) was given a loss that weighs tokens by themselves.")
            ctx.gradients = None  # written over: there is no second time
            found = gradients.times(upstream[0] if len(upstream) else upstream.new_ones(()))
        else:
            hidden, targets = ctx.saved_tensors
            gradients = _Gradients(ctx.head, hidden, ctx.needs)
            for part in ctx.head.parts(len(targets)):
                scores, slopes = ctx.head.scores(hidden[part])
                gradients.add(part, scores.softmax(-1).neg_(), slopes, targets[part, None], upstream[part, None])
                del scores, slopes
            found = gradients.times(None)
        return (*found, None, None, None, None)


class _Head:
    """The head, in the precision of the step."""

    def __init__(
        self, weight: torch.Tensor, bias: torch.Tensor | None, softcap: float | None, dtype: torch.dtype
    ) -> None:
        self.stored, self.stored_bias = weight, bias
        self.weight, self.bias = weight.to(dtype), None if bias is None else bias.to(dtype)
        self.softcap, self.dtype = softcap, dtype

    def parts(self, number: int) -> list[slice]:
        return _rows_at_once(number, len(self.weight), SCORES_AT_ONCE)

    def scores(self, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Scores in float32, and their derivative by what the weights give, where that is not 1."""
        with torch.autocast(hidden.device.type, enabled=False):
            scores = linear(hidden.to(self.dtype), self.weight, self.bias).float()
        if self.softcap is None:
            return scores, None
        bent = torch.tanh(scores / self.softcap)
        return self.softcap * bent, 1 - bent.square()


class _Gradients:
    """Gradients of the sum of log-probabilities, summed up part by part."""

    def __init__(self, head: _Head, hidden: torch.Tensor, needs: tuple[bool, ...]) -> None:
        self.head, self.hidden = head, hidden
        self.of_hidden = torch.zeros_like(hidden) if needs[0] else None
        self.of_weight = torch.zeros_like(head.stored) if needs[1] else None
        self.of_bias = torch.zeros_like(head.stored_bias) if needs[2] and head.stored_bias is not None else None

    def add(
        self,
        part: slice,
        by_scores: torch.Tensor,
        slopes: torch.Tensor | None,
        targets: torch.Tensor,
        weights: torch.Tensor | None = None,
    ) -> None:
        """Add those of some tokens; `by_scores`, minus the probabilities of all words, is written over."""
        by_scores.scatter_add_(1, targets, torch.ones_like(by_scores[:, :1]))
        if slopes is not None:
            by_scores *= slopes
        if weights is not None:
            by_scores *= weights
        by_scores = by_scores.to(self.head.dtype)
        with torch.autocast(by_scores.device.type, enabled=False):
            if self.of_hidden is not None:
                self.of_hidden[part] = (by_scores @ self.head.weight).to(self.of_hidden.dtype)
            if self.of_weight is not None:
                own = by_scores.t(), self.hidden[part].to(self.head.dtype)
                if self.of_weight.dtype == self.head.dtype:
                    self.of_weight.addmm_(*own)
                else:
                    self.of_weight += torch.mm(*own).to(self.of_weight.dtype)
            if self.of_bias is not None:
                self.of_bias += by_scores.sum(0).to(self.of_bias.dtype)

    def times(self, factor: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        found = (self.of_hidden, self.of_weight, self.of_bias)
        if factor is None:
            return found
        return tuple(None if each is None else each.mul_(factor.to(each.dtype)) for each in found)
