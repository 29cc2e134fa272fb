"""The configs of accelerate's launcher that ship: it reads them, and they mean what they say."""

from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser
from accelerate.utils import DistributedType

CONFIGS = Path(__file__).resolve().parents[2] / "examples" / "accelerate"
TYPES = {
    "ddp": DistributedType.MULTI_GPU,
    "fsdp2": DistributedType.FSDP,
    "zero2": DistributedType.DEEPSPEED,
    "zero3": DistributedType.DEEPSPEED,
}


def test_all_are_known() -> None:
    assert {path.stem for path in CONFIGS.glob("*.yaml")} == set(TYPES)


@pytest.mark.parametrize("name", TYPES)
def test_the_launcher_reads_them(name: str) -> None:
    config = load_config_from_file(str(CONFIGS / f"{name}.yaml"))
    assert config.distributed_type == TYPES[name] and config.num_processes == 8
    flags = {action.dest for action in launch_command_parser()._actions}
    assert all(key in flags for key in config.fsdp_config)  # a key that the launcher does not know would be dropped
    if name == "fsdp2":
        assert config.fsdp_config["fsdp_version"] == 2
    if name.startswith("zero"):
        assert config.deepspeed_config["zero_stage"] == int(name[-1])
        assert set(config.deepspeed_config) - {"gradient_accumulation_steps", "gradient_clipping"} <= flags
