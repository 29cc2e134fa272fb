"""The command line: verbs to the packages that carry them out, imported when they are asked for."""

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType

from ._version import __version__


@dataclass(frozen=True)
class Verb:
    """What `llavakit VERB` runs.

    Args:
        module: Where it is, below `llavakit`. It has `add_arguments(parser)`, which sets the default `run`, or, where
            `takes_all` says so, `main(argv)`.
        help: A line for `llavakit --help`.
        takes_all: Its flags belong to parsers of its own, `--help` included.
        steps: Modules of rooms below that have steps of the verb: `add_parsers(steps)` takes what `add_arguments` returned.
    """

    module: str
    help: str
    takes_all: bool = False
    steps: tuple[str, ...] = ()


VERBS: dict[str, Verb] = {
    "quickstart": Verb("quickstart.command", "watch a small model learn to see: no network, no GPU, minutes"),
    "photographs": Verb(
        "photographs.command", "labelled photographs and two backbones become a visual assistant, by the verbs below"
    ),
    "ablations": Verb("ablations.command", "measure what each part of the recipe is worth, on the quickstart's world"),
    "compare": Verb("compare.command", "connectors and layouts of images side by side, on the quickstart's world"),
    "init": Verb("checkpoints.command", "join a vision encoder and a language model: an untrained LLaVA"),
    "import": Verb(
        "checkpoints.import_command", "make a LLaVA of a checkpoint of transformers or of the original code"
    ),
    "export": Verb("checkpoints.export_command", "write a checkpoint in another format, proven to say the same"),
    "sft": Verb(
        "train.launch", "train a stage: every flag of `trl sft` and ours (llavakit sft --help)", takes_all=True
    ),
    "inspect": Verb(
        "train.inspect.command", "check data before a GPU is rented: counts, lengths, what is in the loss"
    ),
    "plan": Verb("train.plan.command", "memory by part, largest batch, hours and money, before a GPU is rented"),
    "certify": Verb(
        "train.packing.command", "show on your own model and rows that packed rows train it as they do alone"
    ),
    "chat": Verb("inference.command", "ask a checkpoint about an image, in the terminal or in the browser"),
    "data": Verb(
        "data_generation.command", "make training rows from annotated images", steps=("evaluation.leaks.command",)
    ),
    "bench": Verb("bench.command", "train beside stock trl, and see what is faster and by how much"),
    "eval": Verb("evaluation.command", "measure a checkpoint, or score answers, on the papers' benchmarks"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run `llavakit VERB ...`.

    Args:
        argv: Arguments without the program's name. Default: those of the process.

    Returns:
        The exit status: 0 on success, 1 for an error of the user's that the message explains.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    name = argv[0] if argv else None
    if name not in VERBS:
        _verbs_parser().parse_args(argv)
        _verbs_parser().print_help()
        return 0
    if VERBS[name].takes_all:
        return _module(VERBS[name].module).main(argv[1:])
    args = parser_of(name).parse_args(argv[1:])
    run: Callable[[argparse.Namespace], int] = args.run
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for quiet in ("httpx", "httpx2", "huggingface_hub", "filelock"):
        logging.getLogger(quiet).setLevel(logging.WARNING)
    try:
        return run(args)
    except (ValueError, OSError) as error:
        print(f"llavakit {name}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130


def parser_of(name: str) -> argparse.ArgumentParser:
    """The parser of a verb's flags, which sets the default `run`."""
    parser = argparse.ArgumentParser(prog=f"llavakit {name}", description=VERBS[name].help)
    steps = _module(VERBS[name].module).add_arguments(parser)
    for module in VERBS[name].steps:
        _module(module).add_parsers(steps)
    return parser


def _module(name: str) -> ModuleType:
    return import_module(f".{name}", __package__)


def _verbs_parser() -> argparse.ArgumentParser:
    """What says which verbs there are, and refuses any other."""
    parser = argparse.ArgumentParser(prog="llavakit", description="Build, train, inspect and talk to your own LLaVA.")
    parser.add_argument("--version", action="version", version=f"llavakit {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB")
    for name, verb in VERBS.items():
        verbs.add_parser(name, help=verb.help, add_help=False)
    return parser


if __name__ == "__main__":
    sys.exit(main())
