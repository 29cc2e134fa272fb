"""From a model's answers to files of reviews that the judged benchmarks are scored by."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...endpoints.chat_model import ChatModel
from ...endpoints.limits import Limits
from ...endpoints.prices import Price
from ..reading.answers import Answers, some
from ..task import Example
from .judge import ask_judge, left_to_ask, text_of
from .judged_task import JudgedTask

JOURNAL, REVIEWS, SWAPPED = "judge", "reviews", "reviews_swapped"


@dataclass(frozen=True)
class Judgement:
    """What judging brought.

    Attributes:
        files: Reviews, for `--answers` of `llavakit eval score`.
        reviews: How many verdicts there are.
        unscored: Ids of examples whose verdict never made sense, or never came, once for each order.
        left: Ids that the budget had no room for, likewise.
        dollars: Spent over all runs into the folder; None where no price is known.
        failure: Why the last verdict that never came did not.
    """

    files: list[Path]
    reviews: int
    unscored: list[str]
    left: list[str]
    dollars: float | None
    failure: str | None = None

    def __str__(self) -> str:
        parts = [f"{self.reviews:,} reviewed"]
        if self.unscored:
            why = (
                "as the judge made no sense"
                if self.failure is None
                else f"the last one that never came as: {self.failure}"
            )
            parts.append(f"{len(self.unscored):,} unscored, {why}: {some(self.unscored)}")
        parts += [f"{len(self.left):,} left to ask: {some(self.left)}"] * bool(self.left)
        return "; ".join(parts) + ("" if self.dollars is None else f"; {self.dollars:,.2f} dollars")


def judge_answers(
    task: JudgedTask,
    examples: Sequence[Example],
    answers: Answers,
    judge: ChatModel,
    folder: str | os.PathLike,
    *,
    both_orders: bool = False,
    price: Price | None = None,
    limits: Limits | None = None,
) -> Judgement:
    """Have answers reviewed. Killed and started again, it asks for nothing twice.

    Args:
        task: The benchmark.
        examples: With all that the judge is shown.
        answers: The model's; a generation that failed is not shown to a judge.
        judge: Who is asked.
        folder: For `reviews.*`, and `judge/journal.jsonl`.
        both_orders: Also ask with the reference's answer second, into `reviews_swapped.*`: a second file to score by.
        price: Of the judge's model.
        limits: How fast, how often and for how much.

    Raises:
        ValueError: An answer to no example, or see `ask_judge`.
    """
    unknown = sorted(set(answers) - {example.id for example in examples})
    if unknown:
        raise ValueError(f"{len(unknown):,} answer(s) are to ids that the annotations do not have: {some(unknown)}.")
    folder = Path(folder)
    orders = {REVIEWS: False, SWAPPED: True} if both_orders else {REVIEWS: False}
    asked = {name: task.judge_requests(examples, answers, judge.model, swapped) for name, swapped in orders.items()}
    requests = [request for each in asked.values() for request in each]
    lines = ask_judge(
        requests, folder / JOURNAL, judge, lambda text: task.verdict(text) is not None, price=price, limits=limits
    )
    files = []
    for name, swapped in orders.items():
        files.append(folder / f"{name}{task.reviews}")
        task.write_reviews(examples, answers, asked[name], lines, files[-1], swapped)
    unscored = [line["id"] for line in lines.values() if task.verdict(text_of(line) or "") is None]
    dollars = sum(line["dollars"] or 0.0 for line in lines.values()) if price else None
    failure = next((line["reason"] for line in reversed(lines.values()) if line["status"] != "answered"), None)
    return Judgement(files, len(lines) - len(unscored), unscored, left_to_ask(requests, lines), dollars, failure)
