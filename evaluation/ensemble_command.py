"""`llavakit eval ensemble`: ScienceQA answered by two models together, as the paper's LLaVA + GPT-4."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .judging.command import add_judge_options, open_judge
from .reading.answers import Answers
from .reading.hub import local_paths
from .task import Example


def add_parsers(steps: Any) -> None:
    ensemble = steps.add_parser("ensemble", help="ScienceQA: LLaVA and a text-only model, as complement and as judge")
    ensemble.add_argument("--annotations", nargs="+", required=True, metavar="PATH", help="official files")
    ensemble.add_argument("--answers", nargs="+", required=True, type=Path, metavar="FILE", help="LLaVA's answers")
    ensemble.add_argument(
        "--other_answers",
        nargs="+",
        required=True,
        type=Path,
        metavar="FILE",
        help="the other model's, GPT-4 in the paper",
    )
    ensemble.add_argument(
        "--judgements", nargs="+", default=None, type=Path, metavar="FILE", help="final answers of the other model"
    )
    ensemble.add_argument("--allow-partial", action="store_true", help="score what is there when answers are missing")
    add_judge_options(ensemble, required=False)  # without --judgements and --model there is no judge
    ensemble.add_argument(
        "-o", "--output", required=True, type=Path, metavar="DIR", help="folder of results of each way"
    )
    ensemble.set_defaults(run=_ensemble)


def _ensemble(args: argparse.Namespace) -> int:
    from .tasks import TASKS
    from .tasks.scienceqa_ensemble import complement, judged

    task = TASKS["scienceqa"]
    examples = task.read(local_paths(args.annotations))
    ours, other = (task.read_answers(paths, examples) for paths in (args.answers, args.other_answers))
    ways = {"ours": ours, "other": other, "complement": complement(examples, ours, other)}
    if args.judgements:
        ways["judge"] = judged(examples, ours, task.read_answers(args.judgements, examples))
    elif args.model:
        ways["judge"] = judged(examples, ours, _judgements(args, examples, ours, other))
    for name, answers in ways.items():
        print(f"{name:<12}{_score(args, name, examples, answers):8.2f}  -> {args.output / name}")
    return 0


def _score(args: argparse.Namespace, name: str, examples: Sequence[Example], answers: Answers) -> float:
    from ..rows.files import write_rows
    from .metrics.scoring import score
    from .results.folder import write_results
    from .run import PREDICTIONS
    from .tasks import TASKS

    task = TASKS["scienceqa"]
    result = score(task, examples, answers, args.allow_partial)
    folder = write_results(task, result, args.output / name, {"way": name, "answers": list(map(str, args.answers))})
    rows = (
        {"id": key, "error": "failed"} if text is None else {"id": key, "text": text} for key, text in answers.items()
    )
    write_rows(rows, folder / PREDICTIONS)
    return result.scores[task.main_score]


def _judgements(args: argparse.Namespace, examples: Sequence[Example], ours: Answers, other: Answers) -> Answers:
    """Ask the judge about each question that the two models answer differently."""
    from .judging.judge import ask_judge, left_to_ask, text_of
    from .reading.answers import some
    from .tasks.scienceqa import named_option
    from .tasks.scienceqa_ensemble import disagreements, judge_requests

    judge, price, limits = open_judge(args, temperature=0.0)
    requests = judge_requests(disagreements(examples, ours, other), ours, other, args.model)
    lines = ask_judge(
        requests,
        args.output / "judge_journal",
        judge,
        lambda text: named_option(text) is not None,
        price=price,
        limits=limits,
    )
    left = left_to_ask(requests, lines)
    if left:
        raise ValueError(
            f"the budget leaves {len(left):,} question(s) to ask: {some(left)}. Go on with a larger --budget."
        )
    final: Answers = {line["id"]: text_of(line) for line in lines.values()}
    unscored = [key for key, text in final.items() if named_option(text or "") is None]
    if unscored:
        print(f"{len(unscored):,} unscored, as the judge named no option: {some(unscored)}. Ours counts there.")
    return final
