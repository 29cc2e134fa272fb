"""`llavakit ablations`."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output_dir", default="runs/ablations", help="where everything goes (default: %(default)s)")
    parser.add_argument(
        "--seeds",
        type=int,
        nargs="+",
        default=[0],
        help="of the worlds and the training; more show how much is chance",
    )
    parser.add_argument(
        "--scale", type=float, default=1.0, help="share of the steps, scenes and questions; 0.02 is a smoke run"
    )
    parser.set_defaults(run=_ablations)


def _ablations(args: argparse.Namespace) -> int:
    from .pipeline import run_ablations

    run_ablations(args.output_dir, seeds=args.seeds, scale=args.scale)
    return 0
