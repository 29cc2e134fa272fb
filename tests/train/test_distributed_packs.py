"""Rows laid end to end in two processes, by DDP and by FSDP2, follow the trajectory of one process; killed, they go on."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ..cpu_training import CPU_FLAGS

STEPS = 20
SCRIPT = "import sys\nfrom llavakit.train import sft\nsys.exit(sft.run())\n"
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
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script)]
    return [*launcher, "--ddp_backend", "gloo", "--per_device_train_batch_size", "1", *flags]


def losses(output: Path) -> list[float]:
    state = json.loads((output / f"checkpoint-{STEPS}" / "trainer_state.json").read_text())
    return [entry["loss"] for entry in state["log_history"] if "loss" in entry]


def run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_two_processes_train_as_one(wide_llava: str, some_text: Path, tmp_path: Path, engine: str):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    alone = flags_of(wide_llava, some_text, tmp_path / "one", "--per_device_train_batch_size", "2")
    run([sys.executable, str(script), *alone])
    run(in_two(script, flags_of(wide_llava, some_text, tmp_path / "two", *ENGINES[engine])))
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(one) == STEPS and one[-1] < one[0] - 0.1
    assert two == pytest.approx(one, abs=1e-4)
    # Whole, and by the names that everyone loads
    weights, others = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert weights.keys() == others.keys()
    assert all(torch.allclose(tensor, others[name], atol=1e-3) for name, tensor in weights.items())

    killed = flags_of(wide_llava, some_text, tmp_path / "killed", *ENGINES[engine])
    kill_a_rank(in_two(script, killed), tmp_path / "killed" / "checkpoint-10", script)
    assert not (tmp_path / "killed" / f"checkpoint-{STEPS}").exists()
    run(in_two(script, [*killed, "--resume_from_checkpoint", "true"]))
    ends = load_file(tmp_path / "killed" / "model.safetensors")
    assert all(torch.equal(tensor, ends[name]) for name, tensor in others.items())


def kill_a_rank(command: list[str], after: Path, script: Path) -> None:
    """Start, wait for a checkpoint, and kill the second process; the launcher ends the first."""
    started = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not after.exists():
        assert started.poll() is None and time.monotonic() < deadline, "it ended before its checkpoint"
        time.sleep(0.02)
    ranks = [int(each.name) for each in Path("/proc").iterdir() if each.name.isdigit() and is_rank(each, script, "1")]
    assert len(ranks) == 1
    os.kill(ranks[0], signal.SIGKILL)
    assert started.wait(timeout=120) != 0


def is_rank(process: Path, script: Path, rank: str) -> bool:
    try:
        command, environment = (process / "cmdline").read_bytes(), (process / "environ").read_bytes()
    except OSError:
        return False
    ours = str(script).encode() in command and b"torch.distributed.run" not in command
    return ours and f"LOCAL_RANK={rank}".encode() in environment.split(b"\0")
