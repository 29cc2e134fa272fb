"""`llavakit data alignment | simple | scienceqa`: rows by rule, without a teacher."""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...rows.bad_rows import BadAnnotations, add_flag
from ...rows.files import Row


def add_parsers(steps: Any) -> None:
    align = steps.add_parser("alignment", help="captions to stage-1 rows (naive expansion)")
    align.add_argument(
        "--captions", required=True, help="COCO captions file, or rows with id, image and caption (.jsonl, .parquet)"
    )
    align.add_argument("-o", "--output", required=True, help="file of rows (.json, .jsonl or .parquet)")
    align.add_argument("--all_captions", action="store_true", help="a row per caption, not one per image")
    align.add_argument("--seed", type=int, default=0)
    add_flag(align)
    align.set_defaults(run=_alignment)

    simple = steps.add_parser("simple", help="captions and boxes to short conversations, by rule")
    simple.add_argument("--captions", required=True, help="COCO captions file")
    simple.add_argument("--instances", required=True, help="COCO instances file")
    simple.add_argument("-o", "--output", required=True, help="file of rows (.json, .jsonl or .parquet)")
    simple.add_argument("--seed", type=int, default=0)
    add_flag(simple)
    simple.set_defaults(run=_simple)

    science = steps.add_parser("scienceqa", help="ScienceQA's problems.json to rows")
    science.add_argument("--problems", required=True, help="the official problems.json")
    science.add_argument("--split", default="train", help="train, val, trainval or test")
    science.add_argument("--answer_order", default="reasoning_first", choices=("reasoning_first", "answer_first"))
    science.add_argument("-o", "--output", required=True, help="file of rows (.json, .jsonl or .parquet)")
    add_flag(science)
    science.set_defaults(run=_scienceqa)


def _alignment(args: argparse.Namespace) -> int:
    from ...rows.files import read_rows
    from ..contexts.coco import caption_pairs, read_coco_captions
    from .alignment import alignment_rows

    bad = BadAnnotations(args.on_bad_row)
    if Path(args.captions).suffix == ".json":
        pairs = caption_pairs(read_coco_captions(args.captions, bad), args.all_captions, args.seed)
    else:
        pairs = read_rows(args.captions)
    return _write(alignment_rows(pairs, args.seed, bad), args.output, bad)


def _simple(args: argparse.Namespace) -> int:
    from ..contexts.coco import read_coco_captions, read_coco_instances
    from .simple_conversations import simple_conversation_rows

    bad = BadAnnotations(args.on_bad_row)
    captions, instances = read_coco_captions(args.captions, bad), read_coco_instances(args.instances, bad)
    return _write(simple_conversation_rows(captions, instances, args.seed), args.output, bad)


def _write(rows: Iterator[Row], output: str, bad: BadAnnotations) -> int:
    from ...rows.files import write_rows

    count = write_rows(rows, output)
    print(f"{count} rows -> {output}")
    bad.write(output)
    if count == 0:
        raise ValueError(f"{output} is empty: no annotation could be used. Correct the annotations.")
    return 0


def _scienceqa(args: argparse.Namespace) -> int:
    from .scienceqa import scienceqa_rows

    bad = BadAnnotations(args.on_bad_row)
    return _write(scienceqa_rows(args.problems, args.split, args.answer_order, bad), args.output, bad)
