"""`llavakit bench`: what its figures stand on."""

import os
import platform
import subprocess
import sys

import pytest

from llavakit.bench.allocator import SETTLED, unsettled
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


# ---- the allocator ----

ON_GLIBC = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators are left as they are")

STARTED = """
import sys
from llavakit.bench.allocator import start_settled

sys.argv = ["llavakit", "bench", "--help"]
start_settled(sys.stdin.read())
print("went on")
"""

# Page faults of a thread that takes 100 MB once more, others having come and gone before it
FAULTS = """
import resource
import threading

for _ in range(4):
    threading.Thread(target=bytearray, args=[1000]).start()

def trains():
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        bytearray(100_000_000)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

thread = threading.Thread(target=trains)
thread.start()
thread.join()
"""


def said(code: str, environment: dict[str, str], typed: str = "") -> str:
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, input=typed, capture_output=True, text=True, check=True)
    return done.stdout


@ON_GLIBC
def test_the_command_starts_settled():
    assert "usage: llavakit bench" in said(STARTED, unsettled(), "bench")
    assert said(STARTED, unsettled(), "plan") == "went on\n"  # not what the process was started for
    assert said(STARTED, {**os.environ, **SETTLED}, "bench") == "went on\n"


@ON_GLIBC
def test_what_a_thread_freed_stays_in_the_process():
    assert int(said(FAULTS, unsettled())) > 10_000
    assert int(said(FAULTS, {**os.environ, **SETTLED})) < 1_000
