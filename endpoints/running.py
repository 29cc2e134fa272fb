"""A run: what an iterator gives is asked within the limits, and every reply goes to a journal."""

import asyncio
from collections.abc import Callable, Iterator

from .budget import Budget
from .caller import Caller, Reader, Reply
from .chat_model import ChatModel
from .concurrency import Concurrency
from .journal import Journal, Progress, journal_line
from .limits import Limits
from .prices import Price
from .rate_limit import RateLimit
from .workers import Workers


def check_budget(limits: Limits, price: Price | None) -> None:
    """What a budget needs.

    Raises:
        ValueError: There is a budget, and no price.
    """
    if limits.budget is not None and price is None:
        raise ValueError("a budget needs the model's price: give --input_price and --output_price.")


def make_caller(
    model: ChatModel, limits: Limits, price: Price | None = None, spent: float = 0.0, read: Reader | None = None
) -> Caller:
    """Whoever makes the calls of a run.

    Args:
        model: Who is asked.
        limits: How fast, how often and for how much.
        price: Of the model; a budget needs it.
        spent: Dollars spent before.
        read: Whether an answer can be used. Default: `answers.read_completion`.

    Raises:
        ValueError: A budget without a price.
    """
    check_budget(limits, price)
    rate = RateLimit(limits.requests_per_minute, limits.tokens_per_minute)
    caller = Caller(
        model,
        Budget(limits.budget, spent),
        price,
        rate,
        Concurrency(limits.concurrency),
        limits.attempts,
        limits.first_wait,
    )
    if read is not None:
        caller.read = read
    return caller


def ask_into_journal(
    requests: Iterator,
    caller: Caller,
    journal: Journal,
    limits: Limits,
    progress: Progress,
    *,
    told: Callable[[Reply], None] = lambda reply: None,
    what: str = "keys",
) -> None:
    """Ask what is left and write what comes.

    Args:
        requests: `Request`s, or `Reply`s that are known without a call.
        caller: Makes the calls.
        journal: Takes the replies, each on disk before it counts.
        limits: When to stop.
        progress: What the journal held before.
        told: Hears of each reply that is on disk.
        what: A request, in messages.

    Raises:
        ValueError: No call can succeed, or too many in a row did not. What has arrived is kept.
    """

    async def record(reply: Reply) -> None:
        await journal.add(journal_line(reply, caller.model.model))
        told(reply)

    async def run() -> None:
        workers = Workers(caller, record, limits.failures_in_a_row, progress.counts["answered"] > 0, what)
        try:
            await workers.run(requests)
        finally:
            await journal.flush()

    asyncio.run(run())
