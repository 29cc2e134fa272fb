"""Two processes on one machine: batches of text alone do not hang the others, and all end with the same weights."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import set_seed

from llavakit.checkpoints.building import build_llava, save_llava
from llavakit.modeling_llava.model_parts import STAGES, part_of

from ..cpu_training import CPU_FLAGS
from ..warm_python import WarmPython
from .test_resume import ARCHITECTURES

# The script, and no wrapper alive when the processes part: its reducer would hold their group, and then a process that has
# done everything may never end (see `_unwrap`)
SCRIPT = """
import gc, sys, torch
from torch.nn.parallel import DistributedDataParallel
from llavakit.train import sft
leave = torch.distributed.destroy_process_group
def checked(group=None):
    assert not any(type(thing) is DistributedDataParallel for thing in gc.get_objects()), "a wrapper is alive"
    print("left", flush=True)
    leave(group)
torch.distributed.destroy_process_group = checked
sys.exit(sft.run())
"""


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_text_only_batches_in_two_processes(
    warm_python: WarmPython, tiny_llava: str, rows_file: Path, tmp_path: Path, stage: str
):
    check_text_only_batches(warm_python, tiny_llava, rows_file, tmp_path, stage)


@pytest.mark.slow
def test_so_it_is_where_text_attends_to_images(
    warm_python: WarmPython, tiny_backbones: tuple[str, str], rows_file: Path, tmp_path: Path
):
    set_seed(0)
    save_llava(*build_llava(*tiny_backbones, **ARCHITECTURES["flamingo"]), tmp_path / "model")
    check_text_only_batches(warm_python, str(tmp_path / "model"), rows_file, tmp_path, "align")


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["align", "joint"])
def test_so_it_is_with_adapters(warm_python: WarmPython, tiny_llava: str, rows_file: Path, tmp_path: Path, stage: str):
    tower = ["--lora_vision_tower", "true"] if stage == "joint" else []
    train_in_two_processes(warm_python, tiny_llava, rows_file, tmp_path, stage, "--use_peft", "--lora_r", "2", *tower)
    saved = load_file(tmp_path / "out" / "adapter_model.safetensors")
    learnt = [name for name, tensor in saved.items() if "lora_B" in name and tensor.any()]
    parts = {"language model", "vision tower"} if tower else {"language model"}
    assert {part_of(name) for name in learnt} == parts
    assert {part_of(name) for name in saved} == parts | {"connector"}


def check_text_only_batches(warm_python: WarmPython, model: str, rows_file: Path, tmp_path: Path, stage: str) -> None:
    train_in_two_processes(warm_python, model, rows_file, tmp_path, stage)
    before, after = (
        load_file(Path(model) / "model.safetensors"),
        load_file(tmp_path / "out" / "model.safetensors"),
    )
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert {part_of(name) for name in moved} == set(STAGES[stage].learns)


def train_in_two_processes(
    warm_python: WarmPython, model: str, rows_file: Path, tmp_path: Path, stage: str, *flags: str
) -> None:
    """Rows of which some are of text alone, in batches of one."""
    rows = json.loads(rows_file.read_text())
    for number in (0, 3, 4, 9):  # some steps have an image in one process and none in the other
        rows[number]["image"] = None
        rows[number]["conversations"][0]["value"] = "say it again"
    rows_file.write_text(json.dumps(rows))
    # accelerate's launcher starts several processes only where there are several devices; torch's does anywhere
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script)]
    command += ["--ddp_backend", "gloo", "--model_name_or_path", model, "--dataset_name"]
    command += [str(rows_file), "--stage", stage, "--output_dir", str(tmp_path / "out"), "--num_train_epochs", "2"]
    command += ["--per_device_train_batch_size", "1", "--learning_rate", "1e-3", "--save_strategy", "steps"]
    # Each process waits for a gradient of whatever learns
    command += [
        "--save_steps",
        "4",
        *CPU_FLAGS,
        "--logging_steps",
        "1",
        "--ddp_find_unused_parameters",
        "false",
        *flags,
    ]
    done = warm_python.run(command, timeout=500)
    assert done.returncode == 0 and done.stdout.count("left") == 2, done.stderr[-4000:]
    names = sorted(folder.name for folder in (tmp_path / "out").glob("checkpoint-*"))
    assert names == ["checkpoint-12", "checkpoint-4", "checkpoint-8"]
    state = json.loads((tmp_path / "out" / "checkpoint-12" / "trainer_state.json").read_text())
    assert state["global_step"] == 12  # 12 rows, two processes, two epochs: each row once an epoch
    assert {file.name for file in (tmp_path / "out" / "checkpoint-12").glob("rng_state*")} == {
        "rng_state_0.pth",
        "rng_state_1.pth",
    }
