"""Scores on samples of the official files, worked out by hand, and the readers on the files as they are."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from llavakit.evaluation.metrics.scoring import score
from llavakit.evaluation.tasks import TASKS


@pytest.fixture(scope="module")
def formats(shared_data: Path) -> Path:
    return shared_data / "eval_formats"


def test_scienceqa_sample(formats: Path, tmp_path: Path, evaluate: Callable[..., int]) -> None:
    """The same as counting by the options that the result file itself notes."""
    out = tmp_path / "scores.json"
    evaluate(
        "score", "scienceqa", "--annotations", formats / "scienceqa_problems.json",
        "--answers", formats / "scienceqa_llava_results.json", "-o", out,
    )  # fmt: skip
    scores = json.loads(out.read_text())
    problems = json.loads((formats / "scienceqa_problems.json").read_text())
    results = json.loads((formats / "scienceqa_llava_results.json").read_text())["results"]
    right = {key: results[key] == problem["answer"] for key, problem in problems.items()}
    assert scores["questions"] == len(problems) == 5
    assert scores["average"] == 100 * sum(right.values()) / 5
    with_image = [right[key] for key, problem in problems.items() if problem["image"]]
    assert scores["IMG"] == 100 * sum(with_image) / len(with_image)
    assert all(isinstance(value, int | float) for value in scores.values())


def test_pope_sample(formats: Path, tmp_path: Path, evaluate: Callable[..., int]) -> None:
    """LLaVA's answers to six questions are all those of the labels but one: 'Is there a person' is yes, all else agrees."""
    out = tmp_path / "scores.json"
    annotations = [formats / "pope_questions.jsonl", formats / "pope_llava_questions.jsonl"]
    evaluate(
        "score", "pope", "--annotations", *annotations, "--answers", formats / "pope_llava_answers.jsonl", "-o", out
    )
    scores = json.loads(out.read_text())
    # yes no yes no yes no asked; No No Yes No Yes No answered
    assert scores["accuracy"] == pytest.approx(100 * 5 / 6)
    assert scores["precision"] == 100
    assert scores["recall"] == pytest.approx(100 * 2 / 3)
    assert scores["f1"] == pytest.approx(80)
    assert scores["yes_ratio"] == pytest.approx(100 / 3)
    assert scores["adversarial_f1"] == scores["f1"]


def test_pope_labels_alone_join_by_id(formats: Path) -> None:
    pope = TASKS["pope"]
    examples = pope.read([formats / "pope_questions.jsonl"])
    answers = pope.read_answers([formats / "pope_llava_answers.jsonl"], examples)
    result = score(pope, examples, answers, allow_partial=True)
    assert len(examples) == 12 and result.scores["missing"] == 6
    assert result.scores["f1"] == pytest.approx(80)


def test_mme_answers_are_joined_by_picture_and_question(formats: Path, write_lines: Callable[..., Path]) -> None:
    """Right for 0020.png's second question, wrong for its first; both right for 0014.png."""
    mme = TASKS["mme"]
    truths = write_lines("unused.jsonl", []).with_name("code_reasoning.txt")
    truths.write_text(
        "0014.png\tThe image shows a python code. Is the output of the code '1'? Please answer yes or no.\tNo\n"
        "0014.png\tThe image shows a python code. Is the output of the code '7'? Please answer yes or no.\tYes\n"
        "0020.png\tIs a c++ code shown in the picture?  Please answer yes or no.\tYes\n"
        "0020.png\tIs a python code shown in the picture? Please answer yes or no.\tNo\n"
    )
    examples = mme.read([truths])
    answers = mme.read_answers([formats / "mme_llava_answers.jsonl"], examples)
    scores = score(mme, examples, answers).scores
    assert scores["code_reasoning_accuracy"] == 75 and scores["code_reasoning_accuracy+"] == 50
    assert scores["code_reasoning"] == scores["cognition"] == scores["total"] == 125
    assert scores["perception"] == 0


def test_mmbench_answers_are_read(formats: Path) -> None:
    answers = TASKS["mmbench"].read_answers([formats / "mmbench_llava_answers.jsonl"], [])
    assert answers == {"241": "B", "252": "B", "253": "A", "254": "B", "256": "A", "258": "B"}


def test_hallusionbench_questions_are_read(formats: Path) -> None:
    examples = TASKS["hallusionbench"].read([formats / "hallusionbench.json"])
    assert [example.id for example in examples] == [f"VS_chart_0_0_{number}" for number in range(4)]
    assert [example.truth for example in examples] == ["0", "1", "0", "0"]
    assert not any(example.images for example in examples)
