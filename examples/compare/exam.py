"""The exam of the comparison: the quickstart's short questions, kind by kind."""

from collections.abc import Sequence

from ..evaluation.metrics.scoring import Result, score
from ..evaluation.task import Example, Task
from ..quickstart.evaluate import Item
from ..quickstart.questions import KINDS


class SceneExam(Task):
    """Short answers, right word for word."""

    name = "scenes"
    title = "the quickstart's scenes"
    main_score = "all"
    columns = (*KINDS, "all")

    def grade(self, example: Example, answer: str) -> float:
        return float(answer == example.truth)

    def groups(self, example: Example) -> Sequence[str]:
        return (example.meta["kind"], self.main_score)


EXAM = SceneExam()


def score_exam(items: Sequence[Item], said: Sequence[str]) -> Result:
    """What a run's answers to the exam are worth."""
    examples = [
        Example(str(place), item.question.text, item.question.answer, meta={"kind": item.question.kind})
        for place, item in enumerate(items)
    ]
    return score(EXAM, examples, {example.id: text for example, text in zip(examples, said, strict=True)})
