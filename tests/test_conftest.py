"""What `conftest.py` sets for all tests, in a run of its own."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("arguments", "chosen", "threads"), [(["-n", "2"], {}, 1), ([], {}, 2), (["-n", "2"], {"OMP_NUM_THREADS": "3"}, 3)]
)
def test_processes_that_share_the_tests_have_a_thread_each(
    repository: Path, tmp_path: Path, arguments: list[str], chosen: dict[str, str], threads: int
) -> None:
    """With two each, tests of models took twice as long."""
    if threads == 2 and os.cpu_count() == 1:
        pytest.skip("this machine has one core")
    folder = tmp_path / "tests"
    folder.mkdir()
    (folder / "__init__.py").touch()
    for name in ("conftest.py", "warm_python.py"):
        shutil.copy(repository / "tests" / name, folder)
    (folder / "test_threads.py").write_text(
        f"import os\n\n\ndef test_threads():\n    assert os.environ['OMP_NUM_THREADS'] == '{threads}'\n"
    )
    ours = ("OMP_NUM_THREADS", "LLAVAKIT_TEST_CHOSE_THREADS", "PYTEST_")
    env = {name: value for name, value in os.environ.items() if not name.startswith(ours)} | chosen
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments, "tests"]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
