"""Teachers: who answers about each image, and the runs in which they are asked."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ...endpoints.chat_model import ChatModel


@dataclass(frozen=True)
class Teacher:
    """A choice of `--teacher`.

    Args:
        open: The model that the flags of `llavakit data generate` describe, and what else decides its answers, for
            `run.json`.
        help: What it is, in a few words.
        types: Asked for by default. None: the paper's three.
        sees_pictures: It is asked only what the picture goes along with.
        calls: It makes calls that take time and money.
    """

    open: Callable[[argparse.Namespace], tuple[ChatModel, dict[str, Any]]]
    help: str
    types: tuple[str, ...] | None = None
    sees_pictures: bool = False
    calls: bool = True


def _open_client(args: argparse.Namespace) -> tuple[ChatModel, dict[str, Any]]:
    from ...endpoints.flags import client_from

    if args.model is None:
        raise ValueError(f"--teacher {args.teacher} needs --model.")
    client = client_from(args, args.teacher)
    return client, options_settings(client.options) | {"base_url": args.base_url}


def _open_rule(args: argparse.Namespace) -> tuple[ChatModel, dict[str, Any]]:
    from .rule_teacher import RuleTeacher

    return RuleTeacher(args.seed), {}


def options_settings(options: Any) -> dict[str, Any]:
    """What of the options of calls decides the answers, for `run.json`."""
    extra_body = dict(options.extra_body) if options.extra_body else None
    return {"temperature": options.temperature, "top_p": options.top_p, "extra_body": extra_body}


TEACHERS: dict[str, Teacher] = {
    "openai": Teacher(_open_client, "any OpenAI-compatible endpoint, told captions and boxes"),
    "vision": Teacher(
        _open_client, "such an endpoint that is shown the picture", types=("vision_detail",), sees_pictures=True
    ),
    "rule": Teacher(_open_rule, "templates on this machine, without a model", calls=False),
}
