"""MME: two yes/no questions an image, scored by single answers (accuracy) and by images with both right (accuracy+).

Source: MME (arXiv:2306.13394; `calculation.py` of its eval_tool, https://github.com/BradyFU/Awesome-Multimodal-Large-
Language-Models). A subtask scores accuracy + accuracy+, at most 200; perception sums ten of them, cognition four. The
official tool reads text files of tab-parted lines, one a subtask: image, question, truth, answer. LLaVA's answers are JSON
lines with `question_id` "subtask/image" and the question as `prompt`.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...rows.answer_formats import SHORT_ANSWER
from ...rows.files import read_rows
from ...rows.text_files import read_text
from ..reading.answers import (
    Answers,
    answer_rows,
    answer_text,
    files_of,
    first_field,
    first_id,
    refuse_duplicates,
    yes_or_no,
)
from ..task import Example, Graded, Statistics, Task, count_of

PERCEPTION = (
    ("existence", "count", "position", "color", "posters")
    + ("celebrity", "scene", "landmark", "artwork", "OCR")
)  # fmt: skip
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
SUBTASKS = PERCEPTION + COGNITION

ASKED_BY_MME = "Please answer yes or no."
TEXT_FIELDS = ("text", "answer")


class Mme(Task):
    name = "mme"
    title = "MME"
    source = "arXiv:2306.13394; eval_tool/calculation.py"
    files = "MME_Benchmark_release_version/, or the eval_tool's text files (Your_Results/)"
    hub = "hf://datasets/lmms-lab/MME/data"
    main_score = "total"

    def read(self, paths: Sequence[Path]) -> list[Example]:
        examples: dict[str, Example] = {}
        for path in paths:
            for subtask, image, question, truth, picture in _questions(path):
                example = _example(subtask, image, question, truth, picture)
                if examples.setdefault(example.id, example) is not example:
                    raise ValueError(f"{path}: question {example.id!r} stands there twice. Name each file once.")
        if not examples:
            raise ValueError(f"no file of an MME subtask ({', '.join(SUBTASKS)}) in {[str(path) for path in paths]}.")
        return list(examples.values())

    def read_answers(self, paths: Sequence[Path], examples: Sequence[Example]) -> Answers:
        answers: Answers = {}
        duplicates = []
        for path in files_of(paths, (".txt", ".jsonl", ".json")):
            for key, text in _official_answers(path) if path.suffix == ".txt" else _json_answers(path):
                if answers.get(key) is not None:
                    duplicates.append(key)
                answers[key] = text
        refuse_duplicates(duplicates)
        return answers

    def grade(self, example: Example, answer: str) -> float:
        return float(parse_yes_no(answer) == example.truth)

    def cluster(self, example: Example) -> str:
        return f"{example.meta['subtask']}/{example.meta['image']}"

    def statistics(self, cluster: Sequence[Graded]) -> dict[str, float]:
        subtask = cluster[0].example.meta["subtask"]
        accuracy, plus = f"{subtask}_accuracy", f"{subtask}_accuracy+"
        return {
            accuracy: sum(graded.grade for graded in cluster),
            count_of(accuracy): len(cluster),
            plus: float(all(graded.grade for graded in cluster)),
            count_of(plus): 1,
        }

    def scores(self, statistics: Statistics) -> dict[str, Any]:
        """Perception, cognition and their total, then each subtask: the sum, and its two parts in per cent."""
        parts = super().scores(statistics)
        subtasks = [name for name in SUBTASKS if f"{name}_accuracy" in parts]
        each = {name: parts[f"{name}_accuracy"] + parts[f"{name}_accuracy+"] for name in subtasks}
        groups = {"perception": PERCEPTION, "cognition": COGNITION}
        summed = {group: sum(each[name] for name in names if name in each) for group, names in groups.items()}
        return {**summed, "total": summed["perception"] + summed["cognition"], **each, **parts}


def parse_yes_no(text: str) -> str:
    """`yes`, `no` or `other`: by the first four characters, where yes goes before no."""
    start = text.lower()[:4]
    return "yes" if "yes" in start else "no" if "no" in start else "other"


def question_id(subtask: str, image: str, question: str) -> str:
    """The id by which questions and answers are joined; how the answer was asked for differs between sources."""
    bare = " ".join(question.replace(ASKED_BY_MME, "").replace(SHORT_ANSWER, "").split())
    return f"{subtask}/{Path(image).stem}: {bare}"


def _example(subtask: str, image: str, question: str, truth: str, picture: Any) -> Example:
    key = question_id(subtask, image, question)
    return Example(
        id=key,
        prompt=f"{key.partition(': ')[2]}\n{SHORT_ANSWER}",
        truth="yes" if yes_or_no(truth, f"mme: question {key!r}") else "no",
        images=[picture],
        choices=["Yes", "No"],
        meta={"subtask": subtask, "image": Path(image).stem, "question": question},
    )


# ---- reading ----


def _questions(path: Path) -> Iterator[tuple[str, str, str, str, Any]]:
    """Subtask, image, question, truth, and the image's path or content."""
    tables = sorted(path.glob("*.parquet")) if path.is_dir() else [path] if path.suffix == ".parquet" else []
    for row in itertools.chain.from_iterable(map(read_rows, tables)):
        yield row["category"], row["question_id"], row["question"], row["answer"], row["image"]
    if path.is_file() and not tables:
        yield from _tool_lines(path)
    for subtask in SUBTASKS:
        if (path / f"{subtask}.txt").is_file():
            yield from _tool_lines(path / f"{subtask}.txt")
        elif (path / subtask).is_dir():
            yield from _release_lines(path / subtask)


def _tool_lines(path: Path) -> Iterator[tuple[str, str, str, str, str]]:
    for number, parts in _tab_parted(path):
        if len(parts) < 3 or parts[2].strip().lower() not in ("yes", "no"):
            raise ValueError(f"{path}, line {number}: image, question and yes or no are expected, parted by tabs.")
        yield path.stem, parts[0], parts[1], parts[2], f"{path.stem}/{parts[0]}"


def _release_lines(folder: Path) -> Iterator[tuple[str, str, str, str, str]]:
    """A subtask of the release: a text file an image, beside it, or in folders of their own."""
    apart = (folder / "questions_answers_YN").is_dir()
    images = {file.stem: file for file in (folder / "images" if apart else folder).iterdir() if file.suffix != ".txt"}
    for path in sorted((folder / "questions_answers_YN" if apart else folder).glob("*.txt")):
        for number, parts in _tab_parted(path):
            if len(parts) != 2 or path.stem not in images:
                raise ValueError(
                    f"{path}, line {number}: a question, a tab and the answer are expected, and an image."
                )
            image = images[path.stem]
            yield folder.name, image.name, parts[0], parts[1], str(image.relative_to(folder.parent))


def _tab_parted(path: Path) -> Iterator[tuple[int, list[str]]]:
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip():
            yield number, line.rstrip("\r").split("\t")


def _official_answers(path: Path) -> Iterator[tuple[str, str]]:
    for number, parts in _tab_parted(path):
        if len(parts) != 4:
            raise ValueError(f"{path}, line {number}: {len(parts)} parts; image, question, truth and answer are four.")
        yield question_id(path.stem, parts[0], parts[1]), parts[3]


def _json_answers(path: Path) -> Iterator[tuple[str, str | None]]:
    for number, row in enumerate(answer_rows(path, TEXT_FIELDS), start=1):
        try:
            yield _row_id(row), None if row.get("error") else answer_text(row, TEXT_FIELDS)
        except ValueError as error:
            raise ValueError(f"{path}, answer {number}: {error}") from error


def _row_id(row: Mapping[str, Any]) -> str:
    """Ours is the id; LLaVA's row has the subtask and the image in `question_id` and the question in `prompt`."""
    if "prompt" not in row:
        return first_id(row, ("id", "question_id"))
    image = first_field(row, ("question_id",))
    return question_id(image.partition("/")[0], image, str(row["prompt"]))
