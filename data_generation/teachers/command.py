"""`llavakit data estimate | generate | write-batch | read-batch`: from contexts to a teacher's answers."""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ...endpoints import flags
from ...rows.registry import look_up
from ..prompts import DATA_TYPES, TYPES
from . import TEACHERS, options_settings

if TYPE_CHECKING:
    from ...endpoints.prices import Price


def add_parsers(steps: Any) -> None:
    estimate = steps.add_parser("estimate", help="calls, tokens and dollars of a run, before anything is sent")
    _add_what(estimate)
    estimate.add_argument("--model", required=True, help="the teacher's model")
    flags.add_price(estimate)
    estimate.set_defaults(run=_estimate)

    generate = steps.add_parser("generate", help="ask a teacher about every context; run again to go on")
    _add_what(generate)
    _add_teacher(generate)
    flags.add_price(generate)
    flags.add_limits(generate, concurrency=64)
    generate.add_argument(
        "--limit", type=int, default=None, help="ask about the first so many contexts; without it, later, the rest"
    )
    generate.add_argument("--dry_run", action="store_true", help="show one whole request and its price; send nothing")
    generate.add_argument("--retry_failed", action="store_true", help="ask again for what failed in an earlier run")
    generate.set_defaults(run=_generate)

    write = steps.add_parser("write-batch", help="requests as files for a batch API or `vllm run-batch`")
    _add_what(write)
    write.add_argument("--model", required=True, help="the teacher's model, as in the files' bodies")
    flags.add_sampling(write)
    flags.add_body(write)
    flags.add_price(write)
    write.add_argument("--image_folder", default=None, help="where image paths start, for a teacher that sees them")
    write.add_argument("--max_lines", type=int, default=50_000, help="requests in a file (default: %(default)s)")
    write.add_argument("--max_bytes", type=int, default=200_000_000, help="bytes in a file (default: %(default)s)")
    write.add_argument("--retry_failed", action="store_true", help="ask again for what failed")
    write.add_argument("-o", "--output", required=True, metavar="RUN", help="folder of the run, new or begun")
    write.set_defaults(run=_write_batch)

    read = steps.add_parser("read-batch", help="answers of a batch into the journal of its run")
    read.add_argument("answers", nargs="+", metavar="FILE", help="output and error files of the batch")
    read.add_argument("-o", "--output", required=True, metavar="RUN", help="folder of the run that wrote the batch")
    read.set_defaults(run=_read_batch)


def _add_what(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("contexts", help="file of contexts (`llavakit data contexts` writes one)")
    parser.add_argument(
        "--types",
        default=None,
        help=f"of {', '.join(DATA_TYPES)} (default: {','.join(TYPES)}, and vision_detail for --teacher vision)",
    )
    parser.add_argument("--prompts", default=None, metavar="DIR", help="prompts of your own (`llavakit data prompts`)")
    parser.add_argument("--seed", type=int, default=0, help="draws the questions")


def _add_teacher(parser: argparse.ArgumentParser) -> None:
    kinds = "; ".join(f"{name}: {kind.help}" for name, kind in TEACHERS.items())
    parser.add_argument("--teacher", default="openai", choices=TEACHERS, help=f"{kinds} (default: %(default)s)")
    parser.add_argument("--model", default=None, help="the teacher's model")
    flags.add_endpoint(parser)
    parser.add_argument("--image_folder", default=None, help="where image paths start, for --teacher vision")
    flags.add_sampling(parser)
    flags.add_body(parser)
    parser.add_argument("-o", "--output", required=True, metavar="RUN", help="folder of the run, new or begun")


def _types(args: argparse.Namespace, default: Sequence[str] | None = None) -> list[str]:
    if args.types is None:
        return list(default or TYPES)
    types = [name.strip() for name in args.types.split(",") if name.strip()]
    if not types or len(set(types)) < len(types):
        raise ValueError(f"--types is {args.types!r}; name one or more, each once.")
    return types


def _estimate(args: argparse.Namespace) -> int:
    from ...endpoints.prices import find_price, shipped_prices
    from ..contexts.schema import read_contexts
    from ..prompts.prompt import load_prompt
    from .estimate import estimate, show_estimate

    price = find_price(args.model, args.input_price, args.output_price, args.image_tokens)
    prompts = [load_prompt(type, args.prompts) for type in _types(args)]
    show_estimate(estimate(read_contexts(args.contexts), prompts, price, args.seed), price)
    print("'at most': every answer as long as the prompt allows. Calls that must be repeated come on top.")
    if args.input_price is None:
        prices = shipped_prices()
        print(
            f"Prices as of {prices['as_of']} ({prices['source']}); give --input_price and --output_price where they "
            f"have changed. A batch (write-batch) costs {prices['batch_factor']:.0%} of this."
        )
    return 0


def _generate(args: argparse.Namespace) -> int:
    from .generate import generate

    kind = look_up(TEACHERS, args.teacher, "--teacher")
    types = _types(args, kind.types)
    if kind.sees_pictures:
        _check_that_pictures_go_along(args, types)
    if args.dry_run:
        return _dry_run(args, types)
    teacher, settings = kind.open(args)
    summary = generate(
        args.contexts,
        args.output,
        teacher,
        types,
        seed=args.seed,
        prompt_folder=args.prompts,
        image_folder=args.image_folder,
        settings=settings,
        price=_price(args),
        limits=flags.limits_from(args),
        limit=args.limit,
        retry_failed=args.retry_failed,
        show_progress=True,
    )
    print(f"{summary} -> {args.output}")
    if summary.failure:
        print(f"The last that failed: {summary.failure}. --retry_failed asks again for what failed.")
    if summary.failure and not summary.counts.get("answered"):
        return 1
    if summary.left and summary.budget_reached:
        print(f"The budget of {args.budget:g} dollars is reached; the same command with a larger --budget goes on.")
    elif summary.left:
        print(f"The first {args.limit:,} contexts are asked about; the same command without --limit goes on.")
    return 0


def _check_that_pictures_go_along(args: argparse.Namespace, types: list[str]) -> None:
    """Nobody should pay for answers about pictures that the teacher was never shown."""
    from ..prompts.prompt import load_prompt

    prompts = {type: load_prompt(type, args.prompts) for type in types}
    blind = [type for type, prompt in prompts.items() if "image" not in prompt.sees]
    if blind:
        raise ValueError(
            f"--teacher {args.teacher} is shown the picture, and the prompts of {', '.join(blind)} show captions and boxes "
            "alone. Choose --types vision_detail, or ask for those types with --teacher openai; or let prompts of your own "
            "(--prompts) show it: 'image' under 'sees' in prompt.json."
        )


def _dry_run(args: argparse.Namespace, types: list[str]) -> int:
    """Show one whole request and what it costs."""
    from ...endpoints.prices import prompt_tokens
    from ..contexts.schema import read_contexts
    from ..prompts.prompt import load_prompt
    from .dry_run import first_request, show_body

    if not TEACHERS[args.teacher].calls:
        raise ValueError(f"--dry_run shows a call, and --teacher {args.teacher} makes none: leave it out.")
    if args.model is None:
        raise ValueError(f"--teacher {args.teacher} needs --model.")
    prompts = [load_prompt(type, args.prompts) for type in types]
    pictures = (args.image_folder or "") if any("image" in prompt.sees for prompt in prompts) else None
    request = first_request(read_contexts(args.contexts, pictures), prompts, args.seed, args.image_folder)
    print(show_body(request, args.model, flags.options_from(args)))
    price = _price(args)
    if price is None:
        print(f"No price is known for {args.model!r}: give --input_price and --output_price to see what this costs.")
    else:
        read, most = prompt_tokens(request, price), request.max_tokens
        print(
            f"About {read:,} tokens read and at most {most:,} written: {price.dollars(read, most):,.6f} dollars at most. "
            "`llavakit data estimate` counts the whole run. Nothing was sent."
        )
    return 0


def _price(args: argparse.Namespace) -> "Price | None":
    """The price, or None for a model that is not listed where nobody asks what it costs."""
    from ...endpoints.prices import FREE

    teacher = getattr(args, "teacher", None)
    return FREE if teacher is not None and not TEACHERS[teacher].calls else flags.price_from(args)


def _write_batch(args: argparse.Namespace) -> int:
    from ...endpoints.prices import shipped_prices
    from ..prompts.prompt import load_prompt
    from .batch_files import write_batch
    from .run_folder import open_run

    prompts = [load_prompt(type, args.prompts) for type in _types(args)]
    options, price = flags.options_from(args), _price(args)
    factor = shipped_prices()["batch_factor"] if args.input_price is None else 1.0
    settings = {
        "teacher": "vision" if any("image" in prompt.sees for prompt in prompts) else "openai",
        "model": args.model,
        "seed": args.seed,
        **options_settings(options),
        "base_url": None,
        "input_price": price.input * factor if price else None,
        "output_price": price.output * factor if price else None,
    }
    run = open_run(args.contexts, args.output, prompts, settings, args.prompts, args.image_folder)
    files = write_batch(run, options, args.retry_failed, args.max_lines, args.max_bytes)
    for file in files:
        print(f"{file.requests:,} requests -> {file.path}")
    if not files:
        print("nothing is left to ask")
    return 0


def _read_batch(args: argparse.Namespace) -> int:
    from ...endpoints.prices import Price
    from .batch_files import read_batch
    from .run_folder import load_run

    run = load_run(args.output)
    prices = run.settings["input_price"], run.settings["output_price"]
    summary = read_batch(run, args.answers, None if None in prices else Price(*prices))
    print(f"{summary} -> {args.output}")
    return 0
