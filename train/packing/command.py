"""`llavakit certify`: whether packed rows train a model as the rows alone do, on one's own model and rows."""

import argparse
from typing import Any

from ...modeling_llava.model_parts import STAGES
from .attention import PACKED_ATTENTION, TAKES_A_MASK


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", metavar="CKPT", help="the LLaVA that will be trained: a folder or Hub id")
    parser.add_argument(
        "data", metavar="DATA", help="its rows: a .json, .jsonl or .parquet file, a folder, or a Hub id"
    )
    parser.add_argument("--image_folder", default=None, help="where image paths start (default: the data's folder)")
    parser.add_argument(
        "--rows", type=int, default=8, help="rows to compare, spread over the data (default: %(default)s)"
    )
    parser.add_argument("--stage", default="instruct", choices=STAGES, help="what learns (default: %(default)s)")
    parser.add_argument("--chat_template", default=None, help="read with this template in place of the checkpoint's")
    parser.add_argument("--max_length", type=int, default=None, help="longest row, as in training")
    parser.add_argument("--dtype", default="float32", help="of the weights (default: %(default)s)")
    parser.add_argument(
        "--attn_implementation",
        default=PACKED_ATTENTION,
        choices=[PACKED_ATTENTION, *TAKES_A_MASK],
        help="how packs are attended to (default: what trains)",
    )
    parser.add_argument("--trust_remote_code", action="store_true")
    parser.add_argument("-o", "--output", default=None, help="also write what was found as JSON here")
    parser.set_defaults(run=_certify)


def _certify(args: argparse.Namespace) -> int:
    import torch

    from ...checkpoints.loading import load_model, load_processor
    from ...rows.loading import load_conversations, without_decoding
    from ..collator import LlavaCollator
    from .certificate import certify
    from .certifying import spread

    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = getattr(torch, args.dtype, None)
    if not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise ValueError(f"--dtype {args.dtype} is unknown: float32, bfloat16 or float16.")
    llava = load_model(args.checkpoint, dtype=dtype, trust_remote_code=args.trust_remote_code).to(device)
    llava.set_stage(args.stage)
    processor = load_processor(args.checkpoint, trust_remote_code=args.trust_remote_code)
    collator = LlavaCollator(processor, args.max_length, on_bad_row="skip", chat_template=args.chat_template)
    # Files as they are, and not decoded: rows about one picture are known by it
    rows = without_decoding(load_conversations(args.data, args.image_folder, on_bad_row="skip"))
    samples = collator.samples(rows[number] for number in spread(len(rows), args.rows))
    certificate = certify(llava, processor, samples, attention=args.attn_implementation)
    _show(certificate)
    if args.output is not None:
        from dataclasses import asdict

        from ...rows.files import write_object

        write_object({**asdict(certificate), "holds": certificate.holds}, args.output)
    return 0 if certificate.holds else 1


def _show(certificate: Any) -> None:
    from ...reports.tables import show, table

    shared = f", {certificate.shared:,} of them shared" if certificate.shared else ""
    what = f"{certificate.rows} rows of {certificate.tokens:,} tokens{shared}, packed and alone"
    facts = f"{what}: {certificate.attention}, {certificate.dtype}"
    if certificate.refusal is not None:
        show(facts, f"No: {certificate.refusal}")
        return
    heads = ("compared", "largest difference", "allowed", "")
    lines = [
        (each.what, f"{each.difference:.1e}", f"{each.tolerance:.0e}", "holds" if each.holds else "does not hold")
        for each in certificate.findings
    ]
    show(table(heads, lines, title=facts, left=("compared", "")))
    if certificate.holds:
        show("Yes: packed rows train this model as they do alone.")
    else:
        show("No: packed rows do not train this model as they do alone. Train it with --padding_free false.")
