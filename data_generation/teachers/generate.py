"""From contexts to answers: asks a teacher about every context, and can be killed and started again at any moment.

Requests are made one by one as calls become free, so memory does not grow with the number of contexts.
"""

import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from tqdm.auto import tqdm

from ...endpoints.caller import Caller, Reply
from ...endpoints.chat_model import ChatModel
from ...endpoints.journal import STATUSES, Journal, Progress, journal_lines
from ...endpoints.limits import Limits
from ...endpoints.prices import Price
from ...endpoints.request import Request
from ...endpoints.running import ask_into_journal, check_budget, make_caller
from ...rows.files import read_rows
from ..prompts import TYPES
from ..prompts.prompt import Prompt, load_prompt
from .dry_run import first_request
from .run_folder import RunFolder, open_run


@dataclass(frozen=True)
class Summary:
    """How a run stands.

    Attributes:
        counts: Keys by status: answered, failed, refused.
        left: Keys that were not asked.
        dollars: Spent over all runs into the folder; None where the price is not known.
        budget_reached: Keys are left because the budget has no room for them.
        failure: Why the last key that was asked for in vain failed, in this run.
    """

    counts: Mapping[str, int]
    left: int
    dollars: float | None
    budget_reached: bool = False
    failure: str | None = None

    def __str__(self) -> str:
        parts = [f"{self.counts.get(status, 0):,} {status}" for status in STATUSES]
        money = "" if self.dollars is None else f", {self.dollars:,.2f} dollars"
        return f"{', '.join(parts)}, {self.left:,} left to ask{money}"


def generate(
    contexts: str | os.PathLike,
    run_dir: str | os.PathLike,
    teacher: ChatModel,
    types: Sequence[str] = TYPES,
    *,
    seed: int = 0,
    prompt_folder: str | os.PathLike | None = None,
    image_folder: str | os.PathLike | None = None,
    settings: Mapping[str, Any] | None = None,
    price: Price | None = None,
    limits: Limits | None = None,
    limit: int | None = None,
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
        limit: Ask about the first so many contexts only; a later run without it goes on with the others.
        retry_failed: Ask again for what failed in an earlier run.
        show_progress: Show a line of progress.

    Returns:
        How the run stands; with a budget or a limit, keys may be left.

    Raises:
        ValueError: A wrong setting, a key or model that the endpoint does not take, or an endpoint that is down.
        KeyboardInterrupt: Answers in flight are dropped and asked again by the next run; what has arrived is kept.
    """
    limits, prompts = limits or Limits(), [load_prompt(type, prompt_folder) for type in types]
    check_budget(limits, price)
    if limit is not None and limit < 1:
        raise ValueError(f"--limit is {limit}; it must be at least 1.")
    money = {"input_price": price.input if price else None, "output_price": price.output if price else None}
    settings = {"teacher": teacher.name, "model": teacher.model, "seed": seed, **(settings or {}), **money}
    run = open_run(contexts, run_dir, prompts, settings, prompt_folder, image_folder)
    first_request(read_rows(run.contexts), prompts, seed)  # there is something to ask
    with Journal(run.path) as journal:
        progress = Progress(journal_lines(run.path), retry_failed)
        requests = open_requests(run, prompts, progress, image_folder, limit)
        spent = progress.dollars + (price.dollars(*progress.unpriced_tokens) if price else 0.0)
        caller, total = make_caller(teacher, limits, price, spent), run.settings["contexts"] * len(prompts)
        asked = total if limit is None else min(limit, run.settings["contexts"]) * len(prompts)
        with _Bar(asked, progress.counts, caller, show_progress) as bar:
            ask_into_journal(requests, caller, journal, limits, progress, told=bar.count)
    left = total - sum(bar.counts.values())
    spent = caller.budget.spent
    return Summary(bar.counts, left, spent if price else None, caller.budget.reached, bar.failure)


def open_requests(
    run: RunFolder,
    prompts: Iterable[Prompt],
    progress: Progress,
    image_folder: str | os.PathLike | None = None,
    limit: int | None = None,
) -> Iterator[Request | Reply]:
    """What is left to ask, in the order of the contexts.

    Args:
        run: The run.
        prompts: Asked with, one a type.
        progress: What its journal has.
        image_folder: Where image paths start.
        limit: Only the first so many contexts.

    Yields:
        A request; or, where a context lacks what the type needs, the reply that says so in the journal.
    """
    for context in islice(read_rows(run.contexts), limit):
        for prompt in prompts:
            key = f"{context['id']}/{prompt.type}"
            if progress.is_done(key):
                continue
            if lacking := prompt.lacks(context):
                bare = Request(key, context["id"], prompt.type, context, [], 0)
                yield Reply(bare, reason=f"not asked: the context has no {' and no '.join(lacking)}", dollars=0.0)
            else:
                yield prompt.request(context, run.settings["seed"], image_folder)


class _Bar:
    """A line of progress, and the counts that it shows. Use as a context manager."""

    def __init__(self, total: int, counts: Counter[str], caller: Caller, shown: bool) -> None:
        self.counts, self._caller = counts, caller
        self.failure: str | None = None  # of the last key that was asked for in vain
        seconds = 0.5 if sys.stderr.isatty() else 30.0
        done = sum(counts.values())
        self._bar = tqdm(total=max(total, done), initial=done, unit="key", mininterval=seconds, disable=not shown)

    def __enter__(self) -> "_Bar":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def count(self, reply: Reply) -> None:
        """A reply is on disk."""
        self.counts[reply.status] += 1
        if reply.status == "failed" and reply.attempts:
            self.failure = reply.reason
        figures = {status: f"{self.counts[status]}" for status in STATUSES if self.counts[status]}
        money = {"dollars": f"{self._caller.budget.spent:.2f}"} if self._caller.price else {}
        self._bar.set_postfix(figures | money, refresh=False)
        self._bar.update()
