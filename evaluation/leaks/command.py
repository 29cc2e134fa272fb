"""`llavakit data check-leaks`: whether a training set holds what benchmarks ask.

A step of `data` that lives here, because it reads benchmarks as `llavakit eval` reads them.
"""

import argparse
from typing import Any

from ...rows import bad_rows


def add_parsers(steps: Any) -> None:
    """Add the step to the subparsers of `llavakit data`."""
    check = steps.add_parser("check-leaks", help="find benchmarks' pictures and questions in a file of rows")
    check.add_argument("rows", help="the training set (.jsonl, .json or .parquet); the record goes beside it")
    check.add_argument(
        "--against",
        nargs="+",
        required=True,
        metavar="TASK=PATH",
        help="a benchmark's official files or folder, under a name of `llavakit eval list` (a task may come again); or a "
        "file of rows",
    )
    check.add_argument(
        "--image_folder", default=None, help="where the rows' image paths start (default: their folder)"
    )
    check.add_argument(
        "--test_image_folder",
        action="append",
        default=[],
        metavar="TASK=FOLDER",
        help="where a benchmark's image paths start (default: the folder of its files); may come again",
    )
    check.add_argument(
        "--vision", default=None, help="path or Hub id of a CLIP: pictures with nearly its embeddings count too"
    )
    check.add_argument("--texts_only", action="store_true", help="look for texts alone; no picture is opened")
    bad_rows.add_flag(check)
    check.set_defaults(run=_check)


def _check(args: argparse.Namespace) -> int:
    from ...rows.leak_record import record_path
    from .benchmarks import read_benchmarks
    from .check import check_leaks

    folders = {}
    for given in args.test_image_folder:
        name, parted, folder = given.rpartition("=")
        if not parted:
            raise ValueError(f"--test_image_folder {given!r}: write TASK=FOLDER.")
        folders[name] = folder
    if args.texts_only and (folders or args.vision):
        raise ValueError("--texts_only opens no picture: leave out --test_image_folder and --vision.")
    benchmarks = read_benchmarks(args.against, folders, pictures=not args.texts_only)
    encode = None
    if args.vision:
        from ...data_generation.filters.image_duplicates import ClipEncoder

        encode = ClipEncoder(args.vision, ".").encode
    record = check_leaks(
        args.rows, benchmarks, image_folder=args.image_folder, encode=encode, on_bad_row=args.on_bad_row
    )
    _print(record)
    path = record_path(args.rows)
    print(f"-> {path}; a line for each question that a row leaks -> {path.with_suffix('.jsonl')}")
    return 0


def _print(record: dict[str, Any]) -> None:
    from ...reports.tables import show, table
    from .check import KINDS

    columns = (
        "benchmark",
        "questions",
        "leaked",
        *(f"picture {kind}" for kind in KINDS),
        "text exact",
        "text near",
        "rows",
    )
    lines = [
        (
            line["benchmark"],
            line["questions"],
            line["leaked_questions"],
            *(line["by_picture"].get(kind, 0) for kind in KINDS),
            *(line["by_text"].get(kind, 0) for kind in KINDS[:2]),
            line["rows"],
        )
        for line in record["benchmarks"]
    ]
    show(table(columns, lines))
