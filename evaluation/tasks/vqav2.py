"""VQAv2 and OK-VQA: open questions, ten human answers each, and the official soft accuracy."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...rows.answer_formats import short_answer
from ...rows.official_fields import field
from ..metrics.vqa_accuracy import normalize_evalai, vqa_accuracy
from ..reading.answers import Answers
from ..reading.official_files import has_keys, official_contents, write_json
from ..task import Example, Task
from .short_answers import ShortAnswerTask, public_answers

ANNOTATIONS, QUESTIONS, LLAVA_QUESTIONS = "VQA annotations", "VQA questions", "LLaVA's questions (.jsonl)"


class VQAv2(ShortAnswerTask):
    """VQAv2 (arXiv:1612.00837), scored like `vqaEval.py` of https://github.com/GT-Vision-Lab/VQA."""

    name = "vqav2"
    title = "VQAv2"
    source = "arXiv:1612.00837; GT-Vision-Lab/VQA, PythonEvaluationTools/vqaEvaluation/vqaEval.py"
    files = "v2_mscoco_val2014_annotations.json and v2_OpenEnded_mscoco_val2014_questions.json; test: questions alone"
    columns: Sequence[str] = ("yes/no", "number", "other", "accuracy")

    def read(self, paths: Sequence[Path]) -> list[Example]:
        """Read annotations, questions, or both; or LLaVA's questions of a test split."""
        kinds = {
            ANNOTATIONS: lambda content: has_keys(content, "annotations") and isinstance(content, dict),
            QUESTIONS: lambda content: has_keys(content, "questions") and isinstance(content, dict),
            LLAVA_QUESTIONS: lambda content: has_keys(content, "question_id", "text", "image"),
        }
        found = official_contents(paths, kinds)
        questions = dict(_questions(found[QUESTIONS], found[LLAVA_QUESTIONS]))
        examples = [
            self._example(entry, questions, content, path)
            for path, content in found[ANNOTATIONS]
            for entry in content["annotations"]
        ]
        if found[ANNOTATIONS]:
            return examples
        return [Example(key, prompt, None, [image]) for key, (prompt, image) in questions.items()]

    def _example(
        self, entry: Any, questions: Mapping[str, tuple[str, str]], content: Mapping[str, Any], path: Path
    ) -> Example:
        key = str(field(entry, "question_id", path, "?"))
        if questions and key not in questions:
            raise ValueError(f"{path}: question {key} stands in no file of questions. Name the files of one split.")
        prompt, image = questions.get(key, ("", _image(content, entry)))
        people = [field(answer, "answer", path, key) for answer in field(entry, "answers", path, key)]
        return Example(key, prompt, people, [image], {"groups": self.groups_of(entry, content)})

    def groups_of(self, entry: Mapping[str, Any], content: Mapping[str, Any]) -> list[str]:
        """The scores that a question counts in: the accuracy, and that of its type of answer."""
        return [self.main_score, str(entry["answer_type"])] if "answer_type" in entry else [self.main_score]

    def groups(self, example: Example) -> Sequence[str]:
        return example.meta["groups"]

    def grade(self, example: Example, answer: str) -> float:
        """The official soft accuracy.

        Raises:
            ValueError: The split's answers are not public.
        """
        return vqa_accuracy(answer, public_answers(self, example))

    def write_submission(self, examples: Sequence[Example], answers: Answers, path: Path) -> None:
        """Write what VQA's server on EvalAI takes. As LLaVA has it, a question without an answer gets an empty one."""
        rows = [
            {"question_id": _number(example.id), "answer": normalize_evalai(answers.get(example.id) or "")}
            for example in examples
        ]
        write_json(rows, path)


class OKVQA(VQAv2):
    """OK-VQA (arXiv:1906.00067), whose evaluation is VQA's, also by category of knowledge."""

    name = "okvqa"
    title = "OK-VQA"
    source = "arXiv:1906.00067; GT-Vision-Lab/VQA, PythonEvaluationTools/vqaEvaluation/vqaEval.py"
    files = "mscoco_val2014_annotations.json and OpenEnded_mscoco_val2014_questions.json of okvqa.allenai.org"
    columns = ("accuracy",)

    def groups_of(self, entry: Mapping[str, Any], content: Mapping[str, Any]) -> list[str]:
        kinds = content.get("question_types") or {}
        kind = str(entry.get("question_type", ""))
        name = "_".join(str(kinds.get(kind, kind)).lower().replace(",", " ").split())
        return [self.main_score, name] if name else [self.main_score]

    def write_submission(self, examples: Sequence[Example], answers: Answers, path: Path) -> None:
        """There is nothing to write.

        Raises:
            ValueError: Always.
        """
        Task.write_submission(self, examples, answers, path)


def _questions(
    official: Sequence[tuple[Path, Any]], llava: Sequence[tuple[Path, Any]]
) -> Iterator[tuple[str, tuple[str, str]]]:
    """Question id, prompt and image."""
    for path, content in official:
        for entry in content["questions"]:
            key = str(field(entry, "question_id", path, "?"))
            yield key, (short_answer(field(entry, "question", path, key)), _image(content, entry))
    for path, rows in llava:
        for row in rows:
            key = str(field(row, "question_id", path, "?"))
            yield key, (field(row, "text", path, key), field(row, "image", path, key))


def _image(content: Mapping[str, Any], entry: Mapping[str, Any]) -> str:
    """COCO's name of the image; `test-dev2015` has the images of `test2015`."""
    subset = str(content.get("data_subtype", "val2014")).replace("test-dev", "test")
    return f"COCO_{subset}_{int(entry['image_id']):012d}.jpg"


def _number(key: str) -> int | str:
    return int(key) if key.isdigit() else key
