"""The one reader of a model's answer: what came back from an endpoint, and whether it can be used.

Errors, refusals, reasoning and cut answers are told apart here, for calls, batch files, judges and served models alike.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from .chat_model import CallError, Completion
from .errors import error_in_body
from .reasoning import split_reasoning

# What endpoints say of an answer that the model ended itself; any other word is no answer
GOOD = frozenset({"stop", "eos", "eos_token", "end_turn", "stop_sequence"})
CUT = frozenset({"length", "max_tokens", "max_output_tokens", "model_length"})
FILTERED = frozenset(
    "content_filter content_filtered safety recitation blocklist prohibited_content spii sensitive image_safety "
    "guardrail_intervened".split()
)
# The provider died in the middle: another call may succeed
BROKEN = frozenset(
    "error network_error insufficient_system_resource abort aborted overloaded timeout cancelled".split()
)

NO_THINKING = (
    """--extra_body '{"chat_template_kwargs": {"enable_thinking": false}}' switches it off at vLLM and SGLang"""
)
REASONING_FIELDS = ("reasoning_content", "reasoning", "reasoning_details", "thinking")
REASONING_PARTS = ("reasoning", "reasoning_content", "thinking", "redacted_thinking")
TEXT_PARTS = ("text", "output_text")


class Outcome(Enum):
    """What an answer is.

    `CUT` reached the most tokens allowed, `EMPTY` has nothing in it, `REASONED_AWAY` has reasoning alone, `UNUSABLE`
    ended for a reason that is none of the good ones, or is nothing that whoever asked can read.
    """

    ANSWERED = "answered"
    REFUSED = "refused"
    CUT = "cut"
    EMPTY = "empty"
    REASONED_AWAY = "reasoned away"
    UNUSABLE = "unusable"


class Again(Enum):
    """Whether to ask again: not at all, as before, or once more with room for a longer answer."""

    NO = "no"
    SAME = "same"
    LONGER = "longer"


@dataclass(frozen=True)
class Reading:
    """An answer as it was read.

    Attributes:
        outcome: What it is.
        text: The answer without reasoning; that of a refusal, or of an answer that was cut, too.
        reason: Why it cannot be used; None where it can.
        again: Whether another call may bring a better one.
    """

    outcome: Outcome
    text: str
    reason: str | None = None
    again: Again = Again.NO

    @property
    def status(self) -> str:
        """For the journal: `answered`, `refused`, or `failed`, which may succeed when asked again."""
        return self.outcome.value if self.outcome in (Outcome.ANSWERED, Outcome.REFUSED) else "failed"


def read_completion(completion: Completion) -> Reading:
    """Whether an answer can be used, and what of it."""
    ended = completion.finish_reason.casefold()
    if ended == "refusal":
        return Reading(Outcome.REFUSED, completion.text or "", f"the teacher refused: {completion.text}")
    if ended in FILTERED:
        return Reading(Outcome.REFUSED, completion.text or "", "the endpoint's content filter stopped the answer")
    reasoning, text = split_reasoning(completion.text or "")
    text, reasoned = text.strip(), bool(reasoning.strip() or completion.reasoning.strip())
    if ended in BROKEN:
        return Reading(Outcome.UNUSABLE, text, _unfinished(completion.finish_reason), Again.SAME)
    if ended in CUT:
        return _cut(text, reasoned)
    if ended not in GOOD:
        return Reading(Outcome.UNUSABLE, text, _unfinished(completion.finish_reason))
    if text:
        return Reading(Outcome.ANSWERED, text)
    if reasoned:
        reason = f"no answer: all that the model wrote is reasoning. Switch its reasoning off: {NO_THINKING}"
        return Reading(Outcome.REASONED_AWAY, "", reason)
    return Reading(Outcome.EMPTY, "", "empty answer: the endpoint answered without text", Again.SAME)


def _cut(text: str, reasoned: bool) -> Reading:
    if text or not reasoned:
        return Reading(Outcome.CUT, text, "truncated: the answer reached the most tokens allowed", Again.LONGER)
    reason = (
        "truncated: reasoning used up the most tokens allowed, and no answer came. Allow more (max_tokens in a type's "
        f"prompt.json, --max_new_tokens of `eval run`), or switch reasoning off: {NO_THINKING}"
    )
    return Reading(Outcome.REASONED_AWAY, "", reason)


def _unfinished(finish_reason: str) -> str:
    if not finish_reason:
        return "unfinished: the endpoint does not say why the answer ended (it has no finish_reason)"
    return f"unfinished: the answer ended with finish_reason {finish_reason!r}, and not with 'stop'"


def parse_completion(body: Any) -> Completion:
    """The JSON of a chat completion.

    Raises:
        CallError: It is none. An error within a success means what its code would have meant as a status.
    """
    if (error := error_in_body(body)) is not None:
        raise error
    try:
        choice = body["choices"][0]
        message, usage = choice["message"], body.get("usage") or {}
        refusal, content = message.get("refusal"), message.get("content")
        tokens = usage.get("prompt_tokens"), usage.get("completion_tokens")
        finish_reason = str(choice.get("finish_reason") or "")
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise CallError("malformed answer: not a chat completion", retry=True, billed=True) from error
    text, reasoning, declined = _parts(content)
    reasoning += "".join(_told(message.get(field)) for field in REASONING_FIELDS)
    refusal = refusal or declined
    if refusal:
        return Completion(str(refusal), "refusal", *tokens, reasoning)
    return Completion(text, finish_reason, *tokens, reasoning, _first_token(choice))


def _parts(content: Any) -> tuple[str | None, str, str]:
    """Text, reasoning and refusal of a message's content, which is text or a list of parts.

    Raises:
        CallError: It is neither.
    """
    if content is None or isinstance(content, str):
        return content, "", ""
    if not isinstance(content, list):
        raise CallError("malformed answer: its content is not text", retry=True, billed=True)
    texts, reasoning, refusal = [], "", ""
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if isinstance(part, str):
            texts.append(part)
        elif kind in REASONING_PARTS:
            reasoning += _told(part)
        elif kind == "refusal":
            refusal += _told(part)
        elif kind in TEXT_PARTS and isinstance(part.get("text"), str):
            texts.append(part["text"])
        else:
            reason = f"malformed answer: its content has a part of the kind {kind!r}, which is no text"
            raise CallError(reason, retry=True, billed=True)
    return "".join(texts), reasoning, refusal


def _told(value: Any) -> str:
    """All text in a field of whatever form: reasoning is not read, but whether there is any matters."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "".join(map(_told, value))
    if isinstance(value, Mapping):
        return "".join(_told(inner) for name, inner in value.items() if name not in ("type", "id", "format"))
    return ""


def _first_token(choice: Mapping[str, Any]) -> dict[str, float] | None:
    logprobs = choice.get("logprobs")
    content = logprobs.get("content") if isinstance(logprobs, Mapping) else None
    if not content:
        return None
    return {one["token"]: one["logprob"] for one in reversed(content[0].get("top_logprobs") or [])}
