"""TextVQA: questions about text in pictures, compared as M4C's evaluator does, which LLaVA's `eval_textvqa.py` uses."""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...rows.answer_formats import SHORT_ANSWER, short_answer
from ...rows.official_fields import field
from ..metrics.vqa_accuracy import normalize_evalai, soft_accuracy
from ..reading import answers as answer_files
from ..reading.answers import Answers, first_id
from ..reading.official_files import has_keys, official_contents, write_json
from ..task import Example, Task
from .short_answers import public_answers

ANNOTATIONS, OCR = "TextVQA annotations", "Rosetta's OCR tokens"
LLAVA_QUESTIONS = "LLaVA's questions (.jsonl)"
OCR_LINE = "Reference OCR token: "
OLD_PROMPT = re.compile(r"Question: (.*?) Short answer:", re.DOTALL)

Key = tuple[str, str]  # an image's id, and a question in lower case


class TextVQA(Task):
    """TextVQA (arXiv:1904.08920).

    LLaVA's answers carry the image's id as `question_id` and the question in `prompt`, and are joined by these two; all
    others by the official question id. LLaVA's script keeps one annotation for each image and question, the last one;
    should a question stand there twice, its last ten answers count for both.
    """

    name = "textvqa"
    title = "TextVQA"
    source = "arXiv:1904.08920; haotian-liu/LLaVA, llava/eval/eval_textvqa.py and m4c_evaluator.py"
    files = (
        "TextVQA_0.5.1_val.json; with TextVQA_Rosetta_OCR_v0.2_val.json the prompts name OCR tokens, as LLaVA-1.5's"
    )
    text_fields = ("text", "answer")

    def read(self, paths: Sequence[Path]) -> list[Example]:
        """Read annotations; OCR tokens or LLaVA's file of questions add to the prompts."""
        kinds = {
            ANNOTATIONS: lambda content: isinstance(content, dict) and has_keys(content.get("data"), "question"),
            OCR: lambda content: isinstance(content, dict) and has_keys(content.get("data"), "ocr_tokens"),
            LLAVA_QUESTIONS: lambda content: has_keys(content, "question_id", "text", "image"),
        }
        found = official_contents(paths, kinds)
        tokens = {entry["image_id"]: entry["ocr_tokens"] for _, content in found[OCR] for entry in content["data"]}
        prompts = {
            (str(row["question_id"]), asked_question(row["text"])): row["text"]
            for _, rows in found[LLAVA_QUESTIONS]
            for row in rows
        }
        entries = [(path, entry) for path, content in found[ANNOTATIONS] for entry in content["data"]]
        if not entries:
            raise ValueError(
                f"textvqa: none of {[str(path) for path in paths]} holds annotations, such as {self.files}."
            )
        people = {_key(entry): entry.get("answers") for _, entry in entries}
        return [
            Example(
                id=str(field(entry, "question_id", path, "?")),
                prompt=prompts.get(_key(entry)) or _prompt(entry["question"], tokens.get(entry["image_id"])),
                truth=people[_key(entry)],
                images=[f"{entry['image_id']}.jpg"],
                meta={"image_id": entry["image_id"], "question": entry["question"].lower()},
            )
            for path, entry in entries
        ]

    def read_answers(self, paths: Sequence[Path], examples: Sequence[Example]) -> Answers:
        """Read answers by question id, or LLaVA's by image and question."""
        ids: dict[Key, Iterator[str]] = {}
        grouped: defaultdict[Key, list[str]] = defaultdict(list)
        for example in examples:
            grouped[example.meta["image_id"], example.meta["question"]].append(example.id)
        ids = {key: iter(group) for key, group in grouped.items()}

        def answer_id(row: Mapping[str, Any]) -> str:
            key = first_id(row, self.id_fields)
            if not isinstance(row.get("prompt"), str):
                return key
            # A third answer to a question that stands there twice is one too many, and so is refused
            return next(ids.get((key, asked_question(row["prompt"])), iter(())), key)

        return answer_files.read_answers(paths, answer_id, self.text_fields)

    def grade(self, example: Example, answer: str) -> float:
        """M4C's accuracy: VQA's, of answers and human answers that are both normalised."""
        people = [normalize_evalai(text) for text in public_answers(self, example)]
        return soft_accuracy(normalize_evalai(answer), people)

    def write_submission(self, examples: Sequence[Example], answers: Answers, path: Path) -> None:
        """Write what TextVQA's server on EvalAI takes."""
        rows = [
            {"question_id": int(example.id), "answer": normalize_evalai(answers.get(example.id) or "")}
            for example in examples
        ]
        write_json(rows, path)


def asked_question(prompt: str) -> str:
    """The question in one of LLaVA's prompts, in lower case: without its OCR tokens and the prompt for a short answer.

    Raises:
        ValueError: It is none of LLaVA's prompts.
    """
    lines = prompt.split("\n")
    old = OLD_PROMPT.search(prompt) if prompt.startswith("OCR tokens: ") else None
    if old:
        question = old[1]
    elif OCR_LINE in prompt and len(lines) == 3:
        question = lines[1] if prompt.startswith(OCR_LINE.strip()) else lines[0]
    elif len(lines) == 2:
        question = lines[0]
    else:
        raise ValueError(f"prompt={prompt!r} is none of the forms that LLaVA asks TextVQA with.")
    return question.lower()


def _key(entry: Mapping[str, Any]) -> Key:
    return str(entry["image_id"]), entry["question"].lower()


def _prompt(question: str, tokens: Sequence[str] | None) -> str:
    if tokens is None:
        return short_answer(question)
    return "\n".join([question, OCR_LINE + ", ".join(tokens), SHORT_ANSWER])
