"""No run of ours warns: sft, inspect and chat, each a process of its own, with the installed versions."""

import os
import subprocess
import sys
from pathlib import Path

import transformers

# Where LLAVAKIT_TEST_TRANSFORMERS names a folder with another version of transformers, the runs use that one
SITE = os.environ.get("LLAVAKIT_TEST_TRANSFORMERS")


def run(*arguments: object) -> str:
    environment = {**os.environ, **({"PYTHONPATH": SITE} if SITE else {})}
    warned = ["-W", "always::FutureWarning", "-W", "always::DeprecationWarning:llavakit"]
    done = subprocess.run(
        [sys.executable, *warned, "-m", "llavakit.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for word in ("Warning", "warning:", "eprecated", "will be removed", "will be ignored"):
        lines = [line for line in done.stderr.splitlines() if word in line]
        assert not lines, lines
    return done.stdout + done.stderr


def test_the_commands_of_a_first_day_warn_of_nothing(tiny_llava: str, rows_file: Path, tmp_path: Path):
    print("transformers", SITE or transformers.__version__)
    run("inspect", rows_file, "--model", tiny_llava)
    common = ["--max_steps", "1", "--max_length", "512", "--per_device_train_batch_size", "2", "--report_to", "none"]
    common += ["--dataset_name", rows_file, "--disable_tqdm", "true"]
    model = tiny_llava
    for stage in ("align", "instruct"):
        run("sft", "--stage", stage, "--model_name_or_path", model, "--output_dir", tmp_path / stage, *common)
        model = str(tmp_path / stage)
    asked = ["--image", rows_file.parent / "1.png", "--question", "what is in the picture", "--max_new_tokens", "4"]
    run("chat", model, *asked)
