"""`llavakit compare`."""

import argparse

from .choices import PARTS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output_dir", default="runs/compare", help="where everything goes (default: %(default)s)")
    parser.add_argument(
        "--parts", nargs="+", default=list(PARTS), choices=list(PARTS), help="what is compared (default: all of it)"
    )
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the worlds and the training (default: 0 1 2)"
    )
    parser.add_argument(
        "--scale", type=float, default=1.0, help="share of the steps, scenes and questions; 0.02 is a smoke run"
    )
    parser.set_defaults(run=_compare)


def _compare(args: argparse.Namespace) -> int:
    from .pipeline import run_compare

    run_compare(args.output_dir, seeds=args.seeds, parts=args.parts, scale=args.scale)
    return 0
