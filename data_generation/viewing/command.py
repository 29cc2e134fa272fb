"""`llavakit data view`: look at what each step wrote."""

import argparse
from typing import Any


def add_parsers(steps: Any) -> None:
    view = steps.add_parser("view", help="a page of pictures, boxes, answers, and why some were rejected")
    view.add_argument(
        "data", nargs="+", metavar="FILE", help="rows, rejected rows or contexts; or the folder of a run"
    )
    view.add_argument("-o", "--output", required=True, help="the page (.html)")
    view.add_argument("--rows", type=int, default=100, help="how many to show, spread (default: %(default)s)")
    view.add_argument("--image_folder", default=None, help="where image paths start (default: the data's folder)")
    view.add_argument("--contexts", default=None, help="the contexts of the rows (default: those of their run)")
    view.set_defaults(run=_view)


def _view(args: argparse.Namespace) -> int:
    from .viewer import view

    shown = view(args.data, args.output, args.rows, args.image_folder, args.contexts)
    print(f"{len(shown.cards):,} of {shown.counts.total():,} rows -> {args.output}")
    if shown.num_missing:
        first = next(card.missing for card in shown.cards if card.missing)
        print(
            f"{shown.num_missing:,} without a picture, the first since: {first}. Does --image_folder name the folder?"
        )
    return 0
