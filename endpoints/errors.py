"""What an endpoint's errors mean: whose fault one is, whether another call may help, and what to do.

A status is read with its body. The same numbers say different things: 403 is a key without access, and one flagged input;
400 is a parameter that the model never takes, and one picture too large.
"""

import email.utils
import re
import time
from collections.abc import Mapping
from typing import Any

from .chat_model import CallError

# An endpoint that speaks of one of these in a 400 would answer every other call in the same way
SHARED_PARAMETERS = frozenset(
    "model max_tokens max_completion_tokens temperature top_p response_format logprobs top_logprobs n stop".split()
)
UNSUPPORTED = re.compile(
    r"(unsupported|unrecognized|unknown|unexpected|extra|not supported|not permitted)\b.{0,60}\b(parameter|argument|field"
    r"|input)|(parameter|argument|field)\b.{0,60}\b(unsupported|not supported|unknown)|max_completion_tokens",
    re.IGNORECASE | re.DOTALL,
)
TOO_LONG = re.compile(r"context.?(length|window)|too (long|many tokens)|maximum (context|length)", re.IGNORECASE)
OTHER_LIMIT = re.compile(r"max_completion_tokens|(unsupported|not supported).{0,80}max_tokens", re.IGNORECASE)

REFUSAL_CODES = frozenset(
    "content_policy_violation content_filter content_filtered moderation_blocked responsibleaipolicyviolation "
    "data_inspection_failed datainspectionfailed sensitive_content safety".split()
)
# Words about one input that was flagged (OpenRouter, Azure, DeepSeek, DashScope, ...)
FLAGGED = re.compile(
    r"moderat|content.?(policy|filter|management|safety|exists risk)|data.?inspection|responsible.?ai|usage polic"
    r"|safety (system|filter|polic|check|guideline)"
    r"|\b(input|prompt|content|image|picture|text|message|request|query)\b.{0,80}"
    r"\b(flagged|inappropriate|sensitive|harmful|unsafe|violat\w*|prohibited)\b"
    r"|\b(flagged|inappropriate|sensitive|harmful|unsafe|prohibited)\b.{0,60}"
    r"\b(input|prompt|content|image|picture|text|message|query)\b",
    re.IGNORECASE | re.DOTALL,
)
# Words about who asks: these are never one input's
ACCOUNT = re.compile(
    r"\b(account|organi[sz]ation|workspace|api.?key|billing|credits?|balance|subscription|suspended|deactivated|country"
    r"|region|territory)\b",
    re.IGNORECASE,
)
NO_MONEY = frozenset("insufficient_quota billing_hard_limit_reached billing_not_active insufficient_balance".split())
# What an error's code or type means as a status, where a success carries it
STATUSES = {
    **dict.fromkeys(("rate_limit_exceeded", "rate_limit_error", "too_many_requests", "insufficient_quota"), 429),
    **dict.fromkeys(("invalid_api_key", "authentication_error", "unauthorized", "unauthenticated"), 401),
    **dict.fromkeys(("permission_error", "permission_denied", "forbidden"), 403),
    **dict.fromkeys(("model_not_found", "not_found_error", "not_found"), 404),
    **dict.fromkeys(("invalid_request_error", "badrequesterror", "bad_request", "context_length_exceeded"), 400),
    **dict.fromkeys(
        ("server_error", "internal_error", "internal_server_error", "api_error", "internalservererror"), 500
    ),
    **dict.fromkeys(("overloaded_error", "service_unavailable", "unavailable"), 503),
}
OVERLOADED = (503, 504, 529)
# A longer wait is no overload but a quota that is used up
LONGEST_WAIT = 600.0


def error_of_status(status: int, body: Any, headers: Mapping[str, str] | None = None) -> CallError:
    """What an HTTP status other than success means for the run.

    Args:
        status: The HTTP status.
        body: The JSON that came with it, or text.
        headers: For `Retry-After` and `Location`.
    """
    return _error(status, body, headers or {}, f"HTTP {status}")


def error_in_body(body: Any) -> CallError | None:
    """The error that a success carries, in the place of an answer or within its choice; None where there is none.

    It means what its code would have meant as a status, and nothing was paid for it.
    """
    if not isinstance(body, Mapping):
        return None
    choices = body.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    within = choice.get("error") if isinstance(choice, Mapping) else None
    if body.get("error"):
        error = body["error"]
    elif within:
        error = within
    elif choice is None and (body.get("object") == "error" or body.get("detail") or body.get("message")):
        error = body
    else:
        return None
    named = [error.get(name) for name in ("code", "status", "type")] if isinstance(error, Mapping) else []
    status = next(filter(None, map(_status_of, named)), 500)
    return _error(status, {"error": error}, {}, f"an error within a success, as of HTTP {status}")


def _status_of(code: Any) -> int | None:
    if isinstance(code, str):
        code = int(code) if code.isdecimal() else STATUSES.get(code.lower())
    return code if isinstance(code, int) and 400 <= code < 600 else None


def _error(status: int, body: Any, headers: Mapping[str, str], what: str) -> CallError:
    fields = _fields(body)
    message = _message(fields)
    codes = {str(fields.get(name) or "").lower() for name in ("code", "type", "innererror_code")}
    reason = f"{what}: {message}"
    if 300 <= status < 400:
        return redirected(headers.get("location") or "an unknown address", status)
    if codes & NO_MONEY:
        return CallError(reason, fatal=True)
    if codes & REFUSAL_CODES or fields.get("flagged") or _is_flagged(status, message):
        return CallError(reason, refused=True)
    if status in (401, 402):
        return CallError(reason, fatal=True)
    if status in (403, 404):
        return CallError(reason, doubtful=True)
    if status in (400, 422):
        return _bad_request(reason, message, codes, str(fields.get("param") or ""))
    if status in (408, 409, 425, 429) or status >= 500:
        wait = retry_after(headers)
        if wait is not None and wait > LONGEST_WAIT:
            return CallError(f"{reason} (it asks to wait {wait:.0f} s: run again then)", fatal=True)
        overloaded = status in OVERLOADED or (status == 429 and wait is None)
        return CallError(reason, retry=True, retry_after=wait, overloaded=overloaded)
    return CallError(reason)


def _bad_request(reason: str, message: str, codes: set[str], parameter: str) -> CallError:
    if "context_length_exceeded" in codes or TOO_LONG.search(message):
        return CallError(reason)
    if OTHER_LIMIT.search(message):
        reason = f"{reason} (choose the other field with --token_limit: max_tokens or max_completion_tokens)"
    shared = parameter in SHARED_PARAMETERS or "model_not_found" in codes or UNSUPPORTED.search(message) is not None
    return CallError(reason, doubtful=shared)


def _is_flagged(status: int, message: str) -> bool:
    if status not in (400, 403, 422, 451) or ACCOUNT.search(message):
        return False
    return FLAGGED.search(message) is not None


def redirected(location: str, status: int) -> CallError:
    """The error of an endpoint that sends its callers elsewhere, with their prompts, pictures and keys."""
    return CallError(
        f"HTTP {status}: the endpoint redirects to {location}, and calls with prompts and pictures do not follow to another "
        "address. If you trust it, name it with --base_url.",
        fatal=True,
    )


def _fields(body: Any) -> dict[str, Any]:
    """What an error's body says, in one form for all endpoints."""
    detail = body.get("error") or body if isinstance(body, Mapping) else body
    fields = dict(detail) if isinstance(detail, Mapping) else {"message": detail}
    metadata, inner = fields.get("metadata"), fields.get("innererror")
    if isinstance(metadata, Mapping) and (metadata.get("reasons") or metadata.get("flagged_input")):
        fields["flagged"] = True  # OpenRouter
    if isinstance(inner, Mapping):
        fields["innererror_code"] = inner.get("code")  # Azure
    return fields


def _message(fields: Mapping[str, Any]) -> str:
    message = fields.get("message") or fields.get("detail") or fields.get("msg") or "no message"
    return str(message)[:500]


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
