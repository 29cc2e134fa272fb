"""How a model is asked: a request as the body of a call to `/chat/completions`."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .request import Request

TOKEN_LIMITS = ("max_tokens", "max_completion_tokens")
# Of the body, what is not an option: who is asked, what, and how the answer comes back
FIXED = ("model", "messages", "stream", "n")


@dataclass(frozen=True)
class RequestOptions:
    """How a model draws its answers; what is None is left to the endpoint.

    Args:
        temperature: Of the sampling.
        top_p: Share of probability kept.
        token_limit: The field that limits an answer's length. OpenAI's newer models take `max_completion_tokens`
            alone; older servers know `max_tokens`.
        extra_body: Further fields of the body, for what an endpoint takes beyond OpenAI's format: vLLM's
            `{"chat_template_kwargs": {"enable_thinking": false}}`, for example.

    Raises:
        ValueError: An unknown `token_limit`, or an extra field that is not the user's to set.
    """

    temperature: float | None = None
    top_p: float | None = None
    token_limit: str = "max_tokens"
    extra_body: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.token_limit not in TOKEN_LIMITS:
            raise ValueError(f"--token_limit {self.token_limit!r} is unknown; choose one of {TOKEN_LIMITS}.")
        taken = [name for name in self.extra_body or {} if name in (*FIXED, *TOKEN_LIMITS)]
        if taken:
            raise ValueError(f"--extra_body has {taken[0]!r}, which is set already. Leave it out.")


def parse_extra_body(text: str | None) -> dict[str, Any] | None:
    """The value of `--extra_body`.

    Raises:
        ValueError: It is no JSON object.
    """
    if text is None:
        return None
    try:
        fields = json.loads(text)
    except ValueError as error:
        raise ValueError(
            f"--extra_body {text!r} is not JSON ({error}). Put it in single quotes in a shell."
        ) from error
    if not isinstance(fields, dict):
        raise ValueError(f"--extra_body {text!r} must be a JSON object, {{...}}.")
    return fields


def chat_body(request: Request, model: str, options: RequestOptions) -> dict[str, Any]:
    """The JSON body of a call.

    Raises:
        ValueError: The request's picture is missing, or none.
    """
    body: dict[str, Any] = {"model": model, "messages": request.chat_messages()}
    body[options.token_limit] = request.max_tokens
    optional = {
        "temperature": options.temperature,
        "top_p": options.top_p,
        "response_format": request.response_format,
    }
    body |= {name: value for name, value in optional.items() if value is not None}
    return {**body, **(request.fields or {}), **(options.extra_body or {})}
