"""Benchmarks whose answers a judge rates: first a model answers, then a judge reviews, then the reviews are scored."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...endpoints.journal import Line
from ...endpoints.request import Request
from ..reading import answers as answer_files
from ..reading.answers import Answers
from ..task import Example, Task


class JudgedTask(Task):
    """A benchmark that needs a judge.

    `read_answers` reads reviews, `read_model_answers` what is to be reviewed.

    Attributes:
        judge_temperature: Of the judge, as in the paper's script.
        judge_max_tokens: Longest verdict.
        reviews: Suffix of a file of reviews.
        needs_judge: Whether there are no scores without one.
    """

    needs_judge: bool = True
    judge_temperature: float = 0.0
    judge_max_tokens: int = 1024
    reviews: str = ".jsonl"
    max_new_tokens = 1024

    def read_model_answers(self, paths: Sequence[Path], examples: Sequence[Example]) -> Answers:
        """Read the answers that a judge is to review."""
        return answer_files.read_answers(paths, self.answer_id, self.text_fields)

    def judge_requests(
        self, examples: Sequence[Example], answers: Answers, model: str, swapped: bool = False
    ) -> list[Request]:
        """What to ask a judge; nothing about a generation that failed.

        Args:
            examples: What `read` gave.
            answers: To review.
            model: Of the judge.
            swapped: Show reference and answer in the other order, where the judge sees both side by side.
        """
        raise NotImplementedError

    def verdict(self, text: str) -> Any | None:
        """What a judge's text says; None for nonsense."""
        raise NotImplementedError

    def write_reviews(
        self,
        examples: Sequence[Example],
        answers: Answers,
        requests: Sequence[Request],
        lines: Mapping[str, Line],
        path: Path,
        swapped: bool = False,
    ) -> None:
        """Write a file of reviews that `read_answers` reads, in the benchmark's own form where it has one."""
        raise NotImplementedError

    @property
    def next_step(self) -> str:
        """What to do with a model's answers."""
        return f"Have them reviewed: `llavakit eval judge {self.name}`, then score the reviews."

    def not_reviewed(self, path: Path) -> ValueError:
        """The error for a file that holds no reviews."""
        return ValueError(
            f"{path} holds no reviews of a judge, which {self.name} is scored by. Run `llavakit eval judge {self.name}` on "
            "the model's answers first, and name its reviews with --answers."
        )
