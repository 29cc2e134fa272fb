"""`llavakit eval judge`: a judge reviews a model's answers, for the benchmarks that are scored by reviews."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..reading.hub import local_paths

if TYPE_CHECKING:
    from ...endpoints.limits import Limits
    from ...endpoints.openai_teacher import OpenAITeacher
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
    judge.add_argument("--base_url", default=None, help="of an OpenAI-compatible endpoint (default: OpenAI's)")
    judge.add_argument("--api_key_env", default="OPENAI_API_KEY", help="environment variable with the API key")
    judge.add_argument("--temperature", type=float, default=None, help="default: that of the benchmark's script")
    judge.add_argument(
        "--token_limit",
        default=None,
        choices=("max_tokens", "max_completion_tokens"),
        help="the field that limits a verdict's length (default: max_tokens for a --base_url, else max_completion_tokens)",
    )
    judge.add_argument("--input_price", type=float, default=None, help="dollars for a million tokens read")
    judge.add_argument("--output_price", type=float, default=None, help="dollars for a million tokens written")
    judge.add_argument("--budget", type=float, default=None, help="stop at so many dollars; a larger one goes on")
    judge.add_argument("--concurrency", type=int, default=8, help="most calls at once (default: %(default)s)")
    judge.add_argument("--rpm", type=float, default=None, help="most calls in a minute")
    judge.add_argument("--attempts", type=int, default=6, help="most calls for one verdict (default: %(default)s)")


def open_judge(args: argparse.Namespace, temperature: float) -> "tuple[OpenAITeacher, Price | None, Limits]":
    """The judge that the options of `add_judge_options` name, its price where one is known, and the limits.

    Args:
        args: The options.
        temperature: Where the options name none.

    Raises:
        ValueError: No API key, or a budget for a model without a price.
    """
    from ...endpoints.chat_format import Sampling
    from ...endpoints.limits import Limits
    from ...endpoints.openai_teacher import OpenAITeacher, api_key_from
    from ...endpoints.prices import find_price, shipped_prices

    asked = (args.budget, args.input_price, args.output_price)
    unpriced = asked == (None, None, None) and args.model not in shipped_prices()["dollars_per_million_tokens"]
    price = None if unpriced else find_price(args.model, args.input_price, args.output_price)
    chosen = temperature if args.temperature is None else args.temperature
    token_limit = args.token_limit or ("max_tokens" if args.base_url else "max_completion_tokens")
    key = api_key_from(args.api_key_env, args.base_url)
    judge = OpenAITeacher(args.model, args.base_url, key, Sampling(chosen, token_limit=token_limit), name="judge")
    return judge, price, Limits(args.concurrency, args.rpm, attempts=args.attempts, budget=args.budget)


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
