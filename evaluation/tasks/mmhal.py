"""MMHal-Bench: a judge rates from 0 to 6 how informative an answer is and whether it makes things up."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...endpoints.journal import Line
from ...endpoints.request import Request
from ...rows.official_fields import field
from ..judging.judge import chat, judge_request, text_of
from ..judging.judged_task import JudgedTask
from ..reading import answers as answer_files
from ..reading.answers import Answers, Reviewed, files_of, json_content
from ..reading.official_files import has_keys, official_contents, write_json
from ..task import Example, Graded, Statistics, count_of, ratio

RATINGS = range(7)
NO_HALLUCINATION = 3  # and above
# Of the 96 questions in their official order, for files that lack `question_type`
TYPES = ("attribute", "adversarial", "comparison", "counting", "relation", "environment", "holistic", "other")

FAILED, MISSING = "the generation failed", "nobody was asked"  # in our files of reviews

SYSTEM = "You are an impartial and objective judge of answers about images."
# Of our own wording, with the paper's scale and what its judge is shown (arXiv:2309.14525, section 3.1)
PROMPT = """
Judge the response that a multimodal model gave to a question about an image. You cannot see the image; its main contents and
an answer written by a person are given. Two things count: whether the response is informative, and whether it hallucinates,
that is, states things that neither are in the image nor follow from what is. Claims about objects, actions, feelings or other
details all count.

Explain your judgement briefly. Then end with exactly one of these lines:
Rating: 6 (very informative with good analysis or reasoning, no hallucination)
Rating: 5 (very informative, no hallucination)
Rating: 4 (somewhat informative, no hallucination)
Rating: 3 (not informative, no hallucination)
Rating: 2 (very informative, with hallucination)
Rating: 1 (somewhat informative, with hallucination)
Rating: 0 (not informative, with hallucination)

### Image contents
{contents}

### Question
{question}

### Answer of a person
{truth}

### Response to judge
{answer}
""".strip()


@dataclass(frozen=True)
class Rating(Reviewed):
    """A judge's words on an answer.

    Args:
        unscored: A judge of ours was asked repeatedly and never made sense. In an official file such a text is rated 0.
    """

    unscored: bool


class MMHal(JudgedTask):
    """MMHal-Bench (arXiv:2309.14525), scored like `eval_gpt4.py` of its repository.

    `score` is the mean rating (0 to 6), also by type of question, `hallucination_rate` the share of ratings below 3, from 0
    to 1 as in the paper.
    """

    name = "mmhal"
    title = "MMHal-Bench"
    source = "arXiv:2309.14525; Shengcao1006/MMHal-Bench, eval_gpt4.py"
    files = "response_template.json; answers: the judge's responses as eval_gpt4.py --evaluation writes them"
    main_score = "score"
    columns = ("score", "hallucination_rate", *TYPES)
    id_fields = ("id", "question_id")
    text_fields = ("model_answer", "text")
    reviews = ".json"

    def read(self, paths: Sequence[Path]) -> list[Example]:
        """Read the template of responses, or a file of responses."""
        kinds = {
            "the template of responses": lambda content: (
                isinstance(content, list) and has_keys(content, "image_id", "question")
            )
        }
        (files,) = official_contents(paths, kinds).values()
        return [_example(number, row, path) for path, rows in files for number, row in enumerate(rows)]

    def read_answers(self, paths: Sequence[Path], examples: Sequence[Example]) -> Answers:
        """Read the judge's responses, which stand in the order of the questions."""
        (path, *more) = files_of(paths, (".json",))
        if more:
            raise ValueError(
                f"mmhal: {path} and {more[0]}: name one file of reviews; those of several judges are not one."
            )
        content = json_content(path)
        content = [json.loads(entry) if isinstance(entry, str) else entry for entry in content]
        if not all(has_keys(entry, "choices") or has_keys(entry, "not_reviewed") for entry in content):
            raise self.not_reviewed(path)
        if len(content) != len(examples):
            raise ValueError(
                f"{path} holds {len(content)} reviews of {len(examples)} answers; they are joined by their order, so none "
                "may be missing."
            )
        return {
            example.id: _rating(entry)
            for example, entry in zip(examples, content, strict=True)
            if entry.get("not_reviewed") != MISSING
        }

    def read_model_answers(self, paths: Sequence[Path], examples: Sequence[Example]) -> Answers:
        """Read answers to review: files of responses, which are joined by image and question, or lines by id."""
        ids = {(example.meta["image_id"], example.prompt): example.id for example in examples}

        def answer_id(row: Mapping[str, Any]) -> str:
            asked = (row.get("image_id", ""), row.get("question", ""))
            return ids[asked] if asked in ids else self.answer_id(row)

        return answer_files.read_answers(paths, answer_id, self.text_fields)

    def grade(self, example: Example, answer: str | Reviewed) -> int | None:
        """The rating; None for a judge of ours that never made sense.

        Raises:
            ValueError: The answer has not been reviewed.
        """
        if not isinstance(answer, Rating):
            raise self.not_reviewed(Path(example.id))
        return None if answer.unscored else self.verdict(answer.text) or 0

    def grade_failure(self, example: Example) -> int:
        return 0

    def points(self, graded: Graded) -> float:
        return (graded.grade or 0) / RATINGS[-1]

    def groups(self, example: Example) -> Sequence[str]:
        return (self.main_score, example.meta["type"])

    def statistics(self, cluster: Sequence[Graded]) -> dict[str, float]:
        rated = [graded for graded in cluster if graded.grade is not None]
        totals = super().statistics(rated) | {
            "hallucinations": sum(graded.grade < NO_HALLUCINATION for graded in rated),
        }
        return totals | ({"unscored": len(cluster) - len(rated)} if len(rated) < len(cluster) else {})

    def scores(self, statistics: Statistics) -> dict[str, Any]:
        means = {
            name: ratio(statistics[name], statistics[count_of(name)])
            for name in statistics
            if count_of(name) in statistics
        }
        rate = ratio(statistics["hallucinations"], statistics.get(count_of(self.main_score), 0.0))
        scores = {self.main_score: means.pop(self.main_score, float("nan")), "hallucination_rate": rate} | means
        return scores | ({"unscored": statistics["unscored"]} if "unscored" in statistics else {})

    def judge_requests(
        self, examples: Sequence[Example], answers: Answers, model: str, swapped: bool = False
    ) -> list[Request]:
        """A rating of each answer.

        Raises:
            ValueError: `swapped`: there is one answer to show.
        """
        if swapped:
            raise ValueError("mmhal: the judge sees one answer, so there is no order to swap.")
        requests = []
        for example in examples:
            answer = answers.get(example.id)
            if answer is not None:
                told = {"contents": example.meta["contents"], "question": example.prompt, "truth": example.truth}
                messages = chat(SYSTEM, PROMPT.format(**told, answer=answer))
                requests.append(judge_request(example.id, "rating", messages, model, self.judge_max_tokens))
        return requests

    def verdict(self, text: str) -> int | None:
        """The one rating in a text; None where there is none, or more than one."""
        lowered = text.lower()
        found = [rating for rating in RATINGS if f"rating: {rating}" in lowered]
        return found[0] if len(found) == 1 else None

    def write_reviews(
        self,
        examples: Sequence[Example],
        answers: Answers,
        requests: Sequence[Request],
        lines: Mapping[str, Line],
        path: Path,
        swapped: bool = False,
    ) -> None:
        """Write responses as `eval_gpt4.py --evaluation` does; what there is no rating of is marked."""
        keys = {request.context_id: request.key for request in requests}
        write_json(
            [self._review(example.id, answers, lines.get(keys.get(example.id, ""))) for example in examples], path
        )

    def _review(self, key: str, answers: Answers, line: Line | None) -> dict[str, Any]:
        if answers.get(key) is None:
            return {"id": key, "not_reviewed": FAILED if key in answers else MISSING}
        if line is None:
            return {"id": key, "not_reviewed": MISSING}
        text = text_of(line) or ""
        review = {"id": key, "choices": [{"message": {"role": "assistant", "content": text}}]}
        return review if self.verdict(text) is not None else review | {"unscored": True}


def _example(number: int, row: Any, path: Path) -> Example:
    contents = row.get("image_content") or []
    meta = {
        "type": row.get("question_type") or TYPES[number % len(TYPES)],
        "image_id": row["image_id"],
        "contents": contents if isinstance(contents, str) else ", ".join(contents),
    }
    image = str(row.get("image_src") or row["image_id"]).rpartition("/")[2]
    return Example(str(number), field(row, "question", path, number), row.get("gt_answer"), [image], meta)


def _rating(entry: Mapping[str, Any]) -> Rating | None:
    if "not_reviewed" in entry:
        return None
    return Rating(str(entry["choices"][0]["message"]["content"] or ""), bool(entry.get("unscored")))
