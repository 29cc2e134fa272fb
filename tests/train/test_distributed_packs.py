"""Rows laid end to end in two processes, by DDP and by FSDP2, follow the trajectory of one process; killed, they go on."""

import json
import os
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ..cpu_training import CPU_FLAGS
from ..warm_python import WarmPython

STEPS = 20
# Says who it is, in a file named by its rank
SCRIPT = """
import os, sys
from pathlib import Path
from llavakit.train import sft
Path(__file__).with_name(os.environ.get("LOCAL_RANK", "alone")).write_text(str(os.getpid()))
sys.exit(sft.run())
"""
ENGINES = {
    "DDP": ["--ddp_find_unused_parameters", "false"],
    "FSDP2": ["--fsdp", "--fsdp_config", '{"version": 2, "transformer_layer_cls_to_wrap": ["LlamaDecoderLayer"]}'],
}


@pytest.fixture
def some_text(rows_file: Path) -> Path:
    """The rows, some of text alone: some steps have a picture in one process and none in the other."""
    rows = json.loads(rows_file.read_text())
    for number in (0, 3, 4, 9):
        rows[number]["image"] = None
        rows[number]["conversations"][0]["value"] = "say it again"
    rows_file.write_text(json.dumps(rows))
    return rows_file


def flags_of(model: str, rows: Path, output: Path, *more: str) -> list[str]:
    flags = [
        "--model_name_or_path",
        model,
        "--dataset_name",
        str(rows),
        "--output_dir",
        str(output),
        "--max_steps",
        str(STEPS),
    ]
    flags += ["--padding_free", "true", "--learning_rate", "1e-3", "--logging_steps", "1", "--save_strategy", "steps"]
    return [*flags, "--save_steps", "5", *CPU_FLAGS, *more]


def in_two(script: Path, flags: list[str]) -> list[str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script)]
    return [*launcher, "--ddp_backend", "gloo", "--per_device_train_batch_size", "1", *flags]


def losses(output: Path) -> list[float]:
    state = json.loads((output / f"checkpoint-{STEPS}" / "trainer_state.json").read_text())
    return [entry["loss"] for entry in state["log_history"] if "loss" in entry]


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_two_processes_train_as_one(
    warm_python: WarmPython, wide_llava: str, some_text: Path, tmp_path: Path, engine: str
):
    def run(command: list[str]) -> None:
        done = warm_python.run(command)
        assert done.returncode == 0, done.stderr[-4000:]

    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    run([str(script), *flags_of(wide_llava, some_text, tmp_path / "one", "--per_device_train_batch_size", "2")])
    run(in_two(script, flags_of(wide_llava, some_text, tmp_path / "two", *ENGINES[engine])))
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(one) == STEPS and one[-1] < one[0] - 0.1
    assert two == pytest.approx(one, abs=1e-4)
    # Whole, and by the names that everyone loads
    weights, others = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert weights.keys() == others.keys()
    assert all(torch.allclose(tensor, others[name], atol=1e-3) for name, tensor in weights.items())

    killed = flags_of(wide_llava, some_text, tmp_path / "killed", *ENGINES[engine])
    started = warm_python.start(in_two(script, killed), tmp_path / "said")
    deadline = time.monotonic() + 300
    while not (tmp_path / "killed" / "checkpoint-10").exists():
        assert started.poll() is None and time.monotonic() < deadline, "it ended before its checkpoint"
        time.sleep(0.02)
    os.kill(int((tmp_path / "1").read_text()), signal.SIGKILL)  # its launcher ends the other
    assert started.wait() != 0
    assert not (tmp_path / "killed" / f"checkpoint-{STEPS}").exists()
    run(in_two(script, [*killed, "--resume_from_checkpoint", "true"]))
    ends = load_file(tmp_path / "killed" / "model.safetensors")
    assert all(torch.equal(tensor, ends[name]) for name, tensor in others.items())


@pytest.mark.slow
def test_packs_dealt_out_evenly_train_as_in_one_process(
    warm_python: WarmPython, wide_llava: str, some_text: Path, tmp_path: Path
):
    """Each step has the packs that it has in one process, whoever takes them; and a run that goes on finds its own."""

    def run(command: list[str]) -> None:
        done = warm_python.run(command)
        assert done.returncode == 0, done.stderr[-4000:]

    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    packs = ["--packing", "true", "--pack_tokens", "300", "--gradient_accumulation_steps"]
    alone = flags_of(wide_llava, some_text, tmp_path / "one", *packs, "4", "--per_device_train_batch_size", "1")
    run([str(script), *alone])
    run(in_two(script, flags_of(wide_llava, some_text, tmp_path / "two", *packs, "2")))
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(one) == STEPS and two == pytest.approx(one, abs=1e-4)
    ends = load_file(tmp_path / "two" / "model.safetensors")
    again = ["--resume_from_checkpoint", str(tmp_path / "two" / "checkpoint-15")]
    run(in_two(script, flags_of(wide_llava, some_text, tmp_path / "again", *packs, "2", *again)))
    resumed = load_file(tmp_path / "again" / "model.safetensors")
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in ends.items())
