"""`llavakit data estimate | generate | write-batch | read-batch`: from contexts to a teacher's answers."""

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ...endpoints.chat_format import Sampling
    from ...endpoints.prices import Price
    from ...endpoints.teacher import Teacher

TEACHERS = ("openai", "vision", "rule")


def add_parsers(steps: Any) -> None:
    estimate = steps.add_parser("estimate", help="calls, tokens and dollars of a run, before anything is sent")
    _add_what(estimate)
    estimate.add_argument("--model", required=True, help="the teacher's model")
    _add_price(estimate)
    estimate.set_defaults(run=_estimate)

    generate = steps.add_parser("generate", help="ask a teacher about every context; run again to go on")
    _add_what(generate)
    _add_teacher(generate)
    _add_price(generate)
    _add_limits(generate)
    generate.set_defaults(run=_generate)

    write = steps.add_parser("write-batch", help="requests as files for a batch API or `vllm run-batch`")
    _add_what(write)
    write.add_argument("--model", required=True, help="the teacher's model, as in the files' bodies")
    _add_sampling(write)
    _add_price(write)
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
    parser.add_argument("--types", default="conversation,detail,reasoning", help="default: %(default)s")
    parser.add_argument("--prompts", default=None, metavar="DIR", help="prompts of your own (`llavakit data prompts`)")
    parser.add_argument("--seed", type=int, default=0, help="draws the questions")


def _add_teacher(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--teacher", default="openai", choices=TEACHERS, help="vision: the picture goes along")
    parser.add_argument("--model", default=None, help="the teacher's model")
    parser.add_argument("--base_url", default=None, help="of an OpenAI-compatible endpoint (default: OpenAI's)")
    parser.add_argument("--api_key_env", default="OPENAI_API_KEY", help="environment variable with the API key")
    parser.add_argument("--image_folder", default=None, help="where image paths start, for --teacher vision")
    _add_sampling(parser)
    parser.add_argument("-o", "--output", required=True, metavar="RUN", help="folder of the run, new or begun")


def _add_sampling(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--temperature", type=float, default=None, help="default: the endpoint's")
    parser.add_argument("--top_p", type=float, default=None, help="default: the endpoint's")
    parser.add_argument(
        "--token_limit",
        default=None,
        choices=("max_tokens", "max_completion_tokens"),
        help="the field that limits an answer's length (default: max_tokens for a --base_url, else "
        "max_completion_tokens, as OpenAI's newer models want it)",
    )


def _add_price(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--input_price", type=float, default=None, help="dollars for a million tokens read")
    parser.add_argument("--output_price", type=float, default=None, help="dollars for a million tokens written")
    parser.add_argument("--image_tokens", type=int, default=None, help="tokens of a picture, at most")


def _add_limits(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--concurrency", type=int, default=64, help="most calls at once (default: %(default)s)")
    parser.add_argument("--rpm", type=float, default=None, help="most calls in a minute")
    parser.add_argument("--tpm", type=float, default=None, help="most tokens in a minute, read and written")
    parser.add_argument(
        "--timeout", type=float, default=120.0, help="seconds for a whole answer (default: %(default)s)"
    )
    parser.add_argument("--attempts", type=int, default=6, help="most calls for one answer (default: %(default)s)")
    parser.add_argument("--first_wait", type=float, default=0.5, help="seconds before a second attempt; then doubled")
    parser.add_argument(
        "--failures_in_a_row", type=int, default=20, help="stop when so many keys in a row fail (default: %(default)s)"
    )
    parser.add_argument("--budget", type=float, default=None, help="stop at so many dollars; a larger one goes on")
    parser.add_argument("--retry_failed", action="store_true", help="ask again for what failed in an earlier run")


def _types(args: argparse.Namespace) -> list[str]:
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
    from ...endpoints.limits import Limits
    from .generate import generate

    teacher, settings = _teacher(args)
    limits = Limits(
        args.concurrency, args.rpm, args.tpm, args.attempts, args.first_wait, args.failures_in_a_row, args.budget
    )
    summary = generate(
        args.contexts,
        args.output,
        teacher,
        _types(args),
        seed=args.seed,
        prompt_folder=args.prompts,
        image_folder=args.image_folder,
        settings=settings,
        price=_price(args),
        limits=limits,
        retry_failed=args.retry_failed,
        show_progress=True,
    )
    print(f"{summary} -> {args.output}")
    if summary.left:
        print(f"The budget of {args.budget:g} dollars is reached; the same command with a larger --budget goes on.")
    return 0


def _teacher(args: argparse.Namespace) -> "tuple[Teacher, dict[str, Any]]":
    """The teacher, and what else decides its answers."""
    if args.teacher == "rule":
        from .rule_teacher import RuleTeacher

        return RuleTeacher(args.seed), {}
    from ...endpoints.openai_teacher import OpenAITeacher, api_key_from

    if args.model is None:
        raise ValueError(f"--teacher {args.teacher} needs --model.")
    key, sampling = api_key_from(args.api_key_env, args.base_url), _sampling(args, args.base_url)
    teacher = OpenAITeacher(args.model, args.base_url, key, sampling, args.timeout, args.teacher)
    return teacher, _settings(sampling) | {"base_url": args.base_url}


def _sampling(args: argparse.Namespace, base_url: str | None = None) -> "Sampling":
    from ...endpoints.chat_format import Sampling

    token_limit = args.token_limit or ("max_tokens" if base_url else "max_completion_tokens")
    return Sampling(args.temperature, args.top_p, token_limit)


def _settings(sampling: "Sampling") -> dict[str, Any]:
    return {"temperature": sampling.temperature, "top_p": sampling.top_p}


def _price(args: argparse.Namespace) -> "Price | None":
    """The price, or None for a model that is not listed where nobody asks what it costs."""
    from ...endpoints.prices import FREE, find_price, shipped_prices

    if getattr(args, "teacher", None) == "rule":
        return FREE
    asked = (getattr(args, "budget", None), args.input_price, args.output_price)
    if asked == (None, None, None) and args.model not in shipped_prices()["dollars_per_million_tokens"]:
        return None
    return find_price(args.model, args.input_price, args.output_price, args.image_tokens)


def _write_batch(args: argparse.Namespace) -> int:
    from ...endpoints.prices import shipped_prices
    from ..prompts.prompt import load_prompt
    from .batch_files import write_batch
    from .run_folder import open_run

    prompts = [load_prompt(type, args.prompts) for type in _types(args)]
    sampling, price = _sampling(args), _price(args)
    factor = shipped_prices()["batch_factor"] if args.input_price is None else 1.0
    settings = {
        "teacher": "vision" if any("image" in prompt.sees for prompt in prompts) else "openai",
        "model": args.model,
        "seed": args.seed,
        **_settings(sampling),
        "base_url": None,
        "input_price": price.input * factor if price else None,
        "output_price": price.output * factor if price else None,
    }
    run = open_run(args.contexts, args.output, prompts, settings, args.prompts, args.image_folder)
    files = write_batch(run, sampling, args.retry_failed, args.max_lines, args.max_bytes)
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
