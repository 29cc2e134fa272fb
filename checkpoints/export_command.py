"""`llavakit export`: a checkpoint of ours in another format, with the proof that it says the same."""

import argparse

from .checkpoint_files import SHARD_SIZE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from .formats import WRITERS
    from .formats.gguf_file import OUTTYPES

    parser.add_argument("checkpoint", metavar="CKPT", help="folder or Hub id of the checkpoint")
    parser.add_argument("-o", "--output_dir", metavar="OUT", help="where it goes: a new folder")
    way = parser.add_mutually_exclusive_group(required=True)
    way.add_argument("--format", choices=list(WRITERS), help="what it is written as")
    way.add_argument(
        "--merge", action="store_true", help="CKPT is an adapter: write it and its model as one whole model"
    )
    way.add_argument(
        "--check_server",
        metavar="URL",
        help="write nothing: ask a server of OpenAI's format (.../v1) that serves what was written, and compare",
    )
    parser.add_argument("--model", help="of --check_server, as the server names it (default: the only one it has)")
    parser.add_argument("--dtype", help="of the merged weights (default: as the model below the adapter was saved)")
    parser.add_argument("--max_shard_size", default=SHARD_SIZE, help="of a file of weights (default: %(default)s)")
    gguf = parser.add_argument_group("gguf")
    gguf.add_argument("--outtype", choices=list(OUTTYPES), help="how matrices are written (default: f16)")
    gguf.add_argument(
        "--square_pictures",
        action="store_true",
        default=None,
        help="it will be shown square pictures alone: llama.cpp shows others as the layout 'pad' does",
    )
    parser.set_defaults(run=_export)


def _export(args: argparse.Namespace) -> int:
    from ..reports.tables import show, table
    from .converting import export_checkpoint, merge_checkpoint

    choices = {"outtype": args.outtype, "square_pictures": args.square_pictures}
    options = {name: value for name, value in choices.items() if value is not None}
    if args.check_server is not None:
        return _check_server(args)
    if args.output_dir is None:
        raise ValueError("-o is missing: name the new folder that it goes to.")
    if args.merge:
        if options:
            raise ValueError(f"--{next(iter(options))} belongs to --format gguf. Leave it out.")
        merged = merge_checkpoint(args.checkpoint, args.output_dir, args.dtype, args.max_shard_size)
        print(f"{args.checkpoint} ({merged.facts.method}) and {merged.facts.base} -> {args.output_dir}")
        return 0
    if args.dtype is not None:
        raise ValueError(f"--dtype {args.dtype} belongs to --merge; a format is written as the checkpoint is.")
    done = export_checkpoint(args.checkpoint, args.output_dir, args.format, args.max_shard_size, **options)
    heads, *lines = done.proof
    show(table(heads, lines, title=f"{args.checkpoint} and {args.output_dir} ({done.format}) {done.shown}"))
    if done.differs:
        print(done.differs)
    return 0


def _check_server(args: argparse.Namespace) -> int:
    from ..reports.tables import show, table
    from .converting import local_folder
    from .loading import load_processor
    from .proof.prompts import SHAPES
    from .proof.served import BY_ANYONE, SQUARES, Served, only_model, prove_served

    for flag, value in (("-o", args.output_dir), ("--dtype", args.dtype), ("--outtype", args.outtype)):
        if value is not None:
            raise ValueError(f"{flag} {value}: --check_server writes nothing. Leave it out.")
    folder = local_folder(args.checkpoint)
    served = Served(args.check_server, args.model or only_model(args.check_server), BY_ANYONE)
    shapes = SQUARES if args.square_pictures else SHAPES
    heads, *lines = prove_served(folder, served, load_processor(folder).image_size, shapes)
    show(table(heads, lines, title=f"{args.checkpoint} and {served.model} at {args.check_server} say the same"))
    return 0
