"""`llavakit data pairs`: preferences for trl, in which the rejected answer names what is not there."""

import argparse
from typing import Any

from . import NEGATIVES


def add_parsers(steps: Any) -> None:
    pairs = steps.add_parser("pairs", help="rows to pairs for `trl dpo`: a true answer, and one with invented objects")
    pairs.add_argument("rows", nargs="?", help="file of rows whose answers are true (.jsonl, .json or .parquet)")
    pairs.add_argument(
        "-o", "--output", required=True, help="file of pairs (.jsonl, .json or .parquet); a report beside it"
    )
    pairs.add_argument(
        "--contexts", default=None, help="captions and boxes of the rows' pictures (`llavakit data contexts`)"
    )
    pairs.add_argument(
        "--rejected", default=None, help="<name>.rejected.jsonl of `llavakit data filter`: its hallucinations, mended"
    )
    pairs.add_argument(
        "--negatives",
        default="adversarial",
        choices=list(NEGATIVES),
        help="what is named that is not there: any object, frequent ones, or what often is beside what is there "
        "(default: %(default)s)",
    )
    pairs.add_argument("--image_folder", default=None, help="where image paths start; they are written whole then")
    pairs.add_argument(
        "--object_words", default=None, help="an English vocabulary of your own, like the package's object_words.json"
    )
    pairs.add_argument("--seed", type=int, default=0)
    pairs.set_defaults(run=_pairs)


def _pairs(args: argparse.Namespace) -> int:
    from .making import write_pairs

    report = write_pairs(
        args.output,
        args.rows,
        args.contexts,
        args.rejected,
        negatives=args.negatives,
        image_folder=args.image_folder,
        words=args.object_words,
        seed=args.seed,
    )
    by_type = ", ".join(f"{kind} {count:,}" for kind, count in report["pairs_by_type"].items())
    print(f"{report['pairs']:,} pairs ({by_type}) -> {args.output}")
    for reason, count in report["left_out"].items():
        print(f"  {count:,} left out: {reason}")
    return 0
