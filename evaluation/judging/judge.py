"""A judge: a model behind any OpenAI-compatible endpoint that is asked what it thinks of answers.

Calls, retries, limits, the journal and the budget are the data engine's. What is added is that a judge must make sense:
an answer that cannot be read is asked for again, and what stays unreadable is kept as `unscored` and reported.
"""

import dataclasses
import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...endpoints.answers import Again, Outcome, Reading, read_completion
from ...endpoints.chat_model import ChatModel, Completion
from ...endpoints.journal import Journal, Line, Progress, journal_lines, read_journal
from ...endpoints.limits import Limits
from ...endpoints.prices import Price
from ...endpoints.request import Message, Request
from ...endpoints.running import ask_into_journal, make_caller

NONSENSE = "the judge's answer makes no sense"
ATTEMPTS_AT_SENSE = 3  # calls whose answers may be nonsense, before the last one is kept as it is

Sensible = Callable[[str], bool]


def judge_request(example_id: str, kind: str, messages: Sequence[Message], model: str, max_tokens: int) -> Request:
    """One question to a judge.

    Its key tells what is asked of whom, so that a journal never gives a verdict on another answer or of another judge.

    Args:
        example_id: What is judged.
        kind: Tells apart several requests about one example.
        messages: The chat.
        model: Of the judge.
        max_tokens: Longest verdict.
    """
    digest = hashlib.sha256(json.dumps([model, list(messages)]).encode("utf-8")).hexdigest()[:16]
    return Request(f"{example_id}/{kind}/{digest}", example_id, kind, {}, list(messages), max_tokens)


def ask_judge(
    requests: Iterable[Request],
    folder: str | os.PathLike,
    judge: ChatModel,
    sensible: Sensible,
    *,
    price: Price | None = None,
    limits: Limits | None = None,
) -> dict[str, Line]:
    """Ask a judge everything that the folder's journal has no answer to yet.

    Args:
        requests: What to ask, of `judge_request`.
        folder: Of the journal; made where it is not there.
        judge: Who is asked.
        sensible: Whether a verdict can be read.
        price: Of the judge's model; a budget needs it.
        limits: How fast, how often and for how much.

    Returns:
        Lines of the journal by key: `answered` also for nonsense that was answered to every attempt, `failed`, `refused`.
        What the budget left no room for has no line.

    Raises:
        ValueError: A budget without a price, a folder in use, a key or model that the endpoint does not take, or an
            endpoint that is down or answered nothing at all. What has arrived is kept.
    """
    limits, wanted, folder = limits or Limits(), list(requests), Path(folder)
    limits = dataclasses.replace(limits, attempts=max(limits.attempts, ATTEMPTS_AT_SENSE))
    folder.mkdir(parents=True, exist_ok=True)
    with Journal(folder) as journal:
        progress = Progress(journal_lines(folder), retry_failed=True)
        waiting = [request for request in wanted if not progress.is_done(request.key)]
        spent = progress.dollars + (price.dollars(*progress.unpriced_tokens) if price else 0.0)
        caller = make_caller(judge, limits, price, spent, _Insisting(sensible))
        ask_into_journal(iter(waiting), caller, journal, limits, progress, what="verdicts")
    keys = {request.key for request in wanted}
    lines = {line["key"]: line for line in read_journal(folder) if line["key"] in keys}
    if lines and all(line["status"] != "answered" for line in lines.values()):
        last = list(lines.values())[-1]
        raise ValueError(f"none of {len(lines):,} verdicts came, the last as: {last['reason']}. Run again to go on.")
    return lines


class _Insisting:
    """Reads verdicts: nonsense may be asked for again, except for the last of several attempts."""

    def __init__(self, sensible: Sensible) -> None:
        self._sensible = sensible
        self._nonsense: Counter[str] = Counter()

    def __call__(self, request: Request, completion: Completion) -> Reading:
        reading = read_completion(completion)
        if reading.outcome is Outcome.ANSWERED and not self._sensible(reading.text):
            self._nonsense[request.key] += 1
            if self._nonsense[request.key] < ATTEMPTS_AT_SENSE:
                return Reading(Outcome.UNUSABLE, reading.text, f"{NONSENSE}: {reading.text[:80]!r}", Again.SAME)
        return reading


def left_to_ask(requests: Iterable[Request], lines: Mapping[str, Line]) -> list[str]:
    """Ids of the examples about which the budget let nobody be asked."""
    return [request.context_id for request in requests if request.key not in lines]


def text_of(line: Line | None) -> str | None:
    """The verdict in a line of the journal; None where there is none."""
    return line["text"] if line is not None and line["status"] == "answered" else None


def chat(system: str, user: str) -> list[dict[str, Any]]:
    """A chat of one question."""
    return [{"role": "system", "content": system}, {"role": "user", "content": user}]
