"""`llavakit bench`: what its figures stand on."""

import sys

import pytest

from llavakit.bench.quality import time_to_quality

from ..warm_python import WarmPython


@pytest.mark.slow
def test_stock_and_ours_learn_the_quickstart_alike(warm_python: WarmPython, monkeypatch: pytest.MonkeyPatch):
    """The same losses and the same answers: what differs is the time."""
    monkeypatch.setattr(sys, "executable", warm_python.interpreter())  # of the process beside
    found = time_to_quality(scale=0.005)
    stock, ours = found["stock"], found["llavakit"]
    assert ours["last_loss"] == pytest.approx(stock["last_loss"], abs=1e-5)
    assert 0 < stock["last_loss"] < 10
    assert ours["accuracy"] == stock["accuracy"]
    assert found["speedup"] == pytest.approx(stock["seconds"] / ours["seconds"])
