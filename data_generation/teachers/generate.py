"""From contexts to answers: asks a teacher about every context, and can be killed and started again at any moment.

Requests are made one by one as calls become free, so memory does not grow with the number of contexts.
"""

import asyncio
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tqdm.auto import tqdm

from ...endpoints.asking import Asker, BudgetReached
from ...endpoints.budget import Budget
from ...endpoints.journal import STATUSES, Journal, Line, Progress, journal_line, journal_lines
from ...endpoints.limits import Limits
from ...endpoints.prices import Price
from ...endpoints.rate_limit import RateLimit
from ...endpoints.request import Request
from ...endpoints.teacher import Teacher, TeacherError
from ...rows.files import read_rows
from ..prompts.prompt import TYPES, Prompt, load_prompt
from .run_folder import RunFolder, open_run


@dataclass(frozen=True)
class Summary:
    """How a run stands.

    Attributes:
        counts: Keys by status: answered, failed, refused.
        left: Keys that were not asked.
        dollars: Spent over all runs into the folder; None where the price is not known.
    """

    counts: Mapping[str, int]
    left: int
    dollars: float | None

    def __str__(self) -> str:
        parts = [f"{self.counts.get(status, 0):,} {status}" for status in STATUSES]
        money = "" if self.dollars is None else f", {self.dollars:,.2f} dollars"
        return f"{', '.join(parts)}, {self.left:,} left to ask{money}"


def generate(
    contexts: str | os.PathLike,
    run_dir: str | os.PathLike,
    teacher: Teacher,
    types: Sequence[str] = TYPES,
    *,
    seed: int = 0,
    prompt_folder: str | os.PathLike | None = None,
    image_folder: str | os.PathLike | None = None,
    settings: Mapping[str, Any] | None = None,
    price: Price | None = None,
    limits: Limits | None = None,
    retry_failed: bool = False,
    show_progress: bool = False,
) -> Summary:
    """Ask a teacher about every context, once for each type; go on where an earlier run stopped.

    Args:
        contexts: File of contexts.
        run_dir: Folder of the run (see `run_folder`), new or begun.
        teacher: Who is asked.
        types: Kinds of data.
        seed: Draws the questions.
        prompt_folder: Prompts of one's own. Default: the shipped ones.
        image_folder: Where image paths start, for a teacher that sees the picture.
        settings: What else decides the answers, for `run.json`.
        price: Of the model; a budget needs it.
        limits: How fast, how often and for how much. Default: those of `Limits`.
        retry_failed: Ask again for what failed in an earlier run.
        show_progress: Show a line of progress.

    Returns:
        How the run stands; with a budget, keys may be left.

    Raises:
        ValueError: A wrong setting, a key or model that the endpoint does not take, or an endpoint that is down.
        KeyboardInterrupt: Answers in flight are dropped and asked again by the next run; what has arrived is kept.
    """
    limits, prompts = limits or Limits(), [load_prompt(type, prompt_folder) for type in types]
    if limits.budget is not None and price is None:
        raise ValueError("a budget needs the model's price: give --input_price and --output_price.")
    money = {"input_price": price.input if price else None, "output_price": price.output if price else None}
    settings = {"teacher": teacher.name, "model": teacher.model, "seed": seed, **(settings or {}), **money}
    run = open_run(contexts, run_dir, prompts, settings, prompt_folder, image_folder)
    with Journal(run.path) as journal:
        progress = Progress(journal_lines(run.path), retry_failed)
        requests = open_requests(run, prompts, progress, image_folder)
        spent = progress.dollars + (price.dollars(*progress.unpriced_tokens) if price else 0.0)
        rate = RateLimit(limits.requests_per_minute, limits.tokens_per_minute)
        asker = Asker(teacher, Budget(limits.budget, spent), price, rate, limits.attempts, limits.first_wait)
        total = run.settings["contexts"] * len(prompts)
        work = _Work(requests, asker, journal, limits, progress.counts, total, show_progress)
        asyncio.run(work.run())
    return Summary(work.counts, total - sum(work.counts.values()), asker.budget.spent if price else None)


def open_requests(
    run: RunFolder, prompts: Iterable[Prompt], progress: Progress, image_folder: str | os.PathLike | None = None
) -> Iterator[Request | Line]:
    """What is left to ask, in the order of the contexts.

    Yields:
        A request; or, where a context lacks what the type needs, the line that says so in the journal.
    """
    for context in read_rows(run.contexts):
        for prompt in prompts:
            key = f"{context['id']}/{prompt.type}"
            if progress.is_done(key):
                continue
            if lacking := prompt.lacks(context):
                bare = Request(key, context["id"], prompt.type, context, [], 0)
                reason = f"not asked: the context has no {' and no '.join(lacking)}"
                yield journal_line(bare, run.settings["model"], "failed", reason, dollars=0.0, attempts=0)
            else:
                yield prompt.request(context, run.settings["seed"], image_folder)


class _Work:
    """One run of the event loop: so many workers, each of which takes the next request when it is free."""

    def __init__(
        self,
        requests: Iterator[Request | Line],
        asker: Asker,
        journal: Journal,
        limits: Limits,
        counts: Counter[str],
        total: int,
        show_progress: bool,
    ) -> None:
        self.requests, self.asker, self.journal, self.limits = requests, asker, journal, limits
        self.counts, self._failures_in_a_row = counts, 0
        seconds = 0.5 if sys.stderr.isatty() else 30.0
        done = sum(counts.values())
        self._bar = tqdm(total=total, initial=done, unit="key", mininterval=seconds, disable=not show_progress)

    async def run(self) -> None:
        """Take requests until none is left or no call may start.

        Raises:
            ValueError: No call can succeed, or too many in a row did not.
        """
        workers: list[asyncio.Task[None]] = []
        try:
            await self._work(until_called=True)  # alone: a wrong key or model shows here, and not in so many calls
            workers = [asyncio.create_task(self._work()) for _ in range(self.limits.concurrency)]
            await asyncio.gather(*workers)
        except TeacherError as error:
            raise ValueError(f"stopped, as no call can succeed. {error}. What has arrived is kept.") from error
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
            await self.journal.flush()
            await self.asker.teacher.close()
            self._bar.close()

    async def _work(self, until_called: bool = False) -> None:
        for request in self.requests:
            if isinstance(request, dict):
                line = request
            else:
                try:
                    line = await self.asker.ask(request)
                except BudgetReached:
                    return
            await self.journal.add(line)
            self._count(line)
            if until_called and line["attempts"]:
                return

    def _count(self, line: Line) -> None:
        self.counts[line["status"]] += 1
        self._bar.set_postfix(self._figures(), refresh=False)
        self._bar.update()
        if line["attempts"]:
            self._failures_in_a_row = self._failures_in_a_row + 1 if line["status"] == "failed" else 0
        if self._failures_in_a_row >= self.limits.failures_in_a_row:
            raise ValueError(
                f"stopped, as {self._failures_in_a_row} keys in a row failed, the last with: {line['reason']}. What has "
                "arrived is kept; correct the cause, and run again with --retry_failed."
            )

    def _figures(self) -> dict[str, str]:
        figures = {status: f"{self.counts[status]}" for status in STATUSES if self.counts[status]}
        return figures | ({"dollars": f"{self.asker.budget.spent:.2f}"} if self.asker.price else {})
