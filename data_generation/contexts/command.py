"""`llavakit data contexts | prompts`: other people's annotations to contexts, and the prompts to edit."""

import argparse
from pathlib import Path
from typing import Any

from ...rows.bad_rows import BadAnnotations, add_flag
from . import CONTEXT_SOURCES
from .from_dataset import BOX_FORMATS

# What belongs to some sources only: help, and choices where there are any
FLAGS: dict[str, tuple[str, tuple[str, ...] | None]] = {
    "instances": ("COCO instances file", None),
    "image_data": ("Visual Genome's image_data.json", None),
    "split": ("its split (default: train)", None),
    "image_column": ("holds the images (default: image; 'none': no images)", None),
    "caption_column": ("holds the captions (default: caption; 'none': no captions)", None),
    "id_column": ("holds the ids (default: from the image's path)", None),
    "objects_column": ("holds 'bbox' and 'category' (default: no objects)", None),
    "box_format": (
        "[x, y, width, height] or corners in pixels, or corners as shares of the image (default: xywh)",
        BOX_FORMATS,
    ),
}


def add_parsers(steps: Any) -> None:
    contexts = steps.add_parser("contexts", help="annotations to contexts: what a teacher is told of each image")
    source = contexts.add_argument_group("one of these").add_mutually_exclusive_group(required=True)
    for name, entry in CONTEXT_SOURCES.items():
        source.add_argument(f"--{name}", metavar=entry.metavar, help=entry.help)
    for flag, (help, choices) in FLAGS.items():
        owners = " or ".join(f"--{name}" for name, entry in CONTEXT_SOURCES.items() if flag in entry.flags)
        contexts.add_argument(f"--{flag}", default=None, choices=choices, help=f"with {owners}: {help}")
    contexts.add_argument("--image_folder", default=None, help="where image paths start; each image must be there")
    add_flag(contexts)
    contexts.add_argument("-o", "--output", required=True, help="file of contexts (.jsonl, .json or .parquet)")
    contexts.set_defaults(run=_contexts)

    prompts = steps.add_parser("prompts", help="write the shipped prompts to a folder, to be edited")
    prompts.add_argument("-o", "--output", required=True, help="the folder; it must not exist")
    prompts.set_defaults(run=_prompts)


def _contexts(args: argparse.Namespace) -> int:
    from ...rows.files import write_rows

    name = next(name for name in CONTEXT_SOURCES if getattr(args, name) is not None)
    for flag in FLAGS:
        owners = " or ".join(f"--{other}" for other, entry in CONTEXT_SOURCES.items() if flag in entry.flags)
        if getattr(args, flag) is not None and flag not in CONTEXT_SOURCES[name].flags:
            raise ValueError(f"--{flag} belongs to {owners}; give both, or drop --{flag}.")
    bad = BadAnnotations(args.on_bad_row)
    count = write_rows(CONTEXT_SOURCES[name].read(args, bad), args.output)
    print(f"{count} contexts -> {args.output}")
    bad.write(args.output)
    if count == 0:
        raise ValueError(f"{args.output} is empty: no annotation could be used. Correct the annotations.")
    return 0


def _prompts(args: argparse.Namespace) -> int:
    import shutil

    from ..prompts.prompt import SHIPPED

    if Path(args.output).exists():
        raise ValueError(f"{args.output} exists; name a new folder, so that no edited prompt is lost.")
    shutil.copytree(SHIPPED, args.output)
    print(f"prompts -> {args.output}")
    return 0
