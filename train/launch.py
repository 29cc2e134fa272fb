"""`llavakit sft`: start the training script through accelerate, as `trl sft` starts its own."""

from accelerate.commands.launch import launch_command, launch_command_parser

from . import sft


def main(argv: list[str]) -> int:
    """Launch the training script.

    Flags that the script does not know (`--num_processes 8`, `--config_file fsdp.yaml`, ...) are accelerate's; a YAML
    file given by `--config` may hold both kinds.

    Args:
        argv: The arguments after `llavakit sft`.

    Returns:
        The exit status.

    Raises:
        SystemExit: `--help` was asked for, or the training failed; with the script's status.
    """
    parser = sft.make_parser(prog="llavakit sft")
    # -h ends here. What the script's parser does not take is for accelerate, from the YAML file and from the command line
    *_, from_config, from_command_line = parser.parse_args_and_config(
        argv, return_remaining_strings=True, separate_remaining_strings=True
    )
    for_script = _without(argv, from_command_line)
    launcher = launch_command_parser()
    # As a module: the script's folder on the import path would have train/inspect stand before Python's own `inspect`
    launch_command(launcher.parse_args([*from_config, *from_command_line, "--module", sft.__name__, *for_script]))
    return 0


def _without(arguments: list[str], taken: list[str]) -> list[str]:
    """Arguments less those in `taken`, which stand among them in the same order."""
    rest, position = [], 0
    for argument in arguments:
        if position < len(taken) and argument == taken[position]:
            position += 1
        else:
            rest.append(argument)
    return rest
