"""ScienceQA rows as the paper organises them: question and context in, reasoning then answer out.

Reads the official `problems.json` (arXiv:2209.09513). Section 5.2 of arXiv:2304.08485: each question is one
conversation of one turn, and the answer follows the reasoning (the lecture and the solution).
"""

import os
from collections.abc import Iterator
from typing import Any

from ...rows.answer_formats import LETTERS
from ...rows.bad_rows import BadAnnotation, BadAnnotations
from ...rows.official_fields import field
from ...rows.schema import make_row
from ...rows.text_files import read_json

ANSWER_ORDERS = ("reasoning_first", "answer_first")


def scienceqa_rows(
    problems: str | os.PathLike,
    split: str = "train",
    answer_order: str = "reasoning_first",
    bad: BadAnnotations | None = None,
) -> Iterator[dict[str, Any]]:
    """Rows of one split.

    Args:
        problems: Path of the official `problems.json`.
        split: "train", "val", "trainval", "test", or whatever the file's problems name.
        answer_order: "reasoning_first" (the paper's choice) or "answer_first" (its ablation, Table 8).
        bad: What to do with a problem that cannot be used. Default: stop.

    Yields:
        Rows of the original's format; the image, where there is one, is `<split>/<id>/<file>`, the official layout.

    Raises:
        ValueError: An unknown `answer_order`, a split without problems, or a file of another form.
        BadAnnotation: A problem that lacks a field, or whose answer is no option; the message names it.
    """
    if answer_order not in ANSWER_ORDERS:
        raise ValueError(f"answer_order={answer_order!r} is unknown; choose one of {ANSWER_ORDERS}.")
    content = read_json(problems, "Is the file complete? Download it again.")
    if not isinstance(content, dict):
        raise ValueError(f"{problems} is not ScienceQA's problems.json: it must be an object of id -> problem.")
    splits = ("train", "val") if split == "trainval" else (split,)
    bad, chosen, known = bad or BadAnnotations(), {}, set()
    for key, problem in content.items():
        with bad.caught():
            found = str(field(problem, "split", problems, key))
            known.add(found)
            if found in splits:
                chosen[key] = problem
    if not chosen:
        raise ValueError(f"split={split!r} has no problems in {problems}; it has {sorted(known)}.")
    yield from bad.map(lambda item: _row(*item, problems, answer_order), chosen.items())


def _row(key: str, problem: dict[str, Any], path: str | os.PathLike, answer_order: str) -> dict[str, Any]:
    _, choices, number = (field(problem, name, path, key) for name in ("question", "choices", "answer"))
    if not 0 <= number < len(choices) <= len(LETTERS):
        raise BadAnnotation(
            f"{path}, problem {key!r}: answer {number} is none of its {len(choices)} choices. Correct it or drop it."
        )
    image = f"{problem['split']}/{key}/{problem['image']}" if problem.get("image") else None
    return make_row(key, image, [(_question(problem), _answer(problem, answer_order))])


def _question(problem: dict[str, Any]) -> str:
    lines = [f"Question: {problem['question']}"]
    if problem.get("hint"):
        lines.append(f"Context: {problem['hint']}")
    options = " ".join(f"({LETTERS[i]}) {choice}" for i, choice in enumerate(problem["choices"]))
    return "\n".join([*lines, f"Options: {options}"])


def _answer(problem: dict[str, Any], answer_order: str) -> str:
    answer = f"The answer is {LETTERS[problem['answer']]}."
    reasoning = "\n".join(part.strip() for part in (problem.get("lecture"), problem.get("solution")) if part)
    if not reasoning:
        return answer
    return f"{reasoning}\n{answer}" if answer_order == "reasoning_first" else f"{answer}\n{reasoning}"
