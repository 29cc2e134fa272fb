"""What calls cost: tokens, and prices (`prices.json`).

Tokens are counted by a rule and not with a tokenizer, since the teacher's own is often not at hand: English words are
mostly one token, digits go by threes, and each mark is one. A bound is taken from the text's bytes: no byte-level
tokenizer makes more tokens than bytes.
"""

import functools
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
