"""LLaVA-Bench (COCO) and (In-the-Wild): a judge rates a model's answers beside reference answers."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...endpoints.journal import Line
from ...endpoints.request import Request
from ...rows.files import write_rows
from ...rows.official_fields import field
from ..judging.judge import judge_request, text_of
from ..judging.judged_task import JudgedTask
from ..reading.answers import Answers, Reviewed, files_of, json_rows
from ..reading.official_files import has_keys, official_contents
from ..task import Example, Graded, Statistics, count_of, ratio
from .llava_bench_judging import SYSTEM, comparison, parse_scores

QUESTIONS, CONTEXTS = "questions", "contexts (captions of the images)"
REVIEWS, ANSWERS, RULES = "reviews", "reference answers", "the judge's prompts (rule.json)"

CATEGORIES = {"conv": "conversation", "detail": "detail", "complex": "complex"}
PREFIX = "llava_bench_"  # of the categories in reviews of (In-the-Wild)
# What a failed generation gets, on the judge's scale: the reference's answer is perfect, and there is nothing beside it
FAILED = (10.0, 1.0)

Pair = tuple[float, float]  # the judge's scores of the reference and of the model, 1 to 10


@dataclass(frozen=True)
class Reviews(Reviewed):
    """What a judge wrote on one answer, in all files of reviews.

    Args:
        pairs: The scores, by the number of the file; None where the text made no sense.
    """

    pairs: dict[int, Pair | None]


class LlavaBench(JudgedTask):
    """LLaVA-Bench (COCO) (arXiv:2304.08485, section 5.1) and (In-the-Wild) (arXiv:2310.03744).

    The relative score is the sum of the model's scores over the sum of the reference's, in %, by kind of question and over
    all, as `summarize_gpt_review.py` has it (with its rounding of the two means to three decimals). Several files of
    reviews give the mean of their relative scores, and their standard deviation as `*_std`.
    """

    name = "llava_bench"
    title = "LLaVA-Bench"
    source = (
        "arXiv:2304.08485; haotian-liu/LLaVA, llava/eval/eval_gpt_review_{visual,bench}.py, summarize_gpt_review.py"
    )
    files = (
        "questions.jsonl; to judge also context.jsonl, answers_gpt4.jsonl, and rule.json for the original's prompts"
    )
    main_score = "overall"
    columns = ("conversation", "detail", "complex", "overall")
    judge_temperature = 0.2

    def read(self, paths: Sequence[Path]) -> list[Example]:
        """Read questions with what a judge is shown beside them; or reviews alone, for their ids and categories."""
        kinds = {
            REVIEWS: _is_reviews,
            QUESTIONS: lambda content: isinstance(content, list) and has_keys(content, "question_id", "image", "text"),
            ANSWERS: lambda content: isinstance(content, list) and has_keys(content, "question_id", "text"),
            CONTEXTS: lambda content: has_keys(content, "image", "caption") or has_keys(content, "image", "captions"),
            RULES: lambda content: (
                isinstance(content, dict) and bool(content) and has_keys([*content.values()], "prompt")
            ),
        }
        found = official_contents(paths, kinds)
        # Of several files, as in the official folder, it is not known which one is the reference; only a judge needs it
        answers = found[ANSWERS] if len(found[ANSWERS]) == 1 else []
        references = {str(row["question_id"]): row for _, rows in answers for row in rows}
        contexts = {row["image"]: row for _, rows in found[CONTEXTS] for row in rows}
        rules = {kind: rule for _, content in found[RULES] for kind, rule in content.items()}
        rows = {
            str(field(row, "question_id", path, number)): row
            for path, content in found[REVIEWS]
            + found[QUESTIONS]  # a question says more than its review, so it counts
            for number, row in enumerate(content)
        }
        return [
            _example(key, row, references.get(key), contexts.get(row.get("image")), rules) for key, row in rows.items()
        ]

    def read_answers(self, paths: Sequence[Path], examples: Sequence[Example]) -> Answers:
        """Read reviews; each file is a round of its own, and its relative scores are averaged with the others'."""
        texts: dict[str, list[str]] = {}
        pairs: dict[str, dict[int, Pair | None]] = {}
        failed = set()
        for number, path in enumerate(files_of(paths, (".jsonl", ".json"))):
            for row in json_rows(path):
                if not _is_reviews([row]):
                    raise self.not_reviewed(path)
                key = str(row["question_id"])
                if number in pairs.setdefault(key, {}):
                    raise ValueError(f"{path}: question {key!r} has more than one review. Leave one for each.")
                pairs[key][number] = _pair(row)
                texts.setdefault(key, []).append(str(row.get("content") or row.get("text") or ""))
                if row.get("failed"):
                    failed.add(key)
        return {key: None if key in failed else Reviews("\n\n".join(texts[key]), pairs[key]) for key in pairs}

    def groups(self, example: Example) -> Sequence[str]:
        return [name for name in (example.meta["category"], self.main_score) if name]

    def grade(self, example: Example, answer: str | Reviewed) -> dict[int, Pair | None]:
        """The pairs of scores.

        Raises:
            ValueError: The answer has not been reviewed.
        """
        if not isinstance(answer, Reviews):
            raise self.not_reviewed(Path(example.id))
        return answer.pairs

    def grade_failure(self, example: Example) -> dict[int, Pair | None]:
        return {0: FAILED}

    def grade_all(self, examples: Sequence[Example], answers: Answers) -> list[Graded]:
        """Grade; a failure counts in every file of reviews."""
        graded = super().grade_all(examples, answers)
        rounds = {number for entry in graded for number in entry.grade}
        for entry in graded:
            if entry.failed:
                entry.grade = dict.fromkeys(rounds, FAILED)
        return graded

    def points(self, graded: Graded) -> float:
        pairs = [pair for pair in graded.grade.values() if pair]
        return min(1.0, sum(model for _, model in pairs) / max(1e-9, sum(reference for reference, _ in pairs)))

    def statistics(self, cluster: Sequence[Graded]) -> dict[str, float]:
        totals: dict[str, float] = {}

        def add(name: str, value: float) -> None:
            totals[name] = totals.get(name, 0.0) + value

        for graded in cluster:
            for number, pair in graded.grade.items():
                if pair is None:
                    add("unscored", 1.0)
                    continue
                for group in self.groups(graded.example):
                    for name, value in zip((_reference(group, number), _model(group, number)), pair, strict=True):
                        add(name, value)
                        add(count_of(name), 1.0)
        return totals

    def scores(self, statistics: Statistics) -> dict[str, Any]:
        """Relative scores, and the two means times ten as the original prints them."""
        numbers = (name.removeprefix(_reference(self.main_score, "")) for name in statistics)
        rounds = sorted(int(number) for number in numbers if number.isdigit())
        scores: dict[str, Any] = {}
        for group in (self.main_score, *CATEGORIES.values()):
            there = [number for number in rounds if _reference(group, number) in statistics]
            means = [[_mean(statistics, name(group, number)) for number in there] for name in (_reference, _model)]
            if there:
                relative = [100 * ratio(model, reference) for reference, model in zip(*means, strict=True)]
                scores[group] = np.mean(relative, axis=0)
                scores[f"{group}_reference"], scores[f"{group}_model"] = (10 * np.mean(each, axis=0) for each in means)
                if len(there) > 1:
                    scores[f"{group}_std"] = np.std(relative, axis=0)
        return scores | ({"unscored": statistics["unscored"]} if "unscored" in statistics else {})

    def judge_requests(
        self, examples: Sequence[Example], answers: Answers, model: str, swapped: bool = False
    ) -> list[Request]:
        """A comparison of the reference's answer with the model's for each question."""
        requests = []
        for example in examples:
            answer = answers.get(example.id)
            if answer is not None:
                messages = [
                    {"role": "system", "content": SYSTEM},
                    {"role": "user", "content": comparison(example, answer, swapped)},
                ]
                kind = "swapped" if swapped else "review"
                requests.append(judge_request(example.id, kind, messages, model, self.judge_max_tokens))
        return requests

    def verdict(self, text: str) -> Pair | None:
        """The two scores in the first line, in the order shown."""
        return parse_scores(text)

    def write_reviews(
        self,
        examples: Sequence[Example],
        answers: Answers,
        requests: Sequence[Request],
        lines: Mapping[str, Line],
        path: Path,
        swapped: bool = False,
    ) -> None:
        """Write the original's `reviews/*.jsonl`; `tuple` is the reference's score, then the model's, in either order."""
        keys = {request.context_id: request.key for request in requests}
        write_rows(_review_rows(examples, answers, keys, lines, swapped), path)


def _review_rows(
    examples: Sequence[Example], answers: Answers, keys: Mapping[str, str], lines: Mapping[str, Line], swapped: bool
) -> Iterator[dict[str, Any]]:
    for number, example in enumerate(examples, start=1):
        row: dict[str, Any] = {"id": number, "question_id": example.id, "category": example.meta["official_category"]}
        if example.id in answers and answers[example.id] is None:
            yield row | {"failed": True, "content": "", "tuple": list(FAILED)}
        elif keys.get(example.id) in lines:
            text = text_of(lines[keys[example.id]])
            shown = parse_scores(text or "")
            pair = shown and (shown[::-1] if swapped else shown)
            yield row | {"swapped": swapped, "content": text or "", "tuple": list(pair or (-1, -1))}


def _example(
    key: str, row: Mapping[str, Any], reference: Any, context: Any, rules: Mapping[str, Mapping[str, str]]
) -> Example:
    category = str(row.get("category", ""))
    kind = category.removeprefix(PREFIX)
    if category and kind not in CATEGORIES:
        raise ValueError(
            f"llava_bench: question {key!r} is of category {category!r}; known ones are {list(CATEGORIES)}."
        )
    described = context or {}
    # Contexts of (In-the-Wild) have a caption, those of (COCO) captions and boxes, each with prompts of its own
    rule_name = kind if "captions" in described else PREFIX + kind
    meta = {
        "category": CATEGORIES.get(kind),
        "official_category": rule_name if context else category,
        "context": described,
        "rule": rules.get(rule_name),
    }
    image = row.get("image")
    question = row.get("text", "") if image else ""  # the text of a review is the judge's
    return Example(key, question, (reference or {}).get("text"), [image] if image else [], meta)


def _is_reviews(content: Any) -> bool:
    return has_keys(content, "question_id", "tuple") or has_keys(content, "question_id", "score")


def _pair(row: Mapping[str, Any]) -> Pair | None:
    """The scores in a review; the original marks what it could not read with -1."""
    reference, model = row["tuple"] if "tuple" in row else row["score"]
    return None if min(reference, model) < 0 else (float(reference), float(model))


def _reference(group: str, number: int | str) -> str:
    return f"{group}, reference, file {number}"


def _model(group: str, number: int | str) -> str:
    return f"{group}, model, file {number}"


def _mean(statistics: Statistics, name: str) -> Any:
    """A mean, rounded as the original rounds it before it divides one by the other."""
    mean = ratio(statistics[name], statistics[count_of(name)])
    return round(float(mean), 3) if np.ndim(mean) == 0 else np.round(mean, 3)
