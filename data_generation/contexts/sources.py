"""What `llavakit data contexts` reads, each by the flags that belong to it."""

import argparse
from collections.abc import Iterator

from ...rows.bad_rows import BadAnnotations
from .schema import Context


def images(args: argparse.Namespace, bad: BadAnnotations) -> Iterator[Context]:
    from .from_images import contexts_from_images

    return contexts_from_images(args.images, args.image_folder, bad)


def captions(args: argparse.Namespace, bad: BadAnnotations) -> Iterator[Context]:
    from .from_coco import contexts_from_coco

    return contexts_from_coco(args.captions, args.instances, args.image_folder, bad)


def caps_boxes(args: argparse.Namespace, bad: BadAnnotations) -> Iterator[Context]:
    from .schema import read_contexts

    return read_contexts(args.caps_boxes, args.image_folder, bad)


def regions(args: argparse.Namespace, bad: BadAnnotations) -> Iterator[Context]:
    from .from_visual_genome import contexts_from_visual_genome

    return contexts_from_visual_genome(args.regions, args.image_data, args.image_folder, bad)


def caption_file(args: argparse.Namespace, bad: BadAnnotations) -> Iterator[Context]:
    from .from_caption_file import contexts_from_caption_file

    image, caption = args.image_column or "image", args.caption_column or "caption"
    return contexts_from_caption_file(args.caption_file, args.image_folder, image, caption, bad)


def dataset(args: argparse.Namespace, bad: BadAnnotations) -> Iterator[Context]:
    from .from_dataset import Columns, contexts_from_dataset, open_dataset

    columns = Columns(
        captions=_column(args.caption_column, "caption"),
        image=_column(args.image_column, "image"),
        id=_column(args.id_column, None),
        objects=_column(args.objects_column, None),
        box_format=args.box_format or "xywh",
    )
    opened = open_dataset(args.dataset, args.split or "train", bad)
    return contexts_from_dataset(opened, columns, args.image_folder, bad)


def _column(name: str | None, default: str | None) -> str | None:
    return default if name is None else None if name == "none" else name
