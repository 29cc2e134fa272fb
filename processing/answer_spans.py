"""Where the answers stand in the rendering of a template that does not say so: the tokenizer's own, mostly.

A template with ``{% generation %}`` blocks marks what is supervised. One without is asked by rendering prefixes of the
conversation: an answer starts where the messages before it end when rendered with a generation prompt, and it ends with the
stop that the template writes after it. Both are lengths of renderings, so nothing is searched for in what users wrote. This
holds where every such rendering is the beginning of the whole; a template for which it is not (one that drops the reasoning
of earlier turns, or writes the date) is refused, and the turn named.
"""

from collections.abc import Callable
from typing import Any

# Stands in for an answer to see what the template writes after one
PROBE = "An answer."
# What transformers gives templates to write the time with
CLOCK = "strftime_now"
# Put before a template, it has it write this in place of the time
STOPPED_CLOCK = "{%- macro strftime_now(format) -%}TIME{%- endmacro -%}"

_REMEDY = (
    "Use a shipped template, for example chat_template='chatml', or put {% generation %} and {% endgeneration %} around the "
    "assistant's content and what ends it."
)

Render = Callable[..., str]


class NotPrefixPreserving(ValueError):
    """A template renders the beginning of a conversation otherwise than it begins the rendering of the whole."""

    def __init__(self, turn: int, what: str):
        super().__init__(
            f"The chat template has no {{% generation %}} block, and where the answers stand cannot be told from "
            f"renderings of the conversation's beginnings: at message {turn}, {what}. {_REMEDY}"
        )


def derive_spans(
    render: Render,
    messages: list[dict[str, Any]],
    rendered: str,
    stop_length: Callable[[str], int],
    clock: bool,
) -> list[tuple[int, int]]:
    """Where every answer stands, its stop included, in characters.

    Args:
        render: Renders messages with the template: `render(messages, add_generation_prompt)`; with `time`, that is what
            the template gets to write for the time.
        messages: The whole conversation.
        rendered: Its rendering.
        stop_length: Of what a template writes after an answer, how many characters are the stop.
        clock: Whether the template asks for the time.

    Returns:
        A span `(start, end)` for each assistant message, in order.

    Raises:
        NotPrefixPreserving: Naming the first message at which it shows.
        ValueError: If nothing is written after an answer.
    """
    if clock:
        _check_clock(render, messages)
    spans = []
    for turn, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        prompt = render(messages[:turn], add_generation_prompt=True)
        if not rendered.startswith(prompt):
            raise NotPrefixPreserving(turn, "the prompt before the answer is not how the whole conversation begins")
        answered = render(messages[: turn + 1], add_generation_prompt=False)
        tail = _after_an_answer(render, messages[:turn], message)
        if tail is None or not (answered.startswith(prompt) and answered[len(prompt) :].endswith(tail)):
            raise NotPrefixPreserving(turn, "what is written after an answer depends on what the answer says")
        if not tail:
            raise ValueError(
                f"The chat template writes nothing after the answer in message {turn}, so that where to stop could not be "
                f"supervised, and the model would not stop. {_REMEDY}"
            )
        # What follows the stop may be the end of a whole conversation (Phi-3 writes its eos token there)
        end = len(answered) - len(tail) + stop_length(tail)
        if not rendered.startswith(answered[:end]):
            raise NotPrefixPreserving(turn, "the conversation up to the stop is not how the whole conversation begins")
        spans.append((len(prompt), end))
    return spans


def _after_an_answer(render: Render, before: list[dict[str, Any]], message: dict[str, Any]) -> str | None:
    """What the template writes after an answer to these messages; None if it does not write the answer as it is."""
    content = message["content"]
    probe: Any = PROBE if isinstance(content, str) else [{"type": "text", "text": PROBE}]
    text = render([*before, {**message, "content": probe}], add_generation_prompt=False)
    place = text.rfind(PROBE)
    return None if place < 0 else text[place + len(PROBE) :]


def _check_clock(render: Render, messages: list[dict[str, Any]]) -> None:
    """Refuse a template that writes the time: tomorrow's prompt would not be how today's conversation begins."""
    for turn in range(len(messages)):
        try:
            then, now = (
                render(messages[: turn + 1], add_generation_prompt=False, time=time) for time in ("then", "now")
            )
        except ValueError:  # not every beginning is a conversation to every template
            continue
        if then != now:
            raise NotPrefixPreserving(turn, "it writes the date, which is another one when the model is used")
