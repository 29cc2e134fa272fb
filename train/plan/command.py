"""`llavakit plan`: memory by part, the largest batch, hours and money of a stage, before a GPU is rented."""

import argparse
import math
from typing import Any

from ...modeling_llava.model_parts import STAGES
from . import MACHINES

# Rows and tokens of text a row of the papers' data, where no rows are given: captions, and instructions
TYPICAL = {"align": (595_375, 20, 14), "align_vision": (595_375, 20, 14)}
TYPICAL_INSTRUCTION = (157_712, 220, 130)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "checkpoint", metavar="CKPT", help="the LLaVA that will be trained; of its weights none are loaded"
    )
    parser.add_argument("data", metavar="DATA", nargs="?", help="its rows (default: as many and as long as LLaVA's)")
    parser.add_argument("--image_folder", default=None, help="where image paths start (default: the data's folder)")
    parser.add_argument(
        "--machine", default="h100", help=f"{', '.join(MACHINES)}, or GB:TFLOPS[:GB_A_SECOND] (default: %(default)s)"
    )
    parser.add_argument("--devices", type=int, default=1, help="how many (default: %(default)s)")
    parser.add_argument("--price", type=float, default=None, help="of a device and hour")
    parser.add_argument("--stage", default="instruct", choices=STAGES, help="what learns (default: %(default)s)")
    parser.add_argument("--batch_size", type=int, default=8, help="rows of a step on a device (default: %(default)s)")
    parser.add_argument("--epochs", type=float, default=1.0, help="of the rows (default: %(default)s)")
    parser.add_argument("--max_length", type=int, default=2048, help="longest row (default: %(default)s)")
    parser.add_argument(
        "--lora_rank", type=int, default=None, help="of adapters in place of the language model's weights"
    )
    parser.add_argument("--checkpointing", action="store_true", help="compute activations twice")
    parser.add_argument(
        "--sharded", action="store_true", help="spread weights, gradients and optimizer over the devices"
    )
    parser.add_argument("--float32", action="store_true", help="compute in float32 (default: bfloat16)")
    parser.add_argument(
        "--utilization",
        type=float,
        default=0.4,
        help="share of the speed of large products and copies that is reached: utilization of `llavakit bench` "
        "(default: %(default)s)",
    )
    parser.add_argument("-o", "--output", default=None, help="also write the plan as JSON here")
    parser.set_defaults(run=_plan)


def _plan(args: argparse.Namespace) -> int:
    from dataclasses import asdict

    from ...rows.files import write_object
    from .estimate import Settings, make_plan

    config, rows = _config_of(args.checkpoint), _rows(args)
    settings = Settings(
        args.stage,
        args.batch_size,
        args.epochs,
        not args.float32,
        args.lora_rank,
        args.checkpointing,
        args.devices,
        args.sharded,
        args.utilization,
        args.price,
    )
    plan = make_plan(config, rows, machine_of(args.machine), settings)
    _show(plan, args, rows)
    if args.output is not None:
        write_object({**asdict(plan), "total_bytes": plan.memory.total}, args.output)
    return 0 if plan.fits else 1


def machine_of(name: str) -> Any:
    """A machine by its name, or by memory, speed and bandwidth, such as 24:165:1008; without the last, such as 24:165, what
    is moved takes no time.

    Raises:
        ValueError: It is neither.
    """
    from ...rows.registry import look_up
    from .machines import Machine

    if ":" not in name:
        return look_up(MACHINES, name, "machine")
    try:
        numbers = [float(each) for each in name.split(":")]
        gigabytes, teraflops, bandwidth = numbers if len(numbers) == 3 else [*numbers, math.inf]
        return Machine(gigabytes, teraflops, bandwidth)
    except ValueError as error:
        raise ValueError(
            f"--machine {name}: give memory in GB, TFLOP/s and GB/s of its memory, such as 24:165:1008."
        ) from error


def _config_of(checkpoint: str) -> Any:
    from transformers import AutoConfig

    from ...modeling_llava import LlavaConfig

    config = AutoConfig.from_pretrained(checkpoint)
    if not isinstance(config, LlavaConfig):
        raise ValueError(f"{checkpoint} is a {config.model_type}, and no LLaVA that `llavakit init` wrote.")
    return config


def _rows(args: argparse.Namespace) -> Any:
    from .estimate import Rows

    if args.data is None:
        number, text, supervised = TYPICAL.get(args.stage, TYPICAL_INSTRUCTION)
        image_tokens = _config_of(args.checkpoint).num_image_tokens
        return Rows(
            [image_tokens + round(text * part) for part in (0.5, 0.7, 0.9, 1.2, 1.7)], supervised, 1.0, number=number
        )
    from ...checkpoints.loading import load_processor
    from ...rows.loading import load_conversations
    from ..collator import LlavaCollator
    from ..packing.packs import units_of
    from ..samples import prepare_samples

    processor = load_processor(args.checkpoint)
    collator = LlavaCollator(processor, args.max_length, on_bad_row="skip")
    samples = prepare_samples(load_conversations(args.data, args.image_folder, on_bad_row="skip"), collator)
    usable = samples.usable
    if not usable:
        raise ValueError(f"none of the rows of {args.data} can be used; `llavakit inspect` says why.")
    lengths = [samples.lengths[row] for row in usable]
    units = units_of(samples, max(lengths) * 64, processor.image_token_id)
    return Rows(
        lengths,
        sum(samples.supervised[row] for row in usable) / len(usable),
        sum(samples.num_images[row] for row in usable) / len(usable),
        1 - sum(unit.tokens for unit in units) / sum(lengths),
        len(usable),
    )


def _show(plan: Any, args: argparse.Namespace, rows: Any) -> None:
    from dataclasses import fields

    from ...reports.tables import show, table

    memory = [(part.name, f"{getattr(plan.memory, part.name) / 1e9:,.2f}") for part in fields(plan.memory)]
    device = f"one of {args.devices} {args.machine}" if args.devices > 1 else args.machine
    title = f"Stage {args.stage}, {args.batch_size} rows of {rows.mean:,.0f} tokens a step, on {device}"
    show(table(("memory", "GB"), [*memory, ("all", f"{plan.memory.total / 1e9:,.2f}")], title=title))
    fits = "fits" if plan.fits else "does not fit"
    work = f"{plan.flops / 1e12:,.3g} TFLOP, {plan.moved / 1e9:,.3g} GB moved and {plan.seconds:.3g} s a step"
    show(f"It {fits}; at most {plan.largest_batch:,} rows a step do. {work}.")
    cost = "" if plan.cost is None else f", {plan.cost:,.2f} in money"
    show(f"{plan.hours:,.2f} hours{cost} for {rows.number or len(rows.lengths):,} rows, {args.epochs:g} epochs.")
    show(table(("what it is worth", ""), list(plan.measures.items()), left=("what it is worth", "")))
