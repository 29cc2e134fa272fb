"""HallusionBench: yes/no questions about pictures and about edited ones, scored by question, pair and figure.

Source: HallusionBench (arXiv:2310.14566; `evaluation.py` and `utils.py` of https://github.com/tianyi-lab/HallusionBench).
An answer is right (1), wrong (0) or uncertain (2); uncertain counts as right where a question of the visual-supplement
kind comes without its picture. Whether an answer is right is said by a rule for yes and no, or by a judge (`llavakit eval
judge`): a file that carries verdicts, as the official results do, is scored by them.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...endpoints.journal import Line
from ...endpoints.request import Request
from ..judging.judge import judge_request, text_of
from ..judging.judged_task import JudgedTask
from ..reading.answers import (
    Answers,
    Reviewed,
    answer_text,
    collect_answers,
    files_of,
    first_id,
    id_text,
    json_rows,
    plain_text,
)
from ..reading.official_files import write_json
from ..task import Example, Graded, Statistics, count_of

KEY_FIELDS = ("category", "subcategory", "set_id", "figure_id", "question_id")
PREDICTIONS = ("model_prediction", "gpt4v_output", "llava_1_5_output", "text")
VERDICTS = ("gpt4v_output_gpt_check", "llava_1_5_output_gpt_check", "correctness")
WRONG, RIGHT, UNCERTAIN = "0", "1", "2"
WORDS = re.compile(r"[a-z]+")


# Of our own wording, with the outcomes of the official judge
JUDGE = """
You are a careful teacher. Read the question, the reference answer and the student's answer. Say "correct" if the student's
answer does not contradict the reference answer, "incorrect" if it does, and "unclear" if it does not say what the answer is.
Write that one word and nothing else.

Question: {question}
Reference answer: {reference}
Student's answer: {answer}
""".strip()
UNSCORED = "unscored"  # the judge never made sense


@dataclass(frozen=True)
class Judged(Reviewed):
    """An answer and what a judge said of it.

    Args:
        verdict: Of `RIGHT`, `WRONG`, `UNCERTAIN` and `UNSCORED`.
    """

    verdict: str


class HallusionBench(JudgedTask):
    name = "hallusionbench"
    title = "HallusionBench"
    source = "arXiv:2310.14566; evaluation.py of tianyi-lab/HallusionBench"
    files = "HallusionBench.json"
    main_score = "aAcc"
    columns = ("qAcc", "fAcc", "easy_aAcc", "hard_aAcc", "aAcc")
    max_new_tokens = 16
    reviews = ".json"
    needs_judge = False
    judge_max_tokens = 16

    def read(self, paths: Sequence[Path]) -> list[Example]:
        examples: dict[str, Example] = {}
        for path in files_of(paths, (".json",)):
            for number, row in enumerate(json_rows(path), start=1):
                missing = [name for name in (*KEY_FIELDS, "question", "gt_answer", "visual_input") if name not in row]
                if missing:
                    raise ValueError(
                        f"{path}, row {number}: no {missing[0]!r}. HallusionBench.json has one in each row."
                    )
                example = _example(row)
                if examples.setdefault(example.id, example) is not example:
                    raise ValueError(f"{path}, row {number}: question {example.id!r} stands there twice.")
        return list(examples.values())

    def read_answers(self, paths: Sequence[Path], examples: Sequence[Example]) -> Answers:
        """The official result files too, with the judge's verdicts where they have them."""
        return collect_answers(paths, json_rows, lambda row: (self.answer_id(row), _answer(row)))

    def read_model_answers(self, paths: Sequence[Path], examples: Sequence[Example]) -> Answers:
        return {key: plain_text(answer) for key, answer in self.read_answers(paths, examples).items()}

    def judge_requests(
        self, examples: Sequence[Example], answers: Answers, model: str, swapped: bool = False
    ) -> list[Request]:
        """One request for each answer; a reference is shown alone, so that there is no order to swap."""
        requests = []
        for example in examples:
            answer = answers.get(example.id)
            if answer is not None and not swapped:
                shown = JUDGE.format(
                    question=example.meta["question"], reference=example.meta["reference"], answer=answer
                )
                chat = [{"role": "user", "content": shown}]
                requests.append(judge_request(example.id, "verdict", chat, model, self.judge_max_tokens))
        return requests

    def verdict(self, text: str) -> str | None:
        """The verdict; None for nonsense. `incorrect` contains `correct`, and so goes first."""
        words = {"incorrect": WRONG, "correct": RIGHT, "unclear": UNCERTAIN}
        return next((verdict for word, verdict in words.items() if word in text.lower()), None)

    def write_reviews(
        self,
        examples: Sequence[Example],
        answers: Answers,
        requests: Sequence[Request],
        lines: Mapping[str, Line],
        path: Path,
        swapped: bool = False,
    ) -> None:
        """Write the official form, which `evaluation.py` reads too, but for answers that nobody could judge."""
        said = {request.context_id: text_of(lines.get(request.key)) for request in requests}
        rows = []
        for example in examples:
            if example.id in answers:
                row = {**example.meta, "gt_answer": example.truth, "gt_answer_details": example.meta["reference"]}
                answer = answers[example.id]
                if answer is None:
                    row["error"] = "the generation failed"
                else:
                    row["model_prediction"] = answer
                    row[VERDICTS[0]] = self.verdict(said.get(example.id) or "") or UNSCORED
                rows.append(row)
        write_json(rows, path)

    def answer_id(self, row: Mapping[str, Any]) -> str:
        return _key(row) if "figure_id" in row else first_id(row, ("id", "question_id"))

    def grade(self, example: Example, answer: str | Judged) -> str:
        if isinstance(answer, Judged):
            return answer.verdict
        return verdict_by_rule(answer, example.truth)

    def grade_failure(self, example: Example) -> str:
        return WRONG

    def points(self, graded: Graded) -> float:
        unsure_may_be = graded.example.meta["category"] == "VS" and graded.example.meta["figure_id"] == "0"
        return float(graded.grade == RIGHT or (graded.grade == UNCERTAIN and unsure_may_be))

    def truth_text(self, example: Example) -> str:
        return {"0": "no", "1": "yes"}.get(example.truth, example.truth)

    def scores(self, statistics: Statistics) -> dict[str, Any]:
        scores = super().scores(statistics)
        return scores | ({UNSCORED: statistics[UNSCORED]} if UNSCORED in statistics else {})

    def cluster(self, example: Example) -> str:
        """A set: the pairs and the figures of the benchmark lie within one."""
        return "_".join(example.meta[name] for name in KEY_FIELDS[:3])

    def statistics(self, cluster: Sequence[Graded]) -> dict[str, float]:
        totals: dict[str, float] = {}
        category = cluster[0].example.meta["category"]
        unscored = [graded for graded in cluster if graded.grade == UNSCORED]
        if unscored:
            totals[UNSCORED] = len(unscored)
            cluster = [graded for graded in cluster if graded.grade != UNSCORED]
        for prefix in ("", f"{category}_"):
            for name, groups in _groups(cluster).items():
                right = [float(all(self.points(graded) for graded in group)) for group in groups]
                totals[prefix + name] = sum(right)
                totals[count_of(prefix + name)] = len(right)
        return totals


def verdict_by_rule(text: str, truth: str) -> str:
    """Right, wrong or uncertain.

    An answer says yes or no by its first word, or by the only one of the two that it has; the benchmark's own form,
    1 for yes, 0 for no and 2 for uncertain, is understood too.
    """
    said = text.strip()
    if said not in ("0", "1", "2"):
        words = WORDS.findall(said.lower())
        known = [word for word in words if word in ("yes", "no")]
        decided = words[:1] == known[:1] or len(set(known)) == 1
        said = {"yes": "1", "no": "0"}[known[0]] if known and decided else "2"
    return UNCERTAIN if said == "2" else RIGHT if said == truth else WRONG


def _groups(cluster: Sequence[Graded]) -> dict[str, list[list[Graded]]]:
    """What must be right together, for each score."""
    edited = [graded for graded in cluster if graded.example.meta["visual_input"] == "2"]
    original = [graded for graded in cluster if graded.example.meta["visual_input"] != "2"]
    with_figure = [g for g in cluster if (g.example.meta["category"], g.example.meta["figure_id"]) != ("VS", "0")]
    return {
        "aAcc": [[graded] for graded in cluster],
        "qAcc": _together(cluster, "question_id"),
        "fAcc": _together(with_figure, "figure_id"),
        "easy_aAcc": _together(original, "question_id"),
        "hard_aAcc": _together(edited, "question_id"),
    }


def _together(cluster: Sequence[Graded], field: str) -> list[list[Graded]]:
    groups: dict[str, list[Graded]] = {}
    for graded in cluster:
        groups.setdefault(graded.example.meta[field], []).append(graded)
    return list(groups.values())


# ---- reading ----


def _key(row: Mapping[str, Any]) -> str:
    return "_".join(id_text(row[name]) for name in KEY_FIELDS)


def _example(row: Mapping[str, Any]) -> Example:
    file = row.get("filename")
    meta: dict[str, Any] = {name: id_text(row[name]) for name in (*KEY_FIELDS, "visual_input")}
    meta |= {"question": row["question"], "reference": row.get("gt_answer_details")}
    prompt = f"{row['question']}\nPlease answer yes or no."
    images = [file.removeprefix("./")] if file else []
    return Example(_key(row), prompt, _truth(row), images, meta, choices=["Yes", "No"])


def _truth(row: Mapping[str, Any]) -> str:
    """1 for yes and 0 for no, as the benchmark has it; files of one's own may spell the words."""
    said = id_text(row["gt_answer"]).strip().lower()
    truth = {"yes": "1", "no": "0"}.get(said, said)
    if truth not in ("0", "1"):
        raise ValueError(
            f"hallusionbench: the gt_answer of question {_key(row)} is {row['gt_answer']!r}; it must be 1 (yes) or 0 (no)."
        )
    return truth


def _answer(row: Mapping[str, Any]) -> str | Judged | None:
    if row.get("error"):
        return None
    text = answer_text(row, PREDICTIONS)
    if text is None:
        return None
    verdict = next((str(row[name]) for name in VERDICTS if name in row), None)
    if verdict not in (None, WRONG, RIGHT, UNCERTAIN, UNSCORED):
        raise ValueError(f"the verdict {verdict!r} is none of 0 (wrong), 1 (right) and 2 (uncertain).")
    return text if verdict is None else Judged(text, verdict)
