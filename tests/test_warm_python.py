"""What stands for Python in the tests behaves as Python does: what it is given, what it says, and how it ends."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from .warm_python import WarmPython

TOLD = "import os, sys; print(sys.argv[1:], os.getcwd(), os.environ['COLOUR'], sys.stdin.read()); sys.exit(3)"
AGAIN = "import subprocess, sys; subprocess.run([sys.executable, '-I', '-u', '-c', 'import os; print(os.getppid())'])"
SLEEP = "import os, sys, time; print(os.getpid(), flush=True); time.sleep(60)"


@pytest.fixture(scope="module")
def interpreter() -> Iterator[str]:
    with WarmPython(["json"]) as python:
        yield python.interpreter()


def test_arguments_streams_folder_environment_and_status(interpreter: str, tmp_path: Path) -> None:
    command, environment = [interpreter, "-c", TOLD, "a b", "c"], {**os.environ, "COLOUR": "red"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, input="hello", capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (3, "")
    assert done.stdout == f"['a b', 'c'] {tmp_path} red hello\n"
    failed = subprocess.run([interpreter, "-c", "1 / 0"], capture_output=True, text=True)
    assert failed.returncode == 1 and failed.stderr.endswith("ZeroDivisionError: division by zero\n")


def test_a_file_is_run_with_what_lies_beside_it(interpreter: str, tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("WORD = 'found'")
    (tmp_path / "script.py").write_text("import beside; print(beside.WORD)")
    done = subprocess.run([interpreter, tmp_path / "script.py"], capture_output=True, text=True)
    assert done.stdout == "found\n"
    done = subprocess.run([interpreter, "-I", tmp_path / "script.py"], capture_output=True, text=True)
    assert done.returncode == 1 and "No module named 'beside'" in done.stderr
    # Other flags are those of a new interpreter
    done = subprocess.run([interpreter, "-B", tmp_path / "script.py"], capture_output=True, text=True)
    assert done.stdout == "found\n"


def test_what_it_starts_is_forked_too(interpreter: str) -> None:
    done = subprocess.run([interpreter, "-c", AGAIN], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.strip().isdigit(), done.stderr


def test_a_folder_of_the_path_is_known_with_what_it_does_at_the_start(interpreter: str, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import os\ndef started():\n    print('started')\nstarted()\n")
    (tmp_path / "thing.py").write_text("print('thing')")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([interpreter, "-m", "thing"], env=environment, capture_output=True, text=True)
    assert done.stdout == "started\nthing\n", done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_ends_it_and_nothing_is_left(interpreter: str, number: signal.Signals) -> None:
    process = subprocess.Popen([interpreter, "-c", SLEEP], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    pid = int(process.stdout.readline())
    process.send_signal(number)
    said = process.communicate()[1]
    assert process.returncode == -number and ("KeyboardInterrupt" in said) == (number == signal.SIGINT)
    until = time.monotonic() + 20
    with pytest.raises(ProcessLookupError):
        while time.monotonic() < until:
            os.kill(pid, 0)
            time.sleep(0.01)
