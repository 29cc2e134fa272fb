"""The second process of the quickstart: results, errors, and a sudden end."""

import operator
import os
import time
from pathlib import Path

import pytest

from llavakit.quickstart.side_process import FORKS, SideProcess

from ..warm_python import WarmPython

# The quickstart itself is tested with one that is started anew
pytestmark = pytest.mark.usefixtures("forked_processes")


def has_ended(pid: int) -> bool:
    until = time.monotonic() + 20
    while Path(f"/proc/{pid}").exists() and time.monotonic() < until:
        time.sleep(0.01)
    return not Path(f"/proc/{pid}").exists()


def test_results_and_errors_come_back_in_order():
    with SideProcess(threads=1) as side:
        jobs = [side.submit(operator.floordiv, 7, number) for number in (2, 0, 7)]
        pid = side.submit(os.getpid).result()
        assert jobs[0].result() == 3 and jobs[2].result() == 1
        with pytest.raises(ZeroDivisionError):
            jobs[1].result()
        side.submit(print, "a library's own words").result()  # do not come between the answers
        assert pid != os.getpid() and side.submit(operator.add, 1, 1).result() == 2
    assert has_ended(pid)


@pytest.mark.parametrize("apart", [False, True])
def test_a_sudden_end_is_an_error(apart: bool):
    with SideProcess(threads=1) as side:
        with pytest.raises(RuntimeError, match="ended early"):
            side.submit(os._exit, 1, apart=apart).result()
        if apart:  # and of that process alone
            assert side.submit(operator.add, 1, 1).result() == 2


@pytest.mark.skipif(not FORKS, reason="only Linux forks")
def test_what_runs_apart_has_a_process_of_its_own_that_ends_with_the_other():
    with SideProcess(threads=1) as side:
        other = side.submit(os.getpid).result()
        first, second = (side.submit(os.getpid, apart=True).result() for _ in range(2))
        assert len({os.getpid(), other, first, second}) == 4
        with pytest.raises(ZeroDivisionError):
            side.submit(operator.floordiv, 1, 0, apart=True).result()
        side.submit(time.sleep, 600, apart=True)
        children = Path(f"/proc/{other}/task/{other}/children")
        while not children.read_text().strip():
            time.sleep(0.01)
        sleeping = int(children.read_text())
    assert has_ended(sleeping)


def test_a_script_that_is_in_no_file_may_use_it(warm_python: WarmPython):
    script = "import operator\nfrom llavakit.quickstart.side_process import SideProcess\n"
    script += "with SideProcess(1) as side: print(side.submit(operator.add, 1, 2).result())"
    done = warm_python.run(["-c", script])
    assert done.stdout == "3\n", done.stderr
