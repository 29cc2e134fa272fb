"""The second process of the quickstart: results, errors, and a sudden end."""

import operator
import os

import pytest

from llavakit.quickstart.side_process import SideProcess

from ..warm_python import WarmPython


def test_results_and_errors_come_back_in_order():
    with SideProcess(threads=1) as side:
        jobs = [side.submit(operator.floordiv, 7, number) for number in (2, 0, 7)]
        pid = side.submit(os.getpid).result()
        assert jobs[0].result() == 3 and jobs[2].result() == 1
        with pytest.raises(ZeroDivisionError):
            jobs[1].result()
        side.submit(print, "a library's own words").result()  # do not come between the answers
        assert pid != os.getpid() and side.submit(operator.add, 1, 1).result() == 2
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_sudden_end_is_an_error():
    with SideProcess(threads=1) as side, pytest.raises(RuntimeError, match="ended early"):
        side.submit(os._exit, 1).result()


def test_a_script_that_is_in_no_file_may_use_it(warm_python: WarmPython):
    script = "import operator\nfrom llavakit.quickstart.side_process import SideProcess\n"
    script += "with SideProcess(1) as side: print(side.submit(operator.add, 1, 2).result())"
    done = warm_python.run(["-c", script])
    assert done.stdout == "3\n", done.stderr
