"""`llavakit import`: a checkpoint of another format becomes one of ours."""

import argparse

from .checkpoint_files import SHARD_SIZE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from .formats import READERS

    parser.add_argument("source", metavar="SRC", help=f"folder or Hub id of the checkpoint ({', '.join(READERS)})")
    parser.add_argument("-o", "--output_dir", required=True, metavar="OUT", help="where ours goes: a new folder")
    parser.add_argument("--format", choices=list(READERS), help="what SRC is of (default: as its config.json says)")
    parser.add_argument("--vision", help="vision encoder, where SRC does not hold it: path or Hub id")
    parser.add_argument("--base", help="language model, where SRC is an adapter or a connector: path or Hub id")
    parser.add_argument(
        "--chat_template", help="a shipped name or a .jinja file, in place of the one that comes with SRC"
    )
    parser.add_argument("--max_shard_size", default=SHARD_SIZE, help="of a file of weights (default: %(default)s)")
    parser.set_defaults(run=_import)


def _import(args: argparse.Namespace) -> int:
    from ..reports.tables import show, table
    from .converting import import_checkpoint
    from .formats.format_base import Given

    given = Given(args.vision, args.base, args.chat_template)
    done = import_checkpoint(args.source, args.output_dir, given, args.format, args.max_shard_size)
    heads, *lines = done.proof
    show(table(heads, lines, title=f"{args.source} ({done.format}) and {args.output_dir} {done.shown}"))
    if done.differs:
        print(done.differs)
    return 0
