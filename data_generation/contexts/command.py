"""`llavakit data contexts | prompts`: other people's annotations to contexts, and the prompts to edit."""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .bad_annotations import BadAnnotations, add_flag
from .from_dataset import BOX_FORMATS


def add_parsers(steps: Any) -> None:
    contexts = steps.add_parser("contexts", help="annotations to contexts: what a teacher is told of each image")
    source = contexts.add_argument_group("one of these")
    source = source.add_mutually_exclusive_group(required=True)
    source.add_argument("--captions", help="COCO captions file")
    source.add_argument("--caps_boxes", help="contexts of the original's form, to be checked")
    source.add_argument("--regions", help="Visual Genome's region_descriptions.json or region_graphs.json")
    source.add_argument("--caption_file", help=".csv or .jsonl with a column of image paths and one of captions")
    source.add_argument("--dataset", help="Hub id, folder or file that `datasets` loads")
    contexts.add_argument("--instances", default=None, help="with --captions: COCO instances file")
    contexts.add_argument("--image_data", default=None, help="with --regions: Visual Genome's image_data.json")
    contexts.add_argument("--split", default="train", help="with --dataset: its split")
    contexts.add_argument(
        "--image_column", default="image", help="with --caption_file and --dataset ('none': no images)"
    )
    contexts.add_argument(
        "--caption_column", default="caption", help="with --caption_file and --dataset ('none': no captions)"
    )
    contexts.add_argument("--id_column", default="none", help="with --dataset; default: from the image's path")
    contexts.add_argument("--objects_column", default="none", help="with --dataset: holds 'bbox' and 'category'")
    contexts.add_argument(
        "--box_format",
        default="xywh",
        choices=BOX_FORMATS,
        help="with --dataset: [x, y, width, height] or corners in pixels, or corners as shares of the image",
    )
    contexts.add_argument("--image_folder", default=None, help="where image paths start; each image must be there")
    add_flag(contexts)
    contexts.add_argument("-o", "--output", required=True, help="file of contexts (.jsonl, .json or .parquet)")
    contexts.set_defaults(run=_contexts)

    prompts = steps.add_parser("prompts", help="write the shipped prompts to a folder, to be edited")
    prompts.add_argument("-o", "--output", required=True, help="the folder; it must not exist")
    prompts.set_defaults(run=_prompts)


def _contexts(args: argparse.Namespace) -> int:
    from ...rows.files import write_rows

    for flag, source in (("instances", "captions"), ("image_data", "regions")):
        if getattr(args, flag) and not getattr(args, source):
            raise ValueError(f"--{flag} belongs to --{source}; give both, or drop --{flag}.")
    bad = BadAnnotations(args.on_bad_row)
    count = write_rows(_source(args, bad), args.output)
    print(f"{count} contexts -> {args.output}")
    bad.write(args.output)
    if count == 0:
        raise ValueError(f"{args.output} is empty: no annotation could be used. Correct the annotations.")
    return 0


def _source(args: argparse.Namespace, bad: BadAnnotations) -> Iterator[dict[str, Any]]:
    folder = args.image_folder
    if args.captions:
        from .from_coco import contexts_from_coco

        return contexts_from_coco(args.captions, args.instances, folder, bad)
    if args.caps_boxes:
        from .schema import read_contexts

        return read_contexts(args.caps_boxes, folder, bad)
    if args.regions:
        from .from_visual_genome import contexts_from_visual_genome

        return contexts_from_visual_genome(args.regions, args.image_data, folder, bad)
    if args.caption_file:
        from .from_caption_file import contexts_from_caption_file

        return contexts_from_caption_file(args.caption_file, folder, args.image_column, args.caption_column, bad)
    from .from_dataset import Columns, contexts_from_dataset, open_dataset

    columns = Columns(
        captions=_column(args.caption_column),
        image=_column(args.image_column),
        id=_column(args.id_column),
        objects=_column(args.objects_column),
        box_format=args.box_format,
    )
    return contexts_from_dataset(open_dataset(args.dataset, args.split), columns, folder, bad)


def _column(name: str) -> str | None:
    return None if name == "none" else name


def _prompts(args: argparse.Namespace) -> int:
    import shutil

    from ..prompts.prompt import SHIPPED

    if Path(args.output).exists():
        raise ValueError(f"{args.output} exists; name a new folder, so that no edited prompt is lost.")
    shutil.copytree(SHIPPED, args.output)
    print(f"prompts -> {args.output}")
    return 0
