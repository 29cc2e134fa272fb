"""Flags of a command out of the fields of a dataclass, as transformers' HfArgumentParser has them.

That one comes with torch and transformers, which no `data` step may load to say what it takes.
"""

import argparse
import dataclasses
from typing import Any, TypeVar

Options = TypeVar("Options")


def option(help: str, default: Any = dataclasses.MISSING) -> Any:
    """A field of a dataclass that is a flag.

    Args:
        help: What `--help` says of it.
        default: Without one the flag must be given. Its type is the flag's.
    """
    return dataclasses.field(default=default, metadata={"help": help})


def add_options(parser: argparse.ArgumentParser, options: Any) -> None:
    """A flag for each field of a dataclass."""
    for field in dataclasses.fields(options):
        help = field.metadata["help"].replace("%", "%%")
        if field.default is dataclasses.MISSING:
            parser.add_argument(f"--{field.name}", required=True, help=help)
            continue
        kind = int if isinstance(field.default, int) else str
        default = "" if field.default is None else " (default: %(default)s)"
        parser.add_argument(f"--{field.name}", type=kind, default=field.default, help=help + default)


def options_of(args: argparse.Namespace, options: type[Options]) -> Options:
    """The dataclass with what was given on the command line."""
    return options(**{field.name: getattr(args, field.name) for field in dataclasses.fields(options)})  # type: ignore[arg-type]
