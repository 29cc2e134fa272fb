"""A server says what transformers says: both are asked the same, and their prompts, scores and answers compared."""

import asyncio
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from ...endpoints.chat_model import CallError, Completion
from ...endpoints.client import OpenAIClient
from ...endpoints.options import RequestOptions
from ...endpoints.request import Request
from ...rows.images import data_uri
from .prompts import proof_conversations, question_of
from .proving import CannotAsk, Mismatch, ask
from .witness import LIKELIEST, NEW_TOKENS

SQUARES = ((1.0, 1.0), (1.0, 1.0), (1.7, 1.7), (0.6, 0.6))  # pictures that all layouts show alike
BY_ANYONE = 0.5  # nats by which a server's log-likelihoods may differ that computes in 16 bits, in an order of its own
STEPS = ("prompt's ids", "prompt's length", "first token", "answer")


@dataclass(frozen=True)
class Served:
    """What a server is, and what is asked of it.

    Args:
        base_url: Of OpenAI's format, usually ending in `/v1`.
        model: As the server names it.
        tolerance: Greatest difference of a log-likelihood, in nats: so much its arithmetic may differ. Where transformers
            holds two answers within it for equally likely, either is right.
        tokens: Gives the ids of a conversation without those of pictures, where the server tells them.
        api_key: Where it wants one.
    """

    base_url: str
    model: str
    tolerance: float
    tokens: Callable[[list[Any]], list[int]] | None = None
    api_key: str | None = None


def prove_served(
    source: Path, served: Served, view_size: tuple[int, int], shapes: Sequence[tuple[float, float]] = SQUARES
) -> list[list[str]]:
    """Ask transformers, in a process without llavakit and in float32, and a server.

    Args:
        source: Folder of the checkpoint.
        served: The server.
        view_size: Height and width of a view, in pixels.
        shapes: Of the pictures, in views.

    Returns:
        A table, headings first.

    Raises:
        Mismatch: They say something else; the message names the first step at which they do.
        CannotAsk: One of them cannot be asked.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        conversations = proof_conversations(view_size, folder, shapes)
        (folder / "conversations.json").write_text(json.dumps(conversations), encoding="utf-8")
        [told] = ask([source], folder, "float32")
        messages = [_openai_messages(conversation) for conversation in conversations]
        completions = asyncio.run(_answers(served, messages))
        lines = [["asked", "tokens", "ids", "first token", "answer"]]
        for index, conversation in enumerate(conversations):
            ids = None if served.tokens is None else served.tokens(messages[index])
            line = _compare(told[index], completions[index], ids, served.tolerance, question_of(conversation))
            lines.append([question_of(conversation), *line])
        return lines


def only_model(base_url: str) -> str:
    """The name of the model that a server has.

    Raises:
        CannotAsk: It does not answer, or has several.
    """
    try:
        with urlopen(f"{base_url.rstrip('/')}/models", timeout=30) as answer:
            names = [str(one["id"]) for one in json.load(answer)["data"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CannotAsk(f"{base_url} does not say which models it has: {error}. Name the one with --model.") from error
    if len(names) != 1:
        raise CannotAsk(f"{base_url} has the models {names}: name the one with --model.")
    return names[0]


async def _answers(served: Served, messages: list[list[Any]]) -> list[Completion]:
    """Greedy answers, one after the other."""
    options = RequestOptions(temperature=0.0)
    client = OpenAIClient(served.model, served.base_url, served.api_key, options, timeout=600)
    fields = {"logprobs": True, "top_logprobs": LIKELIEST}
    try:
        return [
            await client.answer(Request(str(k), str(k), "proof", {}, chat, NEW_TOKENS, fields=fields))
            for k, chat in enumerate(messages)
        ]
    except CallError as error:
        raise CannotAsk(f"{served.base_url} cannot be asked: {error}") from error
    finally:
        await client.close()


def _openai_messages(conversation: list[Any]) -> list[Any]:
    """In OpenAI's format, with the pictures in them."""

    def block(one: dict[str, Any]) -> dict[str, Any]:
        if one["type"] == "text":
            return one
        return {"type": "image_url", "image_url": {"url": data_uri(one["image"], one["image"])}}

    return [{**turn, "content": [block(one) for one in turn["content"]]} for turn in conversation]


def _compare(
    told: dict[str, Any], completion: Completion, ids: list[int] | None, tolerance: float, asked: str
) -> list[str]:
    """The cells of a line: tokens, ids, first token, answer.

    Raises:
        Mismatch: They part.
    """
    own, likeliest = told["ids"].tolist(), told["likeliest"]
    without_pictures = [id for id in own if id != told["image_token_id"]]
    text = _whole(completion.text or "")

    def part(step: str, ours: object, theirs: object) -> Mismatch:
        return Mismatch(
            f"asked {asked!r}, the server and transformers part first in the {step}: {theirs!r} there, {ours!r} here (the "
            f"steps are {', '.join(STEPS)})."
        )

    if ids is not None and ids != without_pictures:
        raise part("prompt's ids", without_pictures, ids)
    if completion.prompt_tokens is not None and completion.prompt_tokens != len(own):
        raise part("prompt's length", len(own), completion.prompt_tokens)
    difference = _first_token(likeliest[0], completion.first_token or {})
    if difference is not None and difference > tolerance:
        raise part("first token", dict(likeliest[0]), dict(completion.first_token or {}))
    answer = _whole(likeliest[-1][0][0])
    margin = 0.0 if text == answer else _margin(likeliest, text)
    if margin > tolerance:
        raise part("answer", answer, text)
    return [
        f"{len(own):,}",
        "same" if ids is not None else "",
        "" if difference is None else f"within {difference:.1e}",
        "same" if text == answer else f"other, of two within {margin:.1e}",
    ]


def _first_token(likeliest: list[tuple[str, float]], given: Mapping[str, float]) -> float | None:
    """The greatest difference of the log-likelihoods of tokens that both tell; None where there is none."""
    ours, theirs = _readable(likeliest), _readable(given.items())
    return max((abs(ours[text] - theirs[text]) for text in ours if text in theirs), default=None)


def _readable(pairs: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Log-likelihoods of tokens that a text tells apart from all others: not control tokens, nor parts of characters.

    Some tokenizers write the space before a word with it, and some do not where it stands alone.
    """
    scores = [(text.strip(), score) for text, score in pairs]
    counts = Counter(text for text, _ in scores)
    return {text: score for text, score in scores if text and "\ufffd" not in text and counts[text] == 1}


def _margin(likeliest: list[list[tuple[str, float]]], text: str) -> float:
    """By how much transformers prefers its own token to the other, where a text leaves its answer."""
    leaves = (place for place in likeliest if not text.startswith(_whole(place[0][0])))
    (_, best), *others = next(leaves, likeliest[-1])
    fitting = [score for other, score in others if text.startswith(_whole(other))]
    return best - max(fitting, default=float("-inf"))


def _whole(text: str) -> str:
    """Without space around it, and without a last character that was cut amid its bytes."""
    return text.strip().rstrip("\ufffd").strip()
