"""What the benchmarks of short answers share: how LLaVA tidies a model's text before it is handed in or compared."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..metrics.vqa_accuracy import normalize_evalai
from ..reading.answers import Answers, read_answers
from ..task import Example, Task


class ShortAnswerTask(Task):
    """A benchmark of short answers that LLaVA tidies before it hands them in.

    A model's text (our predictions, LLaVA's answers) is tidied as LLaVA's `scripts/convert_*_for_submission.py` do it; a
    results file in the benchmark's own form (`answer`) is scored as it stands.
    """

    text_fields = ("text", "answer")

    def tidy(self, text: str) -> str:
        """A model's text as LLaVA hands it in."""
        return normalize_evalai(text)

    def read_answers(self, paths: Sequence[Path], examples: Sequence[Example]) -> Answers:
        """Read answers; what is no results file of the benchmark is tidied."""
        handed_in = set()

        def answer_id(row: Mapping[str, Any]) -> str:
            key = self.answer_id(row)
            if row.get("text") is None:
                handed_in.add(key)
            return key

        answers = read_answers(paths, answer_id, self.text_fields)
        return {key: text if text is None or key in handed_in else self.tidy(text) for key, text in answers.items()}


def public_answers(task: Task, example: Example) -> list[str]:
    """What people answered.

    Raises:
        ValueError: This is not public for the split.
    """
    if not example.truth:
        raise ValueError(
            f"{task.name}: example {example.id!r} has no answers to compare with, as in a test split. Write a submission "
            "file for the benchmark's server, or name the annotations of another split."
        )
    return [str(answer) for answer in example.truth]  # a file of one's own may have numbers for "4"
