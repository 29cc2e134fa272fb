"""VizWiz: questions that blind people asked about their own photographs, many of which cannot be answered."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...rows.answer_formats import SHORT_ANSWER
from ...rows.official_fields import field
from ..metrics.vqa_accuracy import normalize, normalize_evalai, one_line, soft_accuracy
from ..reading.answers import Answers
from ..reading.official_files import has_keys, official_contents, write_json
from ..task import Example
from .short_answers import ShortAnswerTask, public_answers

ANNOTATIONS, LLAVA_QUESTIONS = "VizWiz annotations", "LLaVA's questions (.jsonl)"
# LLaVA-1.5 (arXiv:2310.03744, appendix A): the model is told how to say that a question cannot be answered
UNANSWERABLE = "When the provided information is insufficient, respond with 'Unanswerable'."


class VizWiz(ShortAnswerTask):
    """VizWiz (arXiv:1802.08218), scored like `vqaEval.py` of the VizWiz API.

    It normalises the answer and takes what people wrote as it stands, and leaves people out one by one even where two
    wrote the same. Examples are known by their image, since each has one question.
    """

    name = "vizwiz"
    title = "VizWiz"
    source = "arXiv:1802.08218; VizWiz API, vqaEval.py"
    files = "val.json, or test.json for a submission; LLaVA's llava_test.jsonl beside it for LLaVA's own ids"
    columns = ("yes/no", "number", "other", "unanswerable", "accuracy")
    id_fields = ("image", "id", "question_id")

    def read(self, paths: Sequence[Path]) -> list[Example]:
        """Read annotations; LLaVA's questions say which ids its answers have."""
        kinds = {
            LLAVA_QUESTIONS: lambda content: has_keys(content, "question_id", "image", "text"),
            ANNOTATIONS: lambda content: isinstance(content, list) and has_keys(content, "image", "question"),
        }
        found = official_contents(paths, kinds)
        rows = {str(row["image"]): row for _, content in found[LLAVA_QUESTIONS] for row in content}
        entries = {
            str(field(entry, "image", path, number)): entry
            for path, content in found[ANNOTATIONS]
            for number, entry in enumerate(content)
        }
        return [_example(image, entries.get(image, {}), rows.get(image, {})) for image in entries or rows]

    def read_answers(self, paths: Sequence[Path], examples: Sequence[Example]) -> Answers:
        """Read answers by image, or by the ids that LLaVA's file of questions gave."""
        images = {example.meta["question_id"]: example.id for example in examples}
        return {images.get(key, key): text for key, text in super().read_answers(paths, examples).items()}

    def groups(self, example: Example) -> Sequence[str]:
        answer_type = example.meta["answer_type"]
        return [self.main_score, answer_type] if answer_type else [self.main_score]

    def grade(self, example: Example, answer: str) -> float:
        """The official soft accuracy."""
        return soft_accuracy(normalize(one_line(answer)), public_answers(self, example))

    def write_submission(self, examples: Sequence[Example], answers: Answers, path: Path) -> None:
        """Write what VizWiz's server on EvalAI takes."""
        write_json(
            [{"image": example.id, "answer": normalize_evalai(answers.get(example.id) or "")} for example in examples],
            path,
        )


def _example(image: str, entry: Mapping[str, Any], row: Mapping[str, Any]) -> Example:
    prompt = row.get("text") or "\n".join([entry["question"], UNANSWERABLE, SHORT_ANSWER])
    people = [answer["answer"] for answer in entry.get("answers") or []]
    meta = {"answer_type": entry.get("answer_type"), "question_id": str(row.get("question_id", image))}
    return Example(image, prompt, people or None, [image], meta)
