"""OpenAI's chat format: a request as the body of a call, and what comes back as an answer or an error.

One place for both ways to an endpoint: calls (`openai_teacher`) and files (`batch_files`).
"""

import email.utils
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .request import Request
from .teacher import Answer, TeacherError

# An endpoint that speaks of one of these in a 400 would answer every other call in the same way
SHARED_PARAMETERS = ("model", "max_tokens", "max_completion_tokens", "temperature", "top_p", "response_format")
REFUSALS = ("content_policy_violation", "content_filter", "moderation_blocked")
# A longer wait is no overload but a quota that is used up
LONGEST_WAIT = 600.0


@dataclass(frozen=True)
class Sampling:
    """How a teacher draws its answers; what is None is left to the endpoint.

    Args:
        temperature: Of the sampling.
        top_p: Share of probability kept.
        token_limit: The field that limits an answer's length. OpenAI's newer models take `max_completion_tokens`
            alone; older servers know `max_tokens`.
    """

    temperature: float | None = None
    top_p: float | None = None
    token_limit: str = "max_tokens"


def chat_body(request: Request, model: str, sampling: Sampling) -> dict[str, Any]:
    """The JSON body of a call to `/chat/completions`.

    Raises:
        ValueError: The request's picture is missing or of a kind that endpoints do not take.
    """
    body: dict[str, Any] = {"model": model, "messages": request.chat_messages()}
    body[sampling.token_limit] = request.max_tokens
    optional = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "response_format": request.response_format,
    }
    return body | {name: value for name, value in optional.items() if value is not None}


def read_completion(body: Any) -> Answer:
    """A chat completion as an answer.

    Raises:
        TeacherError: It is none; another call may bring one.
    """
    try:
        choice = body["choices"][0]
        message, usage = choice["message"], body.get("usage") or {}
        refusal, text = message.get("refusal"), message.get("content") or ""
        tokens = usage.get("prompt_tokens"), usage.get("completion_tokens")
        finish_reason = "refusal" if refusal else str(choice.get("finish_reason") or "stop")
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise TeacherError("malformed answer: not a chat completion", retry=True, billed=True) from error
    if not isinstance(text, str):
        raise TeacherError("malformed answer: its content is not text", retry=True, billed=True)
    return Answer(refusal or text, finish_reason, *tokens)


def judge(answer: Answer) -> tuple[str, str | None]:
    """Whether an answer can be used.

    Returns:
        The status for the journal, and the reason where it is not `answered`. What `failed` may succeed when asked
        again; what is `refused` would be refused again.
    """
    if answer.finish_reason == "refusal":
        return "refused", f"the teacher refused: {answer.text}"
    if answer.finish_reason == "content_filter":
        return "refused", "the endpoint's content filter stopped the answer"
    if answer.finish_reason == "length":
        return "failed", "truncated: the answer reached the most tokens allowed"
    if not answer.text.strip():
        return "failed", "empty answer"
    return "answered", None


def error_of_status(status: int, body: Any, headers: Mapping[str, str] | None = None) -> TeacherError:
    """What an HTTP status other than success means for the run.

    Args:
        status: The HTTP status.
        body: The JSON that came with it, or text.
        headers: For `Retry-After`.
    """
    detail = body.get("error", body) if isinstance(body, dict) else body
    fields = detail if isinstance(detail, dict) else {"message": detail}
    message = str(fields.get("message") or fields.get("detail") or "no message")[:500]
    code, parameter = str(fields.get("code") or ""), str(fields.get("param") or "")
    reason = f"HTTP {status}: {message}"
    if status in (401, 402, 403, 404) or code == "insufficient_quota":
        return TeacherError(reason, fatal=True)
    if code in REFUSALS:
        return TeacherError(reason, refused=True)
    if status == 400 and (parameter in SHARED_PARAMETERS or code == "model_not_found"):
        return TeacherError(reason, fatal=True)
    if status in (408, 409, 425, 429) or status >= 500:
        wait = retry_after(headers or {})
        if wait is not None and wait > LONGEST_WAIT:
            return TeacherError(f"{reason} (it asks to wait {wait:.0f} s: run again then)", fatal=True)
        return TeacherError(reason, retry=True, retry_after=wait)
    return TeacherError(reason)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a response asks to wait: `retry-after-ms`, or `Retry-After` as seconds or as a date (RFC 9110)."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        value = headers.get(name)
        if value is None:
            continue
        try:
            return max(0.0, float(value) * unit)
        except ValueError:
            pass
        try:
            return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
        except ValueError:
            continue
    return None
