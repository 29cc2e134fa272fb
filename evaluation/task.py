"""What a benchmark is: how its files are read, how a model is asked, and how answers become scores.

A task reads its official files into `Example`s and somebody's answers into texts by example id. `grade` looks at one
answer. Every score is a function of sums of statistics over *clusters*: examples that stand or fall together, such as the
circular passes of one question, or the two questions about one picture. So the same few lines give the scores of the
paper, and, with the clusters drawn anew, their confidence intervals (see `intervals`).

A new task needs `read` and `grade`, and `groups` where the paper's table has more columns than one. Only scores that are
no plain means need `statistics` and `scores` of their own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..rows.schema import image_key
from .reading import answers as answer_files
from .reading.answers import Answers

Statistics = Mapping[str, Any]  # of floats, or of arrays with one entry a draw of the bootstrap


@dataclass(slots=True)
class Example:
    """One question of a benchmark.

    Args:
        id: Unique within the task; answers are joined by it.
        prompt: What the model is asked, without a place for the image: images stand before it.
        truth: Whatever `grade` compares with; None where the split's answers are not public.
        images: Paths below the image folder, or `{"bytes": ..., "path": ...}` as `datasets` stores an image.
        meta: What groups and clusters are formed by, and what the report shows.
        choices: The answers among which the model chooses, where it does not write freely.
    """

    id: str
    prompt: str
    truth: Any
    images: list[Any] = field(default_factory=list)
    meta: dict[str, Any] = field(default_factory=dict)
    choices: list[str] | None = None


@dataclass(slots=True)
class Graded:
    """An example with an answer and what `grade` said of it.

    Args:
        example: The question.
        answer: The text; None when the generation failed.
        grade: A float from 0 (wrong) to 1 (right), or what the task's own `statistics` and `points` understand.
    """

    example: Example
    answer: str | None
    grade: Any

    @property
    def failed(self) -> bool:
        return self.answer is None


class Task:
    """A benchmark. Subclasses are instantiated once, in the table `tasks.TASKS`.

    Attributes:
        name: As the command line has it.
        title: As the paper calls it.
        source: The paper and the official scoring code that the scores follow.
        files: The official files that `read` understands, in a line, for `llavakit eval list`.
        hub: Where they, or the same as parquet, are on the Hub (see `hub`).
        main_score: The one score to rank by, a key of `scores`.
        columns: Scores in the order of the paper's table; others come after them.
        max_new_tokens: Longest answer asked for.
        id_fields: Where an answer's row has the example's id, the first that is there.
        text_fields: Where it has the answer.
        submission_suffix: Of the file that the benchmark's server takes.
        reads_boxes: Whether answers hold boxes. Those of a checkpoint are read as they come, by its own convention, and
            kept in pixels of the picture, of which `meta` has `width` and `height`.
    """

    name: str
    title: str
    source: str
    files: str
    hub: str = ""
    main_score: str = "accuracy"
    columns: Sequence[str] = ()
    max_new_tokens: int = 16
    id_fields: Sequence[str] = ("question_id", "id")
    text_fields: Sequence[str] = ("text",)
    submission_suffix: str = ".json"
    reads_boxes: bool = False

    # ---- reading ----

    def read(self, paths: Sequence[Path]) -> list[Example]:
        """Read the official files.

        Args:
            paths: Files or folders, as `--annotations` and `--data` name them.

        Raises:
            ValueError: A file is of another form; the message names it.
            OSError: A file cannot be read.
        """
        raise NotImplementedError

    def read_answers(self, paths: Sequence[Path], examples: Sequence[Example]) -> Answers:
        """Read answers: ours, LLaVA's or the benchmark's own form.

        Args:
            paths: Files or folders, as `--answers` names them.
            examples: What `read` gave, for forms whose rows do not carry the example's id.

        Returns:
            Text by example id; None for a generation that failed.

        Raises:
            ValueError: A row without id or text, or two rows for one example.
        """
        return answer_files.read_answers(paths, self.answer_id, self.text_fields)

    def answer_id(self, row: Mapping[str, Any]) -> str:
        """The id of the example that a row answers."""
        return answer_files.first_id(row, self.id_fields)

    def with_boxes(self, box_format: str) -> "Task":
        """The same task, for answers whose boxes stand there in that convention, a key of `BOX_FORMATS`.

        Raises:
            ValueError: Its answers hold no boxes, or there is no such convention.
        """
        raise ValueError(f"--box_format {box_format}: answers to {self.name} hold no boxes. Leave it out.")

    # ---- scoring ----

    def grade(self, example: Example, answer: Any) -> Any:
        """Look at one answer.

        Returns:
            0 (wrong) to 1 (right), or what the task's own `statistics` and `points` understand.
        """
        raise NotImplementedError

    def grade_failure(self, example: Example) -> Any:
        """The grade of a generation that failed: wrong."""
        return 0.0

    def grade_all(self, examples: Sequence[Example], answers: Answers) -> list[Graded]:
        """Grade every example that has an answer. Overridden where a grade depends on more than one answer."""
        graded = []
        for example in examples:
            if example.id in answers:
                answer = answers[example.id]
                grade = self.grade_failure(example) if answer is None else self.grade(example, answer)
                graded.append(Graded(example, answer_files.plain_text(answer), grade))
        return graded

    def points(self, graded: Graded) -> float:
        """A grade as a number from 0 to 1, for the list of worst answers and for paired comparisons by example."""
        return float(graded.grade)

    def truth_text(self, example: Example) -> str:
        """The truth as the report shows it."""
        truth = example.truth
        return ", ".join(map(str, truth)) if isinstance(truth, list | tuple) else str(truth)

    def groups(self, example: Example) -> Sequence[str]:
        """The scores that an example counts in."""
        return (self.main_score,)

    def cluster(self, example: Example) -> str:
        """The group of examples that an example is drawn with. Default: those about the same picture; without one, itself."""
        return " ".join(map(image_key, example.images)) or example.id

    def statistics(self, cluster: Sequence[Graded]) -> dict[str, float]:
        """What a cluster adds to the statistics that `scores` is a function of.

        The default serves means: the grades of each group, and how many they are.
        """
        totals: dict[str, float] = {}
        for graded in cluster:
            for group in self.groups(graded.example):
                totals[group] = totals.get(group, 0.0) + graded.grade
                totals[count_of(group)] = totals.get(count_of(group), 0.0) + 1
        return totals

    def scores(self, statistics: Statistics) -> dict[str, Any]:
        """The scores as the paper's table has them, from the sums of the clusters' statistics.

        By default the mean of each group, in %.
        """
        return {
            name: 100 * ratio(statistics[name], statistics[count_of(name)])
            for name in statistics
            if count_of(name) in statistics
        }

    # ---- for the benchmark's server ----

    def write_submission(self, examples: Sequence[Example], answers: Answers, path: Path) -> None:
        """Write the file that the benchmark's server takes.

        Raises:
            ValueError: The benchmark has no server.
        """
        raise ValueError(f"{self.name} has no submission server; its scores are computed here.")


def count_of(name: str) -> str:
    """The key of a group's size among the statistics."""
    return f"{name} (count)"


def ratio(numerator: Any, denominator: Any) -> Any:
    """A quotient of floats or arrays; not a number where the denominator is 0, as in a draw without such an example."""
    import numpy as np

    with np.errstate(divide="ignore", invalid="ignore"):
        return np.divide(numerator, denominator)
