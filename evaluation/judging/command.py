"""`llavakit eval judge`: a judge reviews a model's answers, for the benchmarks that are scored by reviews."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...endpoints import flags
from ..reading.hub import local_paths

if TYPE_CHECKING:
    from ...endpoints.client import OpenAIClient
    from ...endpoints.limits import Limits
    from ...endpoints.prices import Price


def add_parsers(verbs: Any) -> None:
    judge = verbs.add_parser("judge", help="have answers reviewed by a model; run again to go on")
    judge.add_argument("task", help="llava_bench, mmhal, or hallusionbench (which is scored by rule without a judge)")
    judge.add_argument("--annotations", nargs="+", required=True, metavar="PATH", help="official files")
    judge.add_argument("--answers", nargs="+", required=True, type=Path, metavar="FILE", help="the model's answers")
    add_judge_options(judge, required=True)
    judge.add_argument("--both_orders", action="store_true", help="ask again with reference and answer swapped")
    judge.add_argument("-o", "--output", required=True, type=Path, metavar="DIR", help="folder for the reviews")
    judge.set_defaults(run=_judge)


def add_judge_options(judge: Any, required: bool) -> None:
    """Which judge, how it is asked, and for how much."""
    judge.add_argument("--model", required=required, help="the judge")
    flags.add_endpoint(judge)
    flags.add_sampling(judge, temperature="that of the benchmark's script")
    flags.add_body(judge)
    flags.add_price(judge)
    flags.add_limits(judge, concurrency=8, what="verdict")


def open_judge(args: argparse.Namespace, temperature: float) -> "tuple[OpenAIClient, Price | None, Limits]":
    """The judge that the options of `add_judge_options` name, its price where one is known, and the limits.

    Args:
        args: The options.
        temperature: Where the options name none.

    Raises:
        ValueError: No API key, or a budget for a model without a price.
    """
    return flags.client_from(args, "judge", temperature), flags.price_from(args), flags.limits_from(args)


def _judge(args: argparse.Namespace) -> int:
    from ..tasks import TASKS, find_task
    from .judged_task import JudgedTask
    from .judging import judge_answers

    task = find_task(args.task)
    if not isinstance(task, JudgedTask):
        judged = [name for name, each in TASKS.items() if isinstance(each, JudgedTask)]
        raise ValueError(f"{task.name} is scored by rule and needs no judge. Those that do are {', '.join(judged)}.")
    examples = task.read(local_paths(args.annotations))
    answers = task.read_model_answers(args.answers, examples)
    judge, price, limits = open_judge(args, task.judge_temperature)
    judgement = judge_answers(
        task, examples, answers, judge, args.output, both_orders=args.both_orders, price=price, limits=limits
    )
    print(judgement)
    annotations, reviews = (" ".join(map(str, paths)) for paths in (args.annotations, judgement.files))
    print(f"llavakit eval score {task.name} --annotations {annotations} --answers {reviews} -o scores.json")
    return 0
