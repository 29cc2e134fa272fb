"""`llavakit export`: a checkpoint of ours in another format, with the proof that it says the same."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from .formats import WRITERS

    parser.add_argument("checkpoint", metavar="CKPT", help="folder or Hub id of the checkpoint")
    parser.add_argument("-o", "--output_dir", required=True, metavar="OUT", help="where it goes: a new folder")
    parser.add_argument("--format", required=True, choices=list(WRITERS), help="what it is written as")
    parser.add_argument("--max_shard_size", default="2GB", help="of a file of weights (default: %(default)s)")
    parser.set_defaults(run=_export)


def _export(args: argparse.Namespace) -> int:
    from ..reports.tables import show, table
    from .converting import export_checkpoint

    done = export_checkpoint(args.checkpoint, args.output_dir, args.format, args.max_shard_size)
    heads, *lines = done.proof
    show(table(heads, lines, title=f"{args.checkpoint} and {args.output_dir} ({done.format}) say the same"))
    return 0
