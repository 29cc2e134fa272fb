"""A run killed at any moment and started again by the same command ends bit-identical to an uninterrupted one."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ..cpu_training import CPU_FLAGS

STEPS = 40
KILLS = 5


def start(model: str, rows: Path, output_dir: Path, stage: str, log: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "llavakit.cli", "sft", "--model_name_or_path", model, "--dataset_name", str(rows)]
    command += ["--stage", stage, "--output_dir", str(output_dir), "--resume_from_checkpoint", "true"]
    command += ["--max_steps", str(STEPS), "--save_strategy", "steps", "--save_steps", "3", "--save_total_limit", "2"]
    command += ["--per_device_train_batch_size", "2", "--learning_rate", "1e-3", "--logging_steps", "1"]
    command += [*CPU_FLAGS, "--num_processes", "1"]
    if stage == "instruct":
        command += ["--group_by_modality_length", "true"]
    # A session of its own, so that the launcher and the training process die together
    return subprocess.Popen(command, stdout=log.open("a"), stderr=subprocess.STDOUT, start_new_session=True)


def logged_steps(log: Path) -> int:
    return log.read_text().count("'loss'") if log.exists() else 0


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["align", "instruct"])
def test_killed_and_resumed_is_bit_identical(tiny_llava: str, rows_file: Path, tmp_path: Path, stage: str):
    log = tmp_path / "whole.log"
    assert start(tiny_llava, rows_file, tmp_path / "whole", stage, log).wait() == 0, log.read_text()[-3000:]

    seed = int(os.environ.get("LLAVAKIT_TEST_SEED", time.time_ns() % 100_000))
    print(f"LLAVAKIT_TEST_SEED={seed}")  # shown when the test fails
    draw = random.Random(seed)
    log = tmp_path / "killed.log"
    for _ in range(KILLS):
        run = start(tiny_llava, rows_file, tmp_path / "killed", stage, log)
        target = logged_steps(log) + draw.randint(1, 8)
        while logged_steps(log) < target and run.poll() is None:
            time.sleep(0.002)
        time.sleep(draw.uniform(0, 0.1))  # in a step, between steps, or while a checkpoint is written
        assert run.poll() is None, f"the run ended before it could be killed:\n{log.read_text()[-3000:]}"
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()
    run = start(tiny_llava, rows_file, tmp_path / "killed", stage, log)
    assert run.wait() == 0, log.read_text()[-3000:]

    whole, killed = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "killed"))
    assert whole.keys() == killed.keys()
    assert [name for name in whole if not torch.equal(whole[name], killed[name])] == []
    assert not list((tmp_path / "killed").glob(".saving-*"))
