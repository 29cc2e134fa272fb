"""`llavakit data academic | balance | mix | card`: from data that exist to a training set and its card."""

import argparse
from typing import Any

from ..option_flags import add_options, options_of


def add_parsers(steps: Any) -> None:
    _add_academic(steps)
    _add_balance(steps)
    _add_mix(steps)
    _add_card(steps)


def _add_academic(steps: Any) -> None:
    from ..sources import ACADEMIC

    academic = steps.add_parser("academic", help="an academic data set's official files to rows")
    names = academic.add_subparsers(dest="name", metavar="NAME", required=True)
    for name, converter in ACADEMIC.items():
        parser = names.add_parser(name, help=(converter.__doc__ or "").partition("\n")[0].rstrip("."))
        add_options(parser, converter)
        parser.add_argument("--image_prefix", default="", help="folder to put before each image's path")
        parser.add_argument("-o", "--output", required=True, help="file of rows (.jsonl, .json or .parquet)")
        parser.set_defaults(run=_academic)


def _add_balance(steps: Any) -> None:
    balance = steps.add_parser("balance", help="thin out image-caption pairs, keeping rare concepts")
    balance.add_argument("captions", help="file of rows with a caption each (.jsonl, .json or .parquet)")
    balance.add_argument("-o", "--output", required=True, help="the rows kept; a report and a plot go beside it")
    balance.add_argument(
        "--min_count", type=int, default=3, help="skip phrases in fewer captions (default: %(default)s)"
    )
    balance.add_argument(
        "--max_per_phrase", type=int, default=100, help="captions sampled of a phrase at most (default: %(default)s)"
    )
    balance.add_argument("--seed", type=int, default=0)
    balance.add_argument(
        "--phrases",
        default="spacy",
        choices=("spacy", "rule"),
        help="noun chunks of spaCy, or plain word classes (English; other captions are kept)",
    )
    balance.add_argument(
        "--spacy_model",
        default="en_core_web_sm",
        help="name or path of a pipeline with a parser (default: %(default)s)",
    )
    balance.add_argument("--num_processes", type=int, default=1, help="that spaCy uses")
    balance.add_argument("--column", default=None, help="that holds the caption (default: caption, captions or text)")
    balance.add_argument("--no_plot", action="store_true", help="leave the plot out")
    balance.set_defaults(run=_balance)


def _add_mix(steps: Any) -> None:
    mix = steps.add_parser("mix", help="files of rows to one training set, by ratios or counts")
    mix.add_argument(
        "sources",
        nargs="+",
        metavar="SOURCE",
        help="FILE:0.3 (ratio), FILE:12000 (rows), or FILE alone: 50%% academic, 30%% conversation, 20%% reasoning rows",
    )
    mix.add_argument(
        "-o", "--output", required=True, help="training set (.parquet, .jsonl or .json); a report beside it"
    )
    mix.add_argument(
        "--rows", type=int, default=None, help="in all, with ratios (default: as many as without repeats)"
    )
    mix.add_argument("--seed", type=int, default=0)
    mix.add_argument(
        "--image_prefix",
        action="append",
        default=[],
        metavar="FILE=FOLDER",
        help="put FOLDER before the image paths of source FILE; may come again",
    )
    mix.set_defaults(run=_mix)


def _add_card(steps: Any) -> None:
    card = steps.add_parser("card", help="write a data set's card (README.md, with metadata for the Hub)")
    card.add_argument("rows", help="the file of rows that the card is about")
    card.add_argument("-o", "--output", required=True, help="the card, as a rule README.md beside the rows")
    card.add_argument("--name", required=True, help="title of the card")
    card.add_argument("--license", required=True, help="of the data set: an identifier of the Hub, such as cc-by-4.0")
    card.add_argument(
        "--source",
        action="append",
        default=[],
        metavar="NAME=LICENCE",
        required=True,
        help="what the rows were made of and its licence; once for each",
    )
    card.add_argument(
        "--run", action="append", default=[], dest="runs", help="folder of a teacher's run; may come again"
    )
    card.add_argument(
        "--filter_report", action="append", default=[], dest="filter_reports", help="rows.report.json; may come again"
    )
    card.add_argument("--language", default="en")
    card.set_defaults(run=_card)


def _academic(args: argparse.Namespace) -> int:
    from ...rows.files import write_rows
    from ..sources import ACADEMIC
    from ..sources.academic_rows import OfficialRows, prefixed

    rows = options_of(args, ACADEMIC[args.name])
    print(f"{write_rows(prefixed(rows, args.image_prefix), args.output)} rows -> {args.output}")
    if isinstance(rows, OfficialRows):
        rows.bad.write(args.output)
    return 0


def _balance(args: argparse.Namespace) -> int:
    from .concept_report import print_concept_report
    from .concepts import balance_captions

    report = balance_captions(
        args.captions,
        args.output,
        min_count=args.min_count,
        max_per_phrase=args.max_per_phrase,
        seed=args.seed,
        phrases=args.phrases,
        spacy_model=args.spacy_model,
        num_processes=args.num_processes,
        column=args.column,
        plot=not args.no_plot,
    )
    print_concept_report(report)
    return 0


def _mix(args: argparse.Namespace) -> int:
    from .mix import mix, parse_source
    from .mix_plan import print_mix_report

    prefixes = _pairs(args.image_prefix, "--image_prefix", "FILE=FOLDER")
    sources = [parse_source(source) for source in args.sources]
    print_mix_report(mix(sources, args.output, num_rows=args.rows, seed=args.seed, image_prefixes=prefixes))
    return 0


def _card(args: argparse.Namespace) -> int:
    from .dataset_card import write_dataset_card

    write_dataset_card(
        args.rows,
        args.output,
        name=args.name,
        license=args.license,
        sources=_pairs(args.source, "--source", "NAME=LICENCE"),
        runs=args.runs,
        filter_reports=args.filter_reports,
        language=args.language,
    )
    print(f"card of {args.rows} -> {args.output}")
    return 0


def _pairs(texts: list[str], flag: str, form: str) -> dict[str, str]:
    pairs = {}
    for text in texts:
        name, equals, value = text.rpartition("=")
        if not (name and equals and value):
            raise ValueError(f"{flag} {text!r}: write {form}.")
        pairs[name] = value
    return pairs
