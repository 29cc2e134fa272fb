"""What calls cost: tokens, prices (`prices.json`), and the estimate of a whole run before anything is sent.

Tokens are counted by a rule and not with a tokenizer, since the teacher's own is often not at hand: English words are
mostly one token, digits go by threes, and each mark is one. A bound is taken from the text's bytes: no byte-level
tokenizer makes more tokens than bytes.
"""

import functools
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .prompts import Prompt
from .request import Request

PRICES = Path(__file__).with_name("prices.json")

PIECES = re.compile(r"[^\W\d_]+|\s?\d{1,3}|[^\w\s]|_|\n")
LONG_WORD = 13  # letters from which a word is more than one token
PER_MESSAGE = 4  # tokens that mark a message's role, start and end


@dataclass(frozen=True)
class Price:
    """What a model costs.

    Args:
        input: Dollars for a million tokens read.
        output: Dollars for a million tokens written.
        image_tokens: Tokens of a picture, at most; None where this is not known.
    """

    input: float
    output: float
    image_tokens: int | None = None

    def dollars(self, prompt_tokens: float, completion_tokens: float) -> float:
        """The price of so many tokens."""
        return (prompt_tokens * self.input + completion_tokens * self.output) / 1e6

    def at_most(self, request: Request) -> float:
        """The most that one call can cost, in dollars.

        Raises:
            ValueError: A picture goes along, and what it costs is not known.
        """
        return self.dollars(_tokens(request, self, bound=True), request.max_tokens)


FREE = Price(0.0, 0.0, 0)


def find_price(
    model: str,
    input_price: float | None = None,
    output_price: float | None = None,
    image_tokens: int | None = None,
) -> Price:
    """The price of a model: as given, or of `prices.json` by the model's exact name.

    Args:
        model: Its name.
        input_price: Dollars for a million tokens read.
        output_price: Dollars for a million tokens written.
        image_tokens: Tokens of a picture, at most.

    Raises:
        ValueError: The model is not listed and no price is given, or only one of the two is.
    """
    known = shipped_prices()["dollars_per_million_tokens"]
    if input_price is None and output_price is None:
        if model not in known:
            raise ValueError(
                f"no price is known for the model {model!r}. Give --input_price and --output_price, dollars for a million "
                f"tokens (0 and 0 for a server of your own), or choose one of {sorted(known)}."
            )
        listed = Price(**known[model])
        return listed if image_tokens is None else Price(listed.input, listed.output, image_tokens)
    if input_price is None or output_price is None:
        raise ValueError("--input_price and --output_price go together; only one of them is given.")
    if input_price < 0 or output_price < 0:
        raise ValueError(f"--input_price {input_price:g} and --output_price {output_price:g} must not be negative.")
    if input_price == 0:  # then it matters to nobody how many tokens a picture is
        image_tokens = image_tokens or 0
    return Price(input_price, output_price, image_tokens)


@functools.cache
def shipped_prices() -> dict[str, Any]:
    """The content of `prices.json`."""
    return json.loads(PRICES.read_text(encoding="utf-8"))


@functools.lru_cache(maxsize=512)  # the system message and the examples are in every request of a type
def count_tokens(text: str) -> int:
    """About how many tokens a text is."""
    return sum(1 + (len(piece) // LONG_WORD) for piece in PIECES.findall(text))


def prompt_tokens(request: Request, price: Price = FREE) -> int:
    """About how many tokens a request is for the teacher to read.

    Raises:
        ValueError: A picture goes along, and what it costs is not known.
    """
    return _tokens(request, price, bound=False)


def _tokens(request: Request, price: Price, bound: bool) -> int:
    tokens = PER_MESSAGE
    for message in request.messages:
        parts = message["content"]
        texts = [parts] if isinstance(parts, str) else [part["text"] for part in parts if part["type"] == "text"]
        tokens += PER_MESSAGE + sum(len(text.encode("utf-8")) if bound else count_tokens(text) for text in texts)
    if request.response_format is not None:
        schema = json.dumps(request.response_format)
        tokens += len(schema) if bound else count_tokens(schema)
    if request.image is not None:
        if price.image_tokens is None:
            raise ValueError("it is not known how many tokens a picture is for this model; give --image_tokens.")
        tokens += price.image_tokens
    return tokens


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


def show_estimate(estimates: list[Estimate], price: Price) -> Iterator[str]:
    """The estimate as lines of a table, with the sum at its foot."""
    total = Estimate("all")
    for count in estimates:
        for name in ("calls", "prompt_tokens", "completion_tokens", "max_completion_tokens", "skipped"):
            setattr(total, name, getattr(total, name) + getattr(count, name))
    yield f"{'type':<14}{'calls':>10}{'tokens in':>14}{'tokens out':>14}{'dollars':>12}{'at most':>12}"
    for count in [*estimates, total]:
        expected = price.dollars(count.prompt_tokens, count.completion_tokens)
        most = price.dollars(count.prompt_tokens, count.max_completion_tokens)
        tokens = f"{count.prompt_tokens:>14,}{count.completion_tokens:>14,}"
        yield f"{count.type:<14}{count.calls:>10,}{tokens}{expected:>12,.2f}{most:>12,.2f}"
    if total.skipped:
        yield f"{total.skipped:,} calls are left out: their contexts lack captions, boxes or an image that the type needs."
