"""The second process of the quickstart: results, errors, and a sudden end."""

import operator
import os
import subprocess
import sys

import pytest

from llavakit.quickstart.beside import Beside


def test_results_and_errors_come_back_in_order():
    with Beside(threads=1) as beside:
        jobs = [beside.submit(operator.floordiv, 7, number) for number in (2, 0, 7)]
        pid = beside.submit(os.getpid).result()
        assert jobs[0].result() == 3 and jobs[2].result() == 1
        with pytest.raises(ZeroDivisionError):
            jobs[1].result()
        beside.submit(print, "a library's own words").result()  # do not come between the answers
        assert pid != os.getpid() and beside.submit(operator.add, 1, 1).result() == 2
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_sudden_end_is_an_error():
    with Beside(threads=1) as beside, pytest.raises(RuntimeError, match="ended early"):
        beside.submit(os._exit, 1).result()


def test_a_script_from_standard_input_may_use_it():
    script = "import operator\nfrom llavakit.quickstart.beside import Beside\n"
    script += "with Beside(1) as beside: print(beside.submit(operator.add, 1, 2).result())"
    done = subprocess.run([sys.executable, "-"], input=script, capture_output=True, text=True)
    assert done.stdout == "3\n", done.stderr
