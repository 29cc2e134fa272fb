"""`llavakit sft`: the training script, in this process or, where there are several, through accelerate as `trl sft` does."""

import argparse
import logging
import os
import subprocess
import sys
from typing import Any

import torch
from accelerate.commands.launch import default_config_file, launch_command, launch_command_parser, multi_gpu_launcher
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from trl import TrlParser

from . import sft
from .flags import refuse_foreign_flags
from .precision import has_accelerator


class _Splitter(TrlParser):
    """Tells the script's flags from the launcher's, and leaves it to the script to make settings of them."""

    def parse_args_into_dataclasses(self, args: Any = None, *rest: Any, **kwargs: Any) -> Any:
        return self.parse_known_args(args)


def main(argv: list[str]) -> int:
    """Launch the training script; here, where it is one process and the libraries are imported already.

    Flags that the script does not know (`--num_processes 8`, `--config_file fsdp.yaml`, ...) are accelerate's; a YAML
    file given by `--config` may hold both kinds.

    Args:
        argv: The arguments after `llavakit sft`.

    Returns:
        The exit status: the training's, or 1 for a launch that cannot be.

    Raises:
        SystemExit: `--help` was asked for, or a flag has a value that is none of its choices.
    """
    try:
        arguments, launchers_own = _launch_arguments(argv)
        here = _trains_here(arguments, launchers_own)
    except (ValueError, OSError) as error:
        print(f"llavakit sft: {error}", file=sys.stderr)
        return 1
    if here:
        return sft.run(arguments.training_script_args)
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # the script has said what failed
    try:
        if arguments.use_cpu and (arguments.num_processes or 1) > 1:
            multi_gpu_launcher(arguments)  # torch's launcher; the processes talk by gloo
        else:
            launch_command(arguments)
    except subprocess.CalledProcessError as failure:
        return _status(failure.returncode)
    except ChildFailedError as failure:
        return _status(failure.get_first_failure()[1].exitcode)
    except KeyboardInterrupt:
        return 130
    return 0


def _launch_arguments(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """What accelerate's launcher gets, its own flags, the script and the script's; and those of its own that were given."""
    splitter = _Splitter(sft.CONFIG_CLASSES, prog="llavakit sft")  # type: ignore[arg-type]
    # -h ends here. What the script's parser does not take is for accelerate, from the YAML file and from the command line
    script_args, from_config, from_command_line = splitter.parse_args_and_config(
        argv, return_remaining_strings=True, separate_remaining_strings=True
    )
    launchers_own = [*from_config, *from_command_line]
    refuse_foreign_flags(launchers_own)
    for_script = _without(argv, from_command_line)
    # As a module: the script's folder on the import path would have train/inspect stand before Python's own `inspect`
    arguments = launch_command_parser().parse_args([*launchers_own, "--module", sft.__name__, *for_script])
    if arguments.training_script != sft.__name__:
        raise ValueError(f"{arguments.training_script!r} follows no flag; see llavakit sft --help.")
    arguments.use_cpu = arguments.cpu or bool(script_args.use_cpu) or not has_accelerator()
    _settle_machine(arguments)
    if arguments.use_cpu:
        arguments.training_script_args += ["--use_cpu", "true"]
    return arguments, launchers_own


def _trains_here(arguments: argparse.Namespace, launchers_own: list[str]) -> bool:
    """Whether accelerate's launcher would start one process and set nothing for it."""
    given = {flag.partition("=")[0] for flag in launchers_own if flag.startswith("-")}
    configured = os.path.isfile(default_config_file)
    alone = arguments.num_processes == 1 and _devices(arguments) <= 1
    return given <= {"--num_processes", "--cpu"} and alone and not configured


def _devices(arguments: argparse.Namespace) -> int:
    return 0 if arguments.use_cpu else torch.accelerator.device_count()


def _settle_machine(arguments: argparse.Namespace) -> None:
    """Say to accelerate what it would otherwise guess and report, line by line, as a warning.

    Raises:
        ValueError: More processes than devices; they would share one, or end up as one.
    """
    devices = _devices(arguments)
    if arguments.config_file is None and not os.path.isfile(default_config_file):
        arguments.num_machines = arguments.num_machines or 1
        arguments.num_processes = arguments.num_processes or max(1, devices)
        arguments.mixed_precision = arguments.mixed_precision or "no"  # the script's --bf16 and --fp16 decide
        arguments.dynamo_backend = arguments.dynamo_backend or "no"
    if arguments.num_processes is None:
        return
    if arguments.use_cpu and arguments.num_cpu_threads_per_process is None:
        arguments.num_cpu_threads_per_process = max(1, torch.get_num_threads() // arguments.num_processes)
    here = arguments.num_processes // (arguments.num_machines or 1)
    if devices and here > devices and arguments.gpu_ids in (None, "all"):
        raise ValueError(
            f"--num_processes {arguments.num_processes}: this machine has {devices} device(s), and each trains one process."
        )
    # Without this accelerate's launcher starts one process and says nothing
    sharded = arguments.use_fsdp or arguments.use_deepspeed or arguments.tpu
    if devices > 1 and arguments.num_processes > 1 and not sharded:
        arguments.multi_gpu = True
    if arguments.main_process_port is None and arguments.num_machines == 1:
        arguments.main_process_port = 0  # any free one


def _status(code: int) -> int:
    """An exit status as a shell has it; a kill is named, since the process could not say it itself."""
    if code < 0:
        print(f"llavakit sft: the training was killed by signal {-code} (9 is often: out of memory).", file=sys.stderr)
        return 128 - code
    return code


def _without(arguments: list[str], taken: list[str]) -> list[str]:
    """Arguments less those in `taken`, which stand among them in the same order."""
    rest, position = [], 0
    for argument in arguments:
        if position < len(taken) and argument == taken[position]:
            position += 1
        else:
            rest.append(argument)
    return rest
