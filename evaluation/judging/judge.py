"""A judge: a model behind any OpenAI-compatible endpoint that is asked what it thinks of answers.

Calls, retries, limits, the journal and the budget are the data engine's. What is added is that a judge must make sense:
an answer that cannot be read is asked for again, and what stays unreadable is kept as `unscored` and reported.
"""

import asyncio
import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...endpoints.asking import Asker, BudgetReached
from ...endpoints.budget import Budget
from ...endpoints.chat_format import judge as usable
from ...endpoints.journal import Journal, Line, Progress, journal_lines, read_journal
from ...endpoints.limits import Limits
from ...endpoints.prices import Price
from ...endpoints.rate_limit import RateLimit
from ...endpoints.request import Message, Request
from ...endpoints.teacher import Answer, Teacher, TeacherError

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
    judge: Teacher,
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
            endpoint that is down. What has arrived is kept.
    """
    limits, wanted, folder = limits or Limits(), list(requests), Path(folder)
    if limits.budget is not None and price is None:
        raise ValueError("a budget needs the price of the judge's model: give --input_price and --output_price.")
    folder.mkdir(parents=True, exist_ok=True)
    with Journal(folder) as journal:
        progress = Progress(journal_lines(folder), retry_failed=True)
        waiting = [request for request in wanted if not progress.is_done(request.key)]
        spent = progress.dollars + (price.dollars(*progress.unpriced_tokens) if price else 0.0)
        asker = Asker(
            teacher=_Insisting(judge, sensible),
            budget=Budget(limits.budget, spent),
            price=price,
            rate=RateLimit(limits.requests_per_minute, limits.tokens_per_minute),
            attempts=max(limits.attempts, ATTEMPTS_AT_SENSE),
            first_wait=limits.first_wait,
        )
        asyncio.run(_ask_all(iter(waiting), asker, journal, limits))
    keys = {request.key for request in wanted}
    return {line["key"]: line for line in read_journal(folder) if line["key"] in keys}


class _Insisting:
    """A judge whose nonsense is an error that may be tried again, except for the last of several attempts."""

    def __init__(self, judge: Teacher, sensible: Sensible) -> None:
        self.name, self.model = judge.name, judge.model
        self._judge, self._sensible = judge, sensible
        self._nonsense: Counter[str] = Counter()

    async def answer(self, request: Request) -> Answer:
        answer = await self._judge.answer(request)
        if usable(answer)[0] == "answered" and not self._sensible(answer.text):
            self._nonsense[request.key] += 1
            if self._nonsense[request.key] < ATTEMPTS_AT_SENSE:
                raise TeacherError(f"{NONSENSE}: {answer.text[:80]!r}", retry=True, billed=True)
        return answer

    async def close(self) -> None:
        await self._judge.close()


async def _ask_all(requests: Iterator[Request], asker: Asker, journal: Journal, limits: Limits) -> None:
    """Ask with so many calls at once, until nothing is left or the budget has no room.

    Raises:
        ValueError: No call can succeed, or too many in a row did not.
    """
    failures_in_a_row = 0

    async def work() -> None:
        nonlocal failures_in_a_row
        for request in requests:
            try:
                line = await asker.ask(request)
            except BudgetReached:
                return
            await journal.add(line)
            failures_in_a_row = failures_in_a_row + 1 if line["status"] == "failed" else 0
            if failures_in_a_row >= limits.failures_in_a_row:
                raise ValueError(
                    f"stopped, as {failures_in_a_row} verdicts in a row failed, the last with: {line['reason']}. What has "
                    "arrived is kept; correct the cause and run again."
                )

    workers = [asyncio.create_task(work()) for _ in range(limits.concurrency)]
    try:
        await asyncio.gather(*workers)
    except TeacherError as error:
        raise ValueError(f"stopped, as no call can succeed. {error}. What has arrived is kept.") from error
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
        await journal.flush()
        await asker.teacher.close()


def left_to_ask(requests: Iterable[Request], lines: Mapping[str, Line]) -> list[str]:
    """Ids of the examples about which the budget let nobody be asked."""
    return [request.context_id for request in requests if request.key not in lines]


def text_of(line: Line | None) -> str | None:
    """The verdict in a line of the journal; None where there is none."""
    return line["text"] if line is not None and line["status"] == "answered" else None


def chat(system: str, user: str) -> list[dict[str, Any]]:
    """A chat of one question."""
    return [{"role": "system", "content": system}, {"role": "user", "content": user}]
