"""A run killed at any moment and started again by the same command ends bit-identical to an uninterrupted one."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import set_seed

from llavakit.checkpoints.building import build_llava, save_llava

from ..cpu_training import CPU_FLAGS

# What else than the stages has to come back: arguments of `build_llava`, a line an architecture
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "anyres": {"image_aspect_ratio": "anyres", "projector_type": "mlp2x_gelu"},
    "internvl": {"image_aspect_ratio": "tiles", "projector_type": "pixel_shuffle_mlp"},
    "resampler": {"projector_type": "resampler", "projector_options": {"num_queries": 4, "num_heads": 3}},
    "qformer": {  # its dropout would show a random state that did not come back
        "projector_type": "qformer",
        "projector_options": {"num_queries": 3, "num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 16},
    },
}


def start(model: str, rows: Path, output_dir: Path, stage: str, log: Path, steps: int) -> subprocess.Popen:
    command = [sys.executable, "-m", "llavakit.cli", "sft", "--model_name_or_path", model, "--dataset_name", str(rows)]
    command += ["--stage", stage, "--output_dir", str(output_dir), "--resume_from_checkpoint", "true"]
    command += ["--max_steps", str(steps), "--save_strategy", "steps", "--save_steps", "3", "--save_total_limit", "2"]
    command += ["--per_device_train_batch_size", "2", "--learning_rate", "1e-3", "--logging_steps", "1"]
    command += [*CPU_FLAGS, "--num_processes", "1"]
    if stage == "instruct":
        command += ["--group_by_modality_length", "true"]
    if stage == "joint":  # its optimizer has groups of its own
        command += ["--vision_learning_rate", "1e-4", "--vision_layer_decay", "0.9"]
    # A session of its own, so that the launcher and the training process die together
    return subprocess.Popen(command, stdout=log.open("a"), stderr=subprocess.STDOUT, start_new_session=True)


def logged_steps(log: Path) -> int:
    return log.read_text().count("'loss'") if log.exists() else 0


def check_killed_and_resumed(model: str, rows: Path, folder: Path, stage: str, steps: int, kills: int) -> None:
    """Train once without a break and once with, and compare."""
    log = folder / "whole.log"
    assert start(model, rows, folder / "whole", stage, log, steps).wait() == 0, log.read_text()[-3000:]

    seed = int(os.environ.get("LLAVAKIT_TEST_SEED", time.time_ns() % 100_000))
    print(f"LLAVAKIT_TEST_SEED={seed}")  # shown when the test fails
    draw = random.Random(seed)
    log = folder / "killed.log"
    for _ in range(kills):
        run = start(model, rows, folder / "killed", stage, log, steps)
        target = logged_steps(log) + draw.randint(1, 8)
        while logged_steps(log) < target and run.poll() is None:
            time.sleep(0.002)
        time.sleep(draw.uniform(0, 0.1))  # in a step, between steps, or while a checkpoint is written
        assert run.poll() is None, f"the run ended before it could be killed:\n{log.read_text()[-3000:]}"
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()
    run = start(model, rows, folder / "killed", stage, log, steps)
    assert run.wait() == 0, log.read_text()[-3000:]

    whole, killed = (load_file(folder / name / "model.safetensors") for name in ("whole", "killed"))
    assert whole.keys() == killed.keys()
    assert [name for name in whole if not torch.equal(whole[name], killed[name])] == []
    assert not list((folder / "killed").glob(".saving-*"))


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["align", "instruct", "joint"])
def test_killed_and_resumed_is_bit_identical(tiny_llava: str, rows_file: Path, tmp_path: Path, stage: str):
    check_killed_and_resumed(tiny_llava, rows_file, tmp_path, stage, steps=40, kills=5)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_so_it_is_with_every_architecture(
    tiny_backbones: tuple[str, str], rows_file: Path, tmp_path: Path, architecture: str
):
    set_seed(0)
    save_llava(*build_llava(*tiny_backbones, **ARCHITECTURES[architecture]), tmp_path / "model")
    check_killed_and_resumed(str(tmp_path / "model"), rows_file, tmp_path, "instruct", steps=14, kills=1)
