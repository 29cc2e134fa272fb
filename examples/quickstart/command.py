"""`llavakit quickstart`."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output_dir", default="runs/quickstart", help="where everything goes (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the world and the training")
    parser.set_defaults(run=_quickstart)


def _quickstart(args: argparse.Namespace) -> int:
    from .pipeline import run_quickstart

    run_quickstart(args.output_dir, seed=args.seed)
    return 0
