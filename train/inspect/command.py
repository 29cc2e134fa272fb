"""`llavakit inspect`: look at the data before a GPU is rented."""

import argparse

from ...rows.bad_rows import ON_BAD_ROW


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", help="a .json, .jsonl or .parquet file, a folder, or a Hub id")
    parser.add_argument("--model", required=True, help="the checkpoint whose processor will read the data")
    parser.add_argument("--image_folder", default=None, help="where image paths start (default: the data's folder)")
    parser.add_argument("--max_length", type=int, default=2048, help="longest sequence in training")
    parser.add_argument("--rows", type=int, default=8, help="rows to show, spread over the data")
    parser.add_argument("--html", default=None, help="also write a page here")
    parser.add_argument("--chat_template", default=None, help="read with this template in place of the checkpoint's")
    parser.add_argument("--split", default="train", help="split of a Hub data set")
    parser.add_argument(
        "--on_bad_row",
        default="error",
        choices=ON_BAD_ROW,
        help="as for training: 'skip' also ends with status 0 where some rows cannot be used (default: %(default)s)",
    )
    parser.add_argument("--num_proc", type=int, default=None, help="processes that share the work")
    parser.add_argument("--trust_remote_code", action="store_true")
    parser.set_defaults(run=_inspect)


def _inspect(args: argparse.Namespace) -> int:
    from .data import inspect_data

    found = inspect_data(
        args.data,
        args.model,
        image_folder=args.image_folder,
        max_length=args.max_length,
        num_rows=args.rows,
        html=args.html,
        chat_template=args.chat_template,
        split=args.split,
        num_proc=args.num_proc,
        trust_remote_code=args.trust_remote_code,
    )
    usable = found.may_start or (args.on_bad_row == "skip" and found.num_usable > 0 and not found.blockers)
    return 0 if usable else 1
