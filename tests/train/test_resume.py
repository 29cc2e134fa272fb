"""A run killed at any moment and started again by the same command ends bit-identical to an uninterrupted one.

The command launches a script as a process of its own. What is killed is that script, started with the same flags and
without the wait for imports (`warm_python.py`), so that a test has time for many kills.
"""

import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import set_seed

from llavakit.checkpoints.building import build_llava, save_llava
from llavakit.train import sft

from ..cpu_training import CPU_FLAGS
from ..warm_python import Started, WarmPython

# What else than the stages has to come back: arguments of `build_llava`, a line an architecture
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "anyres": {"image_aspect_ratio": "anyres", "projector_type": "mlp2x_gelu"},
    "internvl": {"image_aspect_ratio": "tiles", "projector_type": "pixel_shuffle_mlp"},
    "resampler": {"projector_type": "resampler", "projector_options": {"num_queries": 4, "num_heads": 3}},
    "qformer": {  # its dropout would show a random state that did not come back
        "projector_type": "qformer",
        "projector_options": {"num_queries": 3, "num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 16},
    },
    "flamingo": {
        "image_aspect_ratio": "anyres",
        "projector_type": "perceiver",
        "image_fusion": "attend",
        "projector_options": {"num_latents": 4, "num_heads": 4, "num_view_embeddings": 2},
    },
}


# Adapters, and the language model below them quantized. Their dropout would show a random state that did not come back
ADAPTERS: dict[str, list[str]] = {
    "lora": ["--lora_dropout", "0.1"],
    "dora": ["--use_dora", "true", "--lora_dropout", "0.1"],
    "qlora": ["--load_in_4bit", "true", "--lora_dropout", "0.1"],
}

LAUNCHED, SCRIPT = ["-m", "llavakit.cli", "sft"], ["-m", sft.__name__]


def flags(model: str, rows: Path, stage: str, steps: int) -> list[object]:
    """All but where the run goes."""
    flags = ["--model_name_or_path", model, "--dataset_name", rows, "--stage", stage, "--max_steps", steps]
    flags += ["--save_strategy", "steps", "--save_steps", "3", "--save_total_limit", "2"]
    flags += ["--per_device_train_batch_size", "2", "--learning_rate", "1e-3", "--logging_steps", "1"]
    flags += [*CPU_FLAGS, "--resume_from_checkpoint", "true"]
    if stage == "instruct":
        flags += ["--group_by_modality_length", "true"]
    if stage == "joint":  # its optimizer has groups of its own
        flags += ["--vision_learning_rate", "1e-4", "--vision_layer_decay", "0.9"]
    return flags


def logged_steps(log: Path) -> int:
    return log.read_text().count("'loss'") if log.exists() else 0


def check_killed_and_resumed(
    python: WarmPython, folder: Path, flags: list[object], kills: int, weights: str = "model.safetensors"
) -> None:
    """Train once without a break and once with, and compare the file of weights."""

    def start(program: list[str], name: str) -> Started:
        return python.start([*program, *flags, "--output_dir", folder / name], folder / f"{name}.log")

    log = folder / "whole.log"
    assert start(LAUNCHED, "whole").wait() == 0, log.read_text()[-3000:]

    seed = int(os.environ.get("LLAVAKIT_TEST_SEED", time.time_ns() % 100_000))
    print(f"LLAVAKIT_TEST_SEED={seed}")  # shown when the test fails
    draw = random.Random(seed)
    log = folder / "killed.log"
    for _ in range(kills):
        run = start(SCRIPT, "killed")
        target = logged_steps(log) + draw.randint(1, 8)
        while logged_steps(log) < target and run.poll() is None:
            time.sleep(0.002)
        time.sleep(draw.uniform(0, 0.1))  # in a step, between steps, or while a checkpoint is written
        assert run.poll() is None, f"the run ended before it could be killed:\n{log.read_text()[-3000:]}"
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()
    assert start(LAUNCHED, "killed").wait() == 0, log.read_text()[-3000:]

    whole, killed = (load_file(folder / name / weights) for name in ("whole", "killed"))
    assert whole.keys() == killed.keys()
    assert [name for name in whole if not torch.equal(whole[name], killed[name])] == []
    assert not list((folder / "killed").glob(".saving-*"))


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["align", "instruct", "joint"])
def test_killed_and_resumed_is_bit_identical(
    warm_python: WarmPython, tiny_llava: str, rows_file: Path, tmp_path: Path, stage: str
):
    check_killed_and_resumed(warm_python, tmp_path, flags(tiny_llava, rows_file, stage, steps=40), kills=5)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_so_it_is_with_every_architecture(
    warm_python: WarmPython, tiny_backbones: tuple[str, str], rows_file: Path, tmp_path: Path, architecture: str
):
    set_seed(0)
    save_llava(*build_llava(*tiny_backbones, **ARCHITECTURES[architecture]), tmp_path / "model")
    settings = flags(str(tmp_path / "model"), rows_file, "instruct", steps=14)
    check_killed_and_resumed(warm_python, tmp_path, settings, kills=1)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["align", "instruct"])
@pytest.mark.parametrize("method", ADAPTERS)
def test_so_it_is_with_adapters(
    warm_python: WarmPython, wide_llava: str, rows_file: Path, tmp_path: Path, method: str, stage: str
):
    if method == "qlora":
        pytest.importorskip(
            "bitsandbytes", reason="weights of 4 bits need bitsandbytes: pip install 'llavakit[quantization]'"
        )
    settings = flags(wide_llava, rows_file, stage, steps=14) + ["--use_peft", "--lora_r", "4", *ADAPTERS[method]]
    settings += ["--connector_learning_rate", "5e-4"]
    check_killed_and_resumed(warm_python, tmp_path, settings, kills=1, weights="adapter_model.safetensors")
