"""GQA: compositional questions about scenes, right when the answer is the very word."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...rows.answer_formats import short_answer
from ...rows.official_fields import field
from ..reading.official_files import official_contents
from ..task import Example
from .short_answers import ShortAnswerTask

# The official names of the semantic types' abbreviations
SEMANTIC = {"attr": "attribute", "cat": "category", "global": "scene", "obj": "object", "rel": "relation"}


class GQA(ShortAnswerTask):
    """GQA (arXiv:1902.09506), scored like its `eval.py` without the choices, which `testdev` lacks.

    Accuracy counts the balanced questions, all of them, those with a yes or no or a choice (`binary`) and the `open` ones,
    and by structural and semantic type.
    """

    name = "gqa"
    title = "GQA"
    source = "arXiv:1902.09506; eval.py of https://cs.stanford.edu/people/dorarad/gqa/evaluate.html"
    files = "testdev_balanced_questions.json"
    columns = ("binary", "open", "accuracy")
    id_fields = ("question_id", "questionId", "id")
    text_fields = ("text", "prediction")

    def tidy(self, text: str) -> str:
        """As LLaVA's `scripts/convert_gqa_for_eval.py`: in lower case, without the closing period."""
        return text.rstrip(".").lower()

    def read(self, paths: Sequence[Path]) -> list[Example]:
        """Read the balanced questions; the official accuracy leaves out the others."""
        (files,) = official_contents(paths, {"GQA's questions, an object by id": _is_questions}, (".json",)).values()
        return [
            _example(key, entry, path)
            for path, content in files
            for key, entry in content.items()
            if entry.get("isBalanced", True)
        ]

    def groups(self, example: Example) -> Sequence[str]:
        return example.meta["groups"]

    def grade(self, example: Example, answer: str) -> float:
        """1 if the answer is the official one, letter by letter; the official ones are in lower case."""
        return float(answer == str(example.truth).lower())


def _is_questions(content: Any) -> bool:
    if not isinstance(content, dict) or not content:
        return False
    first = next(iter(content.values()))
    return isinstance(first, dict) and {"question", "imageId"} <= set(first)


def _example(key: str, entry: Any, path: Path) -> Example:
    types = entry.get("types") or {}
    groups = ["accuracy"]
    if structural := types.get("structural"):
        groups += ["open" if structural == "query" else "binary", structural]
    if semantic := types.get("semantic"):
        groups.append(SEMANTIC.get(semantic, semantic))
    prompt = short_answer(field(entry, "question", path, key))
    return Example(key, prompt, entry.get("answer"), [f"{entry['imageId']}.jpg"], {"groups": groups})
