"""`llavakit bench`: training by `LlavaSFTTrainer` beside stock trl, and where the time goes."""

import argparse
from typing import Any

from .allocator import start_settled
from .arms import ARMS, OURS, STOCK
from .presets import PRESETS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--preset", default="tiny-cpu", choices=PRESETS, help="what is trained (default: %(default)s)")
    parser.add_argument("-o", "--output", default=None, help="also write what was measured as JSON here")
    parser.add_argument("--steps", type=int, default=20, help="steps that are timed (default: %(default)s)")
    parser.add_argument(
        "--arms", nargs="+", default=list(ARMS), choices=list(ARMS), help="what is compared (default: all)"
    )
    parser.add_argument("--stages", nargs="+", default=["stage1", "stage2"], choices=["stage1", "stage2"])
    parser.add_argument(
        "--shared",
        nargs="*",
        type=int,
        default=[2, 4],
        help="rows about one image, trained with it shared and not (default: 2 4; no number: left out)",
    )
    parser.add_argument("--threads", type=int, default=None, help="of torch (default: its own)")
    parser.add_argument(
        "--no_memory", action="store_true", help="leave out the measuring of memory, in processes of its own"
    )
    parser.add_argument(
        "--time_to_quality",
        action="store_true",
        help="also train the quickstart's model by stock and by ours, step for step, and examine both (many minutes)",
    )
    parser.add_argument("--folder", default=None, help="keep model and rows here (default: they are made and removed)")
    parser.set_defaults(run=_bench)


def _bench(args: argparse.Namespace) -> int:
    start_settled("bench")
    import torch

    from ..rows.files import write_object
    from .bench import run_bench

    if args.threads is not None:
        torch.set_num_threads(args.threads)
    found = run_bench(
        args.preset,
        steps=args.steps,
        stages=args.stages,
        arms=args.arms,
        shared=args.shared,
        apart=not args.no_memory,
        folder=args.folder,
    )
    if args.time_to_quality:
        from .quality import time_to_quality

        found["time_to_quality"] = time_to_quality()
    _show(found)
    if args.output is not None:
        write_object(found, args.output)
    return 0


def _show(found: dict[str, Any]) -> None:
    """The table of each stage, and the speed-up by rows an image."""
    from ..reports.tables import show, table
    from .bench import STAGES

    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    show(f"{found['preset']}, {found['steps']} steps, {found['machine']}, {found['threads']} threads; {versions}")
    for name, stage in STAGES.items():
        if name not in found:
            continue
        said = found[name]
        lines = [
            (
                arm,
                f"{row['seconds_a_step']:.3f}",
                f"{row['speedup_vs_stock']:.2f}",
                f"{row['max_loss_difference']:.1e}" if "max_loss_difference" in row else "other rows",
                row["about"],
            )
            for arm, row in said["arms"].items()
        ]
        heads = ("", "seconds a step", "times stock", "loss apart", "what")
        show(table(heads, lines, title=f"{name}: {stage}", left=("", "what")))
        show(
            f"{said['fraction_of_floor']:.0%} of what {found['flops_per_second'] / 1e9:,.0f} GFLOP/s allow, utilization "
            f"{said['utilization']:.2f}; "
            f"{said['tokens_per_second']:,.0f} tokens/s; padding {said['padding_share']:.0%}, stock's "
            f"{said['padding_share_stock']:.0%}"
            + (f"; memory {said['peak_memory_ratio']:.2f} of stock's" if "peak_memory_ratio" in said else "")
        )
        if "plan" in said:
            planned, measured = said["plan"]["peak_memory_bytes"], said["peak_memory_bytes"]["llavakit"]
            show(f"Memory: planned {planned / 1e6:,.0f} MB, measured {measured / 1e6:,.0f} MB")
    if planned := found.get("plan_of_seconds"):
        show(
            f"Planned for a step of stage 1, by stage 2: {planned['planned']:.3f} s; it takes {planned['measured']:.3f}"
        )
    if starts := found.get("time_to_first_step"):
        first, second, stock = (f"{starts[name]:.1f}" for name in ("first", "second", "stock"))
        show(
            f"First step after {first} s, of a second start after {second} s, of stock's after {stock} s; imports left out"
        )
    for rows, said in found.get("shared_image", {}).items():
        apart = f"loss {said['max_loss_difference']:.1e} apart"
        show(f"{rows} rows an image, shared: {said['speedup']:.2f} times as fast as laid apart, {apart}")
    if quality := found.get("time_to_quality"):
        for name in (STOCK, OURS):
            said = quality[name]
            show(
                f"The quickstart by {name}: {said['accuracy']['all']:.1%} right after {said['seconds']:.0f} s of training"
            )
        show(f"{quality['speedup']:.2f} times sooner")
