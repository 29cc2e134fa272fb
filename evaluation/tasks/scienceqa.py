"""ScienceQA: multiple choice with a lecture and a solution, scored by subject, kind of context and grade.

Sources: ScienceQA (arXiv:2209.09513; groups as in `tools/evaluate_acc.py` of https://github.com/lupantech/ScienceQA) and
LLaVA (arXiv:2304.08485, section 5.2; parse as in `llava/eval/eval_science_qa.py`, which has no random fallback).
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...rows.answer_formats import LETTERS, OPTION_LETTER
from ..reading.answers import Answers, json_content, json_rows, whole_number
from ..task import Example, Task

CHOICES = LETTERS[:5]  # as many as the benchmark has
THE_ANSWER = re.compile(r"The answer is ([A-Z]).")

SUBJECTS = {"natural science": "NAT", "social science": "SOC", "language science": "LAN"}
GRADES = {f"grade{number}": "G1-6" if number <= 6 else "G7-12" for number in range(1, 13)}
SPLIT = "test"


class ScienceQA(Task):
    name = "scienceqa"
    title = "ScienceQA"
    source = "arXiv:2209.09513; LLaVA's eval_science_qa.py"
    files = "problems.json, and pid_splits.json where the problems do not name their split (folder data/scienceqa)"
    main_score = "average"
    columns = ("NAT", "SOC", "LAN", "TXT", "IMG", "NO", "G1-6", "G7-12", "average")

    def read(self, paths: Sequence[Path]) -> list[Example]:
        problems: dict[str, Any] = {}
        chosen: list[str] | None = None
        for path in self._files(paths):
            content = json_content(path)
            if not isinstance(content, dict):
                raise ValueError(f"{path} is neither ScienceQA's problems.json nor its pid_splits.json.")
            if isinstance(content.get(SPLIT), list):
                chosen = content[SPLIT]
            else:
                problems |= content
        if chosen is None:
            chosen = [key for key, problem in problems.items() if problem.get("split") == SPLIT]
        if not chosen or not set(chosen) <= set(problems):
            raise ValueError(f"no problems of the split {SPLIT!r}, or not all of them, in {[str(p) for p in paths]}.")
        return [_example(key, problems[key]) for key in chosen]

    def _files(self, paths: Sequence[Path]) -> list[Path]:
        files = []
        for path in paths:
            names = ("problems.json", "pid_splits.json")
            files += [path / name for name in names if (path / name).is_file()] if path.is_dir() else [path]
        return files

    def read_answers(self, paths: Sequence[Path], examples: Sequence[Example]) -> Answers:
        """Also the files that LLaVA's and the benchmark's scripts write: `outputs` are texts by id, `results` are numbers of
        options, and `correct` and `incorrect` are lists of rows."""
        first = next(iter(json_rows(paths[0])), {}) if len(paths) == 1 and paths[0].is_file() else {}
        if isinstance(first.get("outputs"), dict):
            return {str(key): str(text) for key, text in first["outputs"].items()}
        if isinstance(first.get("results"), dict):
            return {str(key): _letter(number) for key, number in first["results"].items()}
        if {"correct", "incorrect"} <= set(first):
            return {str(row["question_id"]): row["pred"] for row in (*first["correct"], *first["incorrect"])}
        return super().read_answers(paths, examples)

    def grade(self, example: Example, answer: str) -> float:
        return float(parse_option(answer, len(example.meta["choices"])) == example.truth)

    def truth_text(self, example: Example) -> str:
        return f"{CHOICES[example.truth]}. {example.meta['choices'][example.truth]}"

    def groups(self, example: Example) -> list[str]:
        meta = example.meta
        context = ["TXT"] * bool(meta["hint"]) + ["IMG"] * bool(example.images)
        groups = [SUBJECTS.get(meta["subject"]), *(context or ["NO"]), GRADES.get(meta["grade"]), "average"]
        return [group for group in groups if group]


def parse_option(text: str, num_choices: int) -> int | None:
    """The number of the option that an answer names; None where it names none, several, or one that is not there."""
    letter = named_option(text)
    number = -1 if letter is None else CHOICES.find(letter)
    return number if 0 <= number < num_choices else None


def named_option(text: str) -> str | None:
    """The one letter that an answer names, whether there is such an option or not."""
    if text in list(CHOICES) or (len(text) >= 3 and text[0] in CHOICES and text[1:3] == ". "):
        return text[0]
    named = THE_ANSWER.findall(text)
    return named[0] if len(named) == 1 else None


def _letter(number: Any) -> str:
    return CHOICES[int(number)] if 0 <= int(number) < len(CHOICES) else "FAILED"


def _truth(key: str, problem: Mapping[str, Any]) -> int:
    """The number of the right choice."""
    try:
        number = whole_number(problem["answer"])
    except ValueError as error:
        raise ValueError(f"scienceqa: the answer to problem {key} is {error}") from error
    if not 0 <= number < len(problem["choices"]):
        raise ValueError(
            f"scienceqa: the answer to problem {key} is {number}, none of {len(problem['choices'])} choices."
        )
    return number


def _example(key: str, problem: Mapping[str, Any]) -> Example:
    image = problem.get("image")
    context = [f"Context: {problem['hint']}"] if problem.get("hint") else []
    options = [f"{letter}. {choice}" for letter, choice in zip(CHOICES, problem["choices"], strict=False)]
    asked = "\n".join([*context, problem["question"], *options])
    meta = {name: problem.get(name) for name in ("subject", "grade", "hint", "question", "choices")}
    return Example(
        id=str(key),
        prompt=f"{asked}\n{OPTION_LETTER}",
        truth=_truth(key, problem),
        images=[f"{problem.get('split', SPLIT)}/{key}/{image}"] if image else [],
        meta={**meta, "asked": asked},
        choices=list(CHOICES[: len(problem["choices"])]),
    )
