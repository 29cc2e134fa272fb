"""No run of ours warns: inspect, sft and chat, with the installed versions.

The first is a new interpreter. The others are forked from a process that has imported the libraries with all warnings on
(`warm_python.py`), whose own words count too.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import transformers

from ..warm_python import WarmPython

# Where LLAVAKIT_TEST_TRANSFORMERS names a folder with another version of transformers, the runs use that one
SITE = os.environ.get("LLAVAKIT_TEST_TRANSFORMERS")
SHOWN = ["always::FutureWarning", "always::DeprecationWarning:llavakit"]


def check(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, done.stderr[-3000:]
    assert_no_warning(done.stderr)


def assert_no_warning(said: str) -> None:
    for word in ("Warning", "warning:", "eprecated", "will be removed", "will be ignored"):
        lines = [line for line in said.splitlines() if word in line]
        assert not lines, lines


@pytest.mark.slow
def test_the_commands_of_a_first_day_warn_of_nothing(
    tiny_llava: str, rows_file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    print("transformers", SITE or transformers.__version__)
    environment = {**os.environ, **({"PYTHONPATH": SITE} if SITE else {})}
    shown = [part for each in SHOWN for part in ("-W", each)]
    inspect = [sys.executable, *shown, "-m", "llavakit.cli", "inspect", str(rows_file), "--model", tiny_llava]
    check(subprocess.run(inspect, capture_output=True, text=True, env=environment, timeout=500))

    common = ["--max_steps", "1", "--max_length", "512", "--per_device_train_batch_size", "2", "--report_to", "none"]
    common += ["--dataset_name", rows_file, "--disable_tqdm", "true"]
    environment["PYTHONWARNINGS"] = ",".join(SHOWN)
    with WarmPython(env=environment) as python:
        model = tiny_llava
        for stage in ("align", "instruct"):
            flags = ["--stage", stage, "--model_name_or_path", model, "--output_dir", tmp_path / stage, *common]
            check(python.run(["-m", "llavakit.cli", "sft", *flags], env=environment))
            model = str(tmp_path / stage)
        asked = ["--image", rows_file.parent / "1.png", "--question", "what is in the picture"]
        asked += ["--max_new_tokens", "4"]
        check(python.run(["-m", "llavakit.cli", "chat", model, *asked], env=environment))
    assert_no_warning(capfd.readouterr().err)  # of the process that they are forked from
