"""The flags of every command that asks an endpoint: which one, how, how fast, and for how much."""

import argparse
from typing import Any

from .client import OpenAIClient, api_key_from
from .limits import Limits
from .options import TOKEN_LIMITS, RequestOptions, parse_extra_body
from .prices import Price, find_price, shipped_prices


def add_endpoint(parser: Any) -> None:
    """Which endpoint is asked."""
    parser.add_argument("--base_url", default=None, help="of an OpenAI-compatible endpoint (default: OpenAI's)")
    parser.add_argument("--api_key_env", default="OPENAI_API_KEY", help="environment variable with the API key")


def add_sampling(parser: Any, temperature: str = "the endpoint's") -> None:
    """How answers are drawn.

    Args:
        parser: Of the command.
        temperature: The default, in words.
    """
    parser.add_argument("--temperature", type=float, default=None, help=f"default: {temperature}")
    parser.add_argument("--top_p", type=float, default=None, help="default: the endpoint's")


def add_body(parser: Any) -> None:
    """What differs from endpoint to endpoint in the body of a call."""
    parser.add_argument(
        "--token_limit",
        default=None,
        choices=TOKEN_LIMITS,
        help="the field that limits an answer's length (default: max_tokens for a --base_url, else "
        "max_completion_tokens, as OpenAI's newer models want it)",
    )
    parser.add_argument(
        "--extra_body",
        default=None,
        metavar="JSON",
        help='further fields of each call, \'{"chat_template_kwargs": {"enable_thinking": false}}\' for example',
    )


def add_price(parser: Any) -> None:
    """What the model costs."""
    parser.add_argument("--input_price", type=float, default=None, help="dollars for a million tokens read")
    parser.add_argument("--output_price", type=float, default=None, help="dollars for a million tokens written")
    parser.add_argument("--image_tokens", type=int, default=None, help="tokens of a picture, at most")


def add_limits(parser: Any, concurrency: int, what: str = "answer") -> None:
    """How fast, how often and for how much is asked.

    Args:
        parser: Of the command.
        concurrency: The default.
        what: That is asked for, in help.
    """
    parser.add_argument(
        "--concurrency", type=int, default=concurrency, help="most calls at once (default: %(default)s)"
    )
    parser.add_argument("--rpm", type=float, default=None, help="most calls in a minute")
    parser.add_argument("--tpm", type=float, default=None, help="most tokens in a minute, read and written")
    parser.add_argument(
        "--timeout",
        type=float,
        default=120.0,
        help=f"seconds for a whole {what}, or without any while calls wait their turn (default: %(default)s)",
    )
    parser.add_argument("--attempts", type=int, default=6, help=f"most calls for one {what} (default: %(default)s)")
    parser.add_argument("--first_wait", type=float, default=0.5, help="seconds before a second attempt; then doubled")
    parser.add_argument(
        "--failures_in_a_row", type=int, default=20, help="stop when so many in a row fail (default: %(default)s)"
    )
    parser.add_argument("--budget", type=float, default=None, help="stop at so many dollars; a larger one goes on")


def options_from(args: argparse.Namespace, temperature: float | None = None) -> RequestOptions:
    """How a model is asked.

    Args:
        args: With the flags of `add_sampling` and `add_body`.
        temperature: Where the flags name none.

    Raises:
        ValueError: `--extra_body` is no JSON object.
    """
    token_limit = args.token_limit or ("max_tokens" if getattr(args, "base_url", None) else "max_completion_tokens")
    chosen = temperature if args.temperature is None else args.temperature
    return RequestOptions(chosen, args.top_p, token_limit, parse_extra_body(args.extra_body))


def client_from(args: argparse.Namespace, name: str, temperature: float | None = None) -> OpenAIClient:
    """The client that the flags describe.

    Raises:
        ValueError: No API key, or see `options_from`.
    """
    key = api_key_from(args.api_key_env, args.base_url)
    return OpenAIClient(args.model, args.base_url, key, options_from(args, temperature), args.timeout, name)


def price_from(args: argparse.Namespace) -> Price | None:
    """The price, or None for a model that is not listed where nobody asks what it costs.

    Raises:
        ValueError: It is asked for, and not known.
    """
    asked = (getattr(args, "budget", None), args.input_price, args.output_price)
    if asked == (None, None, None) and args.model not in shipped_prices()["dollars_per_million_tokens"]:
        return None
    return find_price(args.model, args.input_price, args.output_price, args.image_tokens)


def limits_from(args: argparse.Namespace) -> Limits:
    """The limits that the flags of `add_limits` describe."""
    return Limits(
        args.concurrency, args.rpm, args.tpm, args.attempts, args.first_wait, args.failures_in_a_row, args.budget
    )
