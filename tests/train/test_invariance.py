"""Settings that change how a step is computed, and not what it is, follow one trajectory.

Twelve rows of unequal numbers of supervised tokens, one of text alone, four to a step, three epochs, plain gradient descent:
an error in how the parts of a step are weighed shows in its first losses and grows.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from llavakit import LlavaSFTConfig, LlavaSFTTrainer, load_conversations

from ..cpu_training import CPU_FLAGS, CPU_SETTINGS
from ..warm_python import WarmPython

STEPS, ROWS_A_STEP = 9, 4
SETTINGS: dict[str, Any] = {
    "max_length": 512,
    "num_train_epochs": 3,
    "learning_rate": 1.0,
    "lr_scheduler_type": "constant",
    "optim": "sgd",
    "logging_steps": 1,
    "gradient_checkpointing": False,
}
# What each computes otherwise; `attention` is of the model. Bits where nothing is summed in another order.
VARIANTS: dict[str, dict[str, Any]] = {
    "four times one row": {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4},
    "twice two rows": {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2},
    "padded": {"padding_free": False},
    "padded to more": {"padding_free": False, "pad_to_multiple_of": 64},
    "filled up": {"pad_to_multiple_of": 64},
    "eager attention": {"model_init_kwargs": {"attn_implementation": "eager", "dtype": "float32"}},
    "checkpointed activations": {"gradient_checkpointing": True},
    "two workers": {"dataloader_num_workers": 2},
    "saved and resumed": {"save_strategy": "steps", "save_steps": 4},
}
TOLERANCE = 1e-4  # of weights
TO_THE_BIT = ("two workers", "saved and resumed")

Trajectory = tuple[list[tuple[float, ...]], dict[str, torch.Tensor]]


def logged(log_history: list[dict[str, float]]) -> list[tuple[float, ...]]:
    """Loss, norm of the gradient and share of supervised tokens of each step."""
    steps = [entry for entry in log_history if "loss" in entry]
    assert len(steps) == STEPS
    return [tuple(entry[name] for name in ("loss", "grad_norm", "supervised_token_rate")) for entry in steps]


def train(model: str, rows_file: Path, folder: Path, stage: str, **changes: Any) -> Trajectory:
    """What was logged of the steps, and the weights at the end."""
    fields = {**SETTINGS, **CPU_SETTINGS, "per_device_train_batch_size": ROWS_A_STEP, "save_strategy": "no", **changes}
    args = LlavaSFTConfig(str(folder), stage=stage, **fields)
    trainer = LlavaSFTTrainer(model, args, train_dataset=load_conversations(rows_file))
    trainer.train()
    if args.save_strategy != "no":  # a second trainer goes on from the fourth step
        assert (folder / "checkpoint-4").is_dir()
        trainer = LlavaSFTTrainer(model, args, train_dataset=load_conversations(rows_file))
        trainer.train(resume_from_checkpoint=str(folder / "checkpoint-4"))
    return logged(trainer.state.log_history), {
        name: tensor.clone() for name, tensor in trainer.model.state_dict().items()
    }


def assert_same(model: str, one: Trajectory, other: Trajectory, bits: bool) -> None:
    (steps, weights), (others, other_weights) = one, other
    start = load_file(f"{model}/model.safetensors")
    moved = max(float((weights[name] - tensor).abs().max()) for name, tensor in start.items())
    assert moved > 500 * TOLERANCE, "too little was learnt: any settings would do the same"
    for step, found in zip(steps, others, strict=True):
        assert found == pytest.approx(step, rel=0 if bits else 1e-3)
    assert weights.keys() == other_weights.keys()
    for name, tensor in weights.items():
        torch.testing.assert_close(other_weights[name], tensor, rtol=0, atol=0 if bits else TOLERANCE, msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["align", "instruct"])
def test_one_trajectory(wide_llava: str, rows_file: Path, tmp_path: Path, stage: str) -> None:
    expected = train(wide_llava, rows_file, tmp_path / "expected", stage)
    for number, (name, changes) in enumerate(VARIANTS.items()):
        found = train(wide_llava, rows_file, tmp_path / str(number), stage, **changes)
        assert_same(wide_llava, expected, found, bits=name in TO_THE_BIT)


@pytest.mark.slow
def test_two_processes_follow_it_too(
    wide_llava: str, rows_file: Path, tmp_path: Path, warm_python: WarmPython
) -> None:
    expected = train(wide_llava, rows_file, tmp_path / "expected", "instruct")
    flags = [part for name, value in SETTINGS.items() for part in (f"--{name}", str(value))]
    flags += [
        "--per_device_train_batch_size",
        str(ROWS_A_STEP // 2),
        "--save_strategy",
        "epoch",
        "--ddp_backend",
        "gloo",
    ]
    files = ["--model_name_or_path", wide_llava, "--dataset_name", rows_file, "--output_dir", tmp_path / "out"]
    script = tmp_path / "script.py"
    script.write_text("import sys\nfrom llavakit.train import sft\nsys.exit(sft.run())\n")
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script)]
    done = warm_python.run([*launcher, *files, *flags, *CPU_FLAGS, "--stage", "instruct"])
    assert done.returncode == 0, done.stderr[-3000:]
    state = json.loads((tmp_path / "out" / f"checkpoint-{STEPS}" / "trainer_state.json").read_text())
    found = logged(state["log_history"]), load_file(tmp_path / "out" / "model.safetensors")
    assert_same(wide_llava, expected, found, bits=False)
