"""`llavakit export`: a checkpoint of ours in another format, with the proof that it says the same."""

import argparse

from .checkpoint_files import SHARD_SIZE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from .formats import WRITERS

    parser.add_argument("checkpoint", metavar="CKPT", help="folder or Hub id of the checkpoint")
    parser.add_argument("-o", "--output_dir", required=True, metavar="OUT", help="where it goes: a new folder")
    way = parser.add_mutually_exclusive_group(required=True)
    way.add_argument("--format", choices=list(WRITERS), help="what it is written as")
    way.add_argument(
        "--merge", action="store_true", help="CKPT is an adapter: write it and its model as one whole model"
    )
    parser.add_argument("--dtype", help="of the merged weights (default: as the model below the adapter was saved)")
    parser.add_argument("--max_shard_size", default=SHARD_SIZE, help="of a file of weights (default: %(default)s)")
    parser.set_defaults(run=_export)


def _export(args: argparse.Namespace) -> int:
    from ..reports.tables import show, table
    from .converting import export_checkpoint, merge_checkpoint

    if args.merge:
        merged = merge_checkpoint(args.checkpoint, args.output_dir, args.dtype, args.max_shard_size)
        print(f"{args.checkpoint} ({merged.facts.method}) and {merged.facts.base} -> {args.output_dir}")
        return 0
    if args.dtype is not None:
        raise ValueError(f"--dtype {args.dtype} belongs to --merge; a format is written as the checkpoint is.")
    done = export_checkpoint(args.checkpoint, args.output_dir, args.format, args.max_shard_size)
    heads, *lines = done.proof
    show(table(heads, lines, title=f"{args.checkpoint} and {args.output_dir} ({done.format}) say the same"))
    return 0
