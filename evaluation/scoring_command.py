"""`llavakit eval list | score | run | compare | submission`: benchmarks, and what models make of them."""

import argparse
from pathlib import Path
from typing import Any

from ..endpoints import flags
from ..processing.box_formats import BOX_FORMATS
from .reading.hub import local_paths


def add_parsers(steps: Any) -> None:
    """Add the steps to the subparsers of `llavakit eval`."""
    steps.add_parser("list", help="the benchmarks, their files and their scores").set_defaults(run=_list)
    _add_score(steps)
    _add_run(steps)

    compare = steps.add_parser("compare", help="two folders of results: paired differences with intervals")
    compare.add_argument("first", metavar="A", help="folder of results, as `run` and `score --output_dir` write it")
    compare.add_argument("second", metavar="B", help="another one of the same task and questions")
    compare.add_argument("-o", "--output", default=None, help="also write the table here (.md)")
    compare.set_defaults(run=_compare)

    submission = steps.add_parser("submission", help="the file that a benchmark's server takes")
    _add_task_and_answers(submission)
    submission.add_argument("-o", "--output", required=True, help="the file")
    submission.set_defaults(run=_submission)


def _add_task_and_answers(parser: Any) -> None:
    parser.add_argument("task", help="a name of `llavakit eval list`")
    parser.add_argument(
        "--annotations",
        nargs="+",
        required=True,
        metavar="PATH",
        help="official files, or folders; or hf://datasets/...",
    )
    parser.add_argument(
        "--answers", nargs="+", required=True, metavar="FILE", help="ours, LLaVA's, or the official form"
    )


def _add_box_format(parser: Any) -> None:
    parser.add_argument(
        "--box_format",
        default=None,
        choices=list(BOX_FORMATS),
        help="how boxes stand in the answers (default: as the checkpoint says that was asked, else llava)",
    )


def _add_score(steps: Any) -> None:
    score = steps.add_parser("score", help="scores of answers that somebody has written to a file")
    _add_task_and_answers(score)
    score.add_argument("-o", "--output", default=None, help="scores as a flat object: name to number (.json)")
    score.add_argument("--output_dir", default=None, help="folder for intervals, table and report as well")
    score.add_argument("--image_folder", default=None, help="where image paths start, for the report's pictures")
    _add_box_format(score)
    score.add_argument("--allow-partial", action="store_true", help="score what is there when answers are missing")
    score.set_defaults(run=_score)


def _add_run(steps: Any) -> None:
    run = steps.add_parser("run", help="ask a model a benchmark; a run that was killed goes on")
    run.add_argument("task", help="a name of `llavakit eval list`")
    run.add_argument(
        "--model", required=True, help="checkpoint (folder or Hub id); with --base_url the server's name for it"
    )
    run.add_argument(
        "--data", nargs="+", required=True, metavar="PATH", help="official files or folders; or hf://datasets/..."
    )
    run.add_argument("-o", "--output_dir", required=True, help="folder of results")
    run.add_argument("--image_folder", default=None, help="where image paths start (default: the data's folder)")
    run.add_argument("--base_url", default=None, help="of an OpenAI-compatible server that has the model")
    run.add_argument("--api_key_env", default="OPENAI_API_KEY", help="variable with the server's key (%(default)s)")
    run.add_argument("--timeout", type=float, default=120.0, help="with --base_url: seconds for a whole answer")
    flags.add_body(run)
    run.add_argument("--batch_size", type=int, default=16, help="questions read, or calls made, at once (%(default)s)")
    run.add_argument("--max_new_tokens", type=int, default=None, help="longest answer (default: the task's)")
    run.add_argument("--limit", type=int, default=None, help="ask about the first so many questions or groups only")
    run.add_argument("--text_only", action="store_true", help="show no images: for a language model, or for its share")
    run.add_argument(
        "--likeliest_choice", action="store_true", help="take the likeliest choice where there are choices, not a text"
    )
    _add_box_format(run)
    run.add_argument("--retry_failed", action="store_true", help="ask again where the generation failed")
    run.add_argument(
        "--allow-partial", action="store_true", help="go on though images are missing: those count as failed"
    )
    run.add_argument("--trust_remote_code", action="store_true", help="allow backbones that ship their own code")
    run.set_defaults(run=_run)


def _list(args: argparse.Namespace) -> int:
    from .tasks import TASKS

    for task in TASKS.values():
        print(f"{task.name}\n    {task.title}: {task.source}\n    reads {task.files}")
        if task.hub:
            print(f"    on the Hub: {task.hub}")
        print(f"    scores: {', '.join(task.columns or (task.main_score,))}")
    return 0


def _score(args: argparse.Namespace) -> int:
    from .metrics.scoring import score, write_scores
    from .results.folder import write_results
    from .tasks import find_task

    task = find_task(args.task)
    task = task.with_boxes(args.box_format) if args.box_format else task
    annotations, answers = local_paths(args.annotations), list(map(Path, args.answers))
    examples = task.read(annotations)
    result = score(task, examples, task.read_answers(answers, examples), args.allow_partial)
    if args.output:
        write_scores(result.scores, args.output)
    if args.output_dir:
        run = {"answers": [str(path) for path in answers], "annotations": [str(path) for path in annotations]}
        write_results(task, result, args.output_dir, run, args.image_folder)
    _print_scores(result.scores)
    return 0


def _run(args: argparse.Namespace) -> int:
    from .judging.judged_task import JudgedTask
    from .results.folder import read_results
    from .run import run_task
    from .tasks import find_task

    task, engine = find_task(args.task), _engine(args)
    result = run_task(
        task,
        engine,
        local_paths(args.data),
        args.output_dir,
        image_folder=args.image_folder,
        limit=args.limit,
        max_new_tokens=args.max_new_tokens,
        text_only=args.text_only,
        likeliest_choice=args.likeliest_choice,
        retry_failed=args.retry_failed,
        allow_partial=args.allow_partial,
        model=args.model,
        box_format=args.box_format,
        training_history=_training_history(engine),
    )
    if result is None:
        judged = isinstance(task, JudgedTask) and task.needs_judge
        next_step = (
            f"`llavakit eval judge {task.name}` has them judged." if judged else "A submission lies beside them."
        )
        print(f"answers -> {args.output_dir}/predictions.jsonl. {next_step}")
    else:
        _print_scores(result.scores)
        if leaks := read_results(args.output_dir).leaks:
            print(leaks["note"])
        print(f"-> {args.output_dir}/report.html")
    return 0


def _training_history(engine: Any) -> list[dict[str, Any]] | None:
    """What a checkpoint says that it was trained on; None of a served model."""
    config = getattr(engine.model, "config", None)  # a server's model is but a name
    if config is None:
        return None
    return (getattr(config, "provenance", None) or {}).get("training_history") or []


def _engine(args: argparse.Namespace) -> Any:
    if args.base_url:
        from ..endpoints.client import api_key_from
        from ..endpoints.options import RequestOptions, parse_extra_body
        from ..inference.server_engine import ServerEngine

        key, token_limit = api_key_from(args.api_key_env, args.base_url), args.token_limit or "max_tokens"
        options = RequestOptions(0.0, token_limit=token_limit, extra_body=parse_extra_body(args.extra_body))
        return ServerEngine(
            args.base_url, args.model, key, concurrency=args.batch_size, timeout=args.timeout, options=options
        )
    if args.extra_body or args.token_limit:
        raise ValueError("--extra_body and --token_limit are for a server: give its --base_url.")
    from ..inference.chat import load_llava
    from ..inference.local_engine import LocalEngine

    return LocalEngine(*load_llava(args.model, args.trust_remote_code), batch_size=args.batch_size)


def _compare(args: argparse.Namespace) -> int:
    from ..rows.files import replacing
    from .results.compare import compare, comparison_table

    table = comparison_table(compare(args.first, args.second))
    if args.output:
        with replacing(args.output) as partial:
            partial.write_text(table, encoding="utf-8")
    print(table, end="")
    return 0


def _submission(args: argparse.Namespace) -> int:
    from .metrics.scoring import check_ids
    from .tasks import find_task

    task = find_task(args.task)
    examples = task.read(local_paths(args.annotations))
    answers = task.read_answers(list(map(Path, args.answers)), examples)
    check_ids(examples, answers)
    task.write_submission(examples, answers, Path(args.output))
    print(f"{len(answers):,} answers -> {args.output}")
    return 0


def _print_scores(scores: dict[str, float]) -> None:
    width = max(map(len, scores))
    for name, value in scores.items():
        print(f"{name:<{width}}  {value:,.2f}" if isinstance(value, float) else f"{name:<{width}}  {value:,}")
