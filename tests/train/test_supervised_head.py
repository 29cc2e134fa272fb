"""The head at supervised positions, beside the same by torch's own functions on all scores at once."""

import pytest
import torch
from torch.nn.functional import cross_entropy, linear

from llavakit.train.step import supervised_head
from llavakit.train.step.supervised_head import score_tokens

TOKENS, WIDTH, WORDS = 37, 16, 101
# How many scores are made at once, and how many of them are gone over together
PARTS = {"at once": (2**24, 2**18), "in parts": (5 * WORDS, 2 * WORDS), "one by one": (1, 1)}


def _material(bias: bool, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor]:
    chance = torch.Generator().manual_seed(seed)
    hidden = torch.randn(TOKENS, WIDTH, generator=chance, dtype=torch.float64).mul_(2).requires_grad_()
    weight = torch.randn(WORDS, WIDTH, generator=chance, dtype=torch.float64).requires_grad_()
    own = torch.randn(WORDS, generator=chance, dtype=torch.float64).requires_grad_() if bias else None
    scores = linear(hidden, weight, own).detach()
    targets = torch.where(torch.rand(TOKENS, generator=chance) < 0.5, scores.argmax(-1), scores.argmin(-1))
    return hidden, weight, own, targets


def _scores(hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, softcap: float | None):
    scores = linear(hidden, weight, bias)
    return scores if softcap is None else softcap * torch.tanh(scores / softcap)


@pytest.mark.parametrize("parts", PARTS.values(), ids=PARTS)
@pytest.mark.parametrize("bias", [False, True], ids=["", "bias"])
@pytest.mark.parametrize("softcap", [None, 3.0], ids=["", "softcap"])
@pytest.mark.parametrize("alike", [True, False], ids=["alike", "by themselves"])
def test_scores_and_gradients(monkeypatch, parts, bias, softcap, alike):
    for name, number in zip(("SCORES_AT_ONCE", "SCORES_IN_CACHE"), parts, strict=True):
        monkeypatch.setattr(supervised_head, name, number)
    hidden, weight, own, targets = _material(bias)
    learning = [each for each in (hidden, weight, own) if each is not None]
    weighs = torch.full((TOKENS,), 0.7) if alike else torch.linspace(0.1, 2, TOKENS)
    found = score_tokens(hidden, weight, own, targets, softcap=softcap, alike=alike)
    gradients = torch.autograd.grad((found.log_probs * weighs).sum(), learning)

    scores = _scores(hidden, weight, own, softcap)
    log_probs = -cross_entropy(scores, targets, reduction="none")
    expected = torch.autograd.grad((log_probs * weighs).sum(), learning)
    # Scores are read in float32, whatever they are computed in
    torch.testing.assert_close(found.log_probs, log_probs.float(), rtol=1e-5, atol=1e-5)
    entropy = torch.distributions.Categorical(logits=scores.detach()).entropy()
    torch.testing.assert_close(found.entropy, entropy.float(), rtol=1e-5, atol=1e-5)
    assert torch.equal(found.is_top1, scores.argmax(-1) == targets)
    assert 0 < found.is_top1.sum() < TOKENS
    for one, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_a_loss_that_weighs_tokens_by_themselves_is_refused_where_all_were_to_weigh_alike():
    hidden, weight, _, targets = _material(bias=False)
    found = score_tokens(hidden, weight, None, targets)
    with pytest.raises(RuntimeError, match="weighs tokens by themselves"):
        (found.log_probs * torch.linspace(0.1, 2, TOKENS)).sum().backward()


def test_large_scores_stay_finite():
    hidden, weight, _, targets = _material(bias=False)
    found = score_tokens(hidden * 1e4, weight, None, targets)
    assert found.log_probs.isfinite().all() and found.entropy.isfinite().all()
    torch.testing.assert_close(found.entropy, torch.zeros_like(found.entropy))


def test_no_token_at_all():
    hidden, weight, _, targets = _material(bias=False)
    found = score_tokens(hidden[:0], weight, None, targets[:0])
    found.log_probs.sum().backward()
    assert len(found.log_probs) == 0 and not weight.grad.any()
