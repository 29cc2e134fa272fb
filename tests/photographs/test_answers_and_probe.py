"""What an answer names, how shares are counted, and the probe that an assistant is measured by."""

import pytest
import torch

from llavakit.photographs.evaluate import named_label, share_right, wilson_interval
from llavakit.photographs.labelled import Photograph
from llavakit.photographs.probe import STRENGTHS, choose_l2, fit

# ---- the answers ----


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ("shirt", "shirt"),
        ("T-Shirt.", "t-shirt"),
        ("A photo of a t-shirt.", "t-shirt"),
        ("It shows a long shirt", "long shirt"),
        ("a shirt or a skirt", None),
        ("a t-shirt, no shirt", None),
        ("shirts", None),
        ("nothing", None),
        ("", None),
    ],
)
def test_an_answer_names_one_label_or_none(answer: str, label: str | None):
    assert named_label(answer, ["shirt", "t-shirt", "skirt", "long shirt"]) == label


def test_shares_and_their_intervals():
    photographs = [Photograph(str(number), "a" if number < 6 else "b") for number in range(10)]
    assert share_right(photographs, {str(number): "a" for number in range(10)}) == 0.6
    assert wilson_interval(0.5, 100) == pytest.approx((0.4038, 0.5962), abs=1e-4)
    assert wilson_interval(0.0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)


# ---- the probe ----


def test_the_probe_is_a_logistic_regression():
    """At the minimum the gradient is zero: residuals are orthogonal to the features but for the penalty."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(90, 5, generator=generator)
    truth = (features @ torch.randn(5, 3, generator=generator)).argmax(-1)
    weight, bias = fit(features, truth, 3, l2=1e-2)
    residual = (features @ weight + bias).softmax(-1) - torch.nn.functional.one_hot(truth, 3)
    torch.testing.assert_close(features.T @ residual / 90, -1e-2 * weight, atol=1e-4, rtol=0)
    torch.testing.assert_close(residual.sum(0), torch.zeros(3), atol=1e-2, rtol=0)


def test_cross_validation_chooses_what_serves_unseen_photographs():
    """Three channels tell the class, 200 are noise: with hardly any penalty the fit is perfect and worth little."""
    generator = torch.Generator().manual_seed(0)
    truth = torch.arange(240) % 3
    told = torch.nn.functional.one_hot(truth, 3) * 2.0 + torch.randn(240, 3, generator=generator)
    features = torch.cat([told, torch.randn(240, 200, generator=generator)], 1)
    seen, unseen = slice(0, 60), slice(60, None)

    def right(l2: float) -> float:
        weight, bias = fit(features[seen], truth[seen], 3, l2)
        return float(((features[unseen] @ weight + bias).argmax(-1) == truth[unseen]).float().mean())

    chosen = choose_l2(features[seen], truth[seen], 3, seed=0)
    assert chosen in STRENGTHS and right(chosen) >= max(map(right, STRENGTHS)) - 0.05
