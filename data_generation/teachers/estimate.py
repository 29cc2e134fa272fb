"""The estimate of a whole run, before anything is sent."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ...endpoints.prices import Price, count_tokens, prompt_tokens
from ...reports.tables import show, table
from ..prompts.prompt import Prompt


@dataclass
class Estimate:
    """What asking for one type will take.

    Args:
        type: The type, or "all".
        calls: To the teacher, without retries.
        prompt_tokens: That it reads.
        completion_tokens: That it writes, if its answers are as long as the prompt's examples.
        max_completion_tokens: That it writes when each answer is as long as allowed.
        skipped: Contexts that lack what the type needs.
    """

    type: str
    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    max_completion_tokens: int = 0
    skipped: int = 0


def estimate(
    contexts: Iterable[Mapping[str, Any]], prompts: Iterable[Prompt], price: Price, seed: int = 0
) -> list[Estimate]:
    """Count what a run will take, in one pass; nothing is sent.

    Args:
        contexts: All of them.
        prompts: One a type.
        price: For what a picture costs.
        seed: As the run will have it.

    Returns:
        An estimate a type, in the order of the prompts.
    """
    counts = {prompt: Estimate(prompt.type) for prompt in prompts}
    lengths = {prompt: _answer_length(prompt) for prompt in counts}
    for context in contexts:
        for prompt, count in counts.items():
            if prompt.lacks(context):
                count.skipped += 1
                continue
            request = prompt.request(context, seed)
            count.calls += 1
            count.prompt_tokens += prompt_tokens(request, price)
            count.completion_tokens += lengths[prompt]
            count.max_completion_tokens += request.max_tokens
    return list(counts.values())


def _answer_length(prompt: Prompt) -> int:
    """Answers are about as long as those of the examples that a teacher is shown."""
    lengths = [count_tokens(answer) for _, answer in prompt.examples]
    return sum(lengths) // len(lengths) if lengths else prompt.max_tokens


def show_estimate(estimates: list[Estimate], price: Price) -> None:
    """Print the estimate as a table, with the sum at its foot."""
    total = Estimate("all")
    for count in estimates:
        for name in ("calls", "prompt_tokens", "completion_tokens", "max_completion_tokens", "skipped"):
            setattr(total, name, getattr(total, name) + getattr(count, name))
    rows = [
        (
            count.type,
            count.calls,
            count.prompt_tokens,
            count.completion_tokens,
            f"{price.dollars(count.prompt_tokens, count.completion_tokens):,.2f}",
            f"{price.dollars(count.prompt_tokens, count.max_completion_tokens):,.2f}",
        )
        for count in [*estimates, total]
    ]
    show(table(("type", "calls", "tokens in", "tokens out", "dollars", "at most"), rows, total=True))
    if total.skipped:
        print(
            f"{total.skipped:,} calls are left out: their contexts lack captions, boxes or an image that the type needs."
        )
