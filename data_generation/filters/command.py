"""`llavakit data filter | dedup-images`: what is kept of a teacher's answers, and of images that show the same."""

import argparse
from typing import Any

from . import FILTERS, FilterOptions


def add_parsers(steps: Any) -> None:
    filters = steps.add_parser("filter", help="a run's answers to rows; what is rejected goes beside, with its reason")
    filters.add_argument("source", help="folder of a run, or a file of rows (.json, .jsonl or .parquet)")
    filters.add_argument("-o", "--output", required=True, help="file of rows; <name>.rejected.jsonl goes beside it")
    known = "; ".join(
        f"{name}: {entry.help}{' (English)' if entry.english_only else ''}" for name, entry in FILTERS.items()
    )
    filters.add_argument(
        "--filters",
        default=",".join(FILTERS),
        help=f"names parted by commas (default: all). {known}. What knows English alone passes other languages",
    )
    filters.add_argument(
        "--similarity", type=float, default=None, help="share of common word pairs of near-duplicates (default: 0.7)"
    )
    filters.add_argument(
        "--object_words", default=None, help="an English vocabulary of your own, like the package's object_words.json"
    )
    filters.add_argument("--seed", type=int, default=0, help="draws where <image> stands in the first question")
    filters.set_defaults(run=_filter)

    images = steps.add_parser("dedup-images", help="leave out rows or contexts whose image shows what another shows")
    images.add_argument("source", help="file of rows or contexts (.json, .jsonl or .parquet)")
    images.add_argument("-o", "--output", required=True, help="file of what is kept; <name>.rejected.jsonl beside it")
    images.add_argument("--image_folder", required=True, help="where image paths start")
    images.add_argument(
        "--model", default="openai/clip-vit-base-patch32", help="path or Hub id of a CLIP (%(default)s)"
    )
    images.add_argument(
        "--threshold", type=float, default=None, help="least cosine similarity of duplicates (default: 0.95)"
    )
    images.set_defaults(run=_dedup_images)


def _filter(args: argparse.Namespace) -> int:
    from .filtering import filter_run
    from .near_duplicates import SIMILARITY

    names = [name.strip() for name in args.filters.split(",")]
    similarity = SIMILARITY if args.similarity is None else args.similarity
    options = FilterOptions(similarity=similarity, object_words=args.object_words)
    report = filter_run(args.source, args.output, names, options, args.seed)
    print(f"{report['kept']:,} of {report['answers']:,} answers kept -> {args.output}")
    for name, by_type in report["rejected_by_filter"].items():
        types = ", ".join(f"{type} {count:,}" for type, count in by_type.items())
        print(f"  {name}: {sum(by_type.values()):,} rejected{f' ({types})' if types else ''}")
    for name, count in report["not_judged"].items():
        print(f"  {name}: {count:,} passed without being judged, since it knows English alone")
    for name in report["skipped_filters"]:
        print(f"  {name}: not asked, since these rows carry no context to compare with")
    return 0


def _dedup_images(args: argparse.Namespace) -> int:
    from .image_duplicates import THRESHOLD, ClipEncoder, drop_image_duplicates

    encode = ClipEncoder(args.model, args.image_folder)
    threshold = THRESHOLD if args.threshold is None else args.threshold
    report = drop_image_duplicates(args.source, args.output, encode, threshold)
    print(
        f"{report['kept']:,} kept, {report['rejected']:,} left out -> {args.output}. {report['duplicates']:,} of "
        f"{report['images']:,} images show what another shows (similarity of {report['threshold']} or more)"
    )
    return 0
