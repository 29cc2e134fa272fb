"""What every task shares: ids that do not fit, failures, intervals and comparisons."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from llavakit.evaluation.metrics.intervals import (
    difference_intervals,
    drawn_differences,
    drawn_scores,
    intervals,
    least_differences,
)
from llavakit.evaluation.metrics.scoring import Result, score, score_graded, write_scores
from llavakit.evaluation.results.compare import compare
from llavakit.evaluation.results.folder import write_results
from llavakit.evaluation.results.report import worst
from llavakit.evaluation.task import Example, Graded, Task
from llavakit.evaluation.tasks import TASKS, find_task


class Plain(Task):
    name = title = source = files = "scienceqa"

    def grade(self, example: Example, answer: str) -> float:
        return float(answer == example.truth)


def _examples(number: int) -> list[Example]:
    return [Example(str(place), "What?", "yes") for place in range(number)]


def test_unknown_ids_are_listed() -> None:
    with pytest.raises(ValueError, match=r"2 answer\(s\) are to ids .*: 'x', 'y'"):
        score(Plain(), _examples(1), {"0": "yes", "x": "yes", "y": "no"})


def test_missing_ids_are_listed_unless_partial_answers_are_allowed() -> None:
    answers = {"0": "yes", "1": "no"}
    with pytest.raises(ValueError, match=r"2 of 4 examples have no answer: '2', '3'.*--allow-partial"):
        score(Plain(), _examples(4), answers)
    assert score(Plain(), _examples(4), answers, allow_partial=True).scores == {
        "accuracy": 50, "questions": 2, "accuracy (over all)": 25, "missing": 2, "coverage": 50,
    }  # fmt: skip
    with pytest.raises(ValueError, match="nothing to score"):
        score(Plain(), _examples(4), {}, allow_partial=True)


def test_reasoning_in_a_file_of_answers_is_no_answer(write_lines: Callable[..., Path]) -> None:
    texts = [
        "<think>Not a dog?</think>yes",
        "It is not there.</think> yes",
        "<think>not, not",
        "[THINK]no[/THINK]yes",
        "yes",
    ]
    rows = [{"question_id": number, "text": text} for number, text in enumerate(texts)]
    assert Plain().read_answers([write_lines("a.jsonl", rows)], []) == {
        "0": "yes", "1": "yes", "2": None, "3": "yes", "4": "yes"
    }  # fmt: skip


def test_duplicates_are_named(write_lines: Callable[..., Path]) -> None:
    rows = [{"question_id": 1, "text": "yes"}, {"question_id": 2, "text": "yes"}, {"question_id": 1, "text": "no"}]
    with pytest.raises(ValueError, match="1 example.*more than one answer: '1'"):
        Plain().read_answers([write_lines("a.jsonl", rows)], [])


def test_an_answer_after_failures_is_no_duplicate(write_lines: Callable[..., Path]) -> None:
    rows = [{"id": "1", "error": "no server"}, {"id": "1", "error": "again"}, {"id": "1", "text": "yes"}]
    assert Plain().read_answers([write_lines("a.jsonl", rows)], []) == {"1": "yes"}


def test_a_failure_is_wrong_and_counted_and_never_an_empty_answer() -> None:
    class EmptyIsRight(Plain):
        def grade(self, example: Example, answer: str) -> float:
            return float(answer == "")

    assert score(EmptyIsRight(), _examples(2), {"0": "", "1": None}).scores == {
        "accuracy": 50, "questions": 2, "failed": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("content", "answers"),
    [
        ('[{"question_id": 1, "text": "a"}]', {"1": "a"}),
        ('{"1": "a", "2": "b"}', {"1": "a", "2": "b"}),
        ('{"question_id": 1, "text": "a"}\n{"question_id": 2, "text": "b"}\n', {"1": "a", "2": "b"}),
        ('{"question_id": 1, "text": "a\u2028b"}', {"1": "a\u2028b"}),
    ],
)
def test_answers_are_read_in_each_form(content: str, answers: dict, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(content, encoding="utf-8")
    assert Plain().read_answers([tmp_path / "a.json"], []) == answers


def test_a_row_without_question_id_is_no_object_of_texts_by_id(tmp_path: Path) -> None:
    """COCO's results: every value is a number or a text, as in an object of id -> text."""

    class Captions(Plain):
        id_fields = ("image_id",)
        text_fields = ("caption",)

    for content in ('[{"image_id": 1, "caption": "a"}]', '{"image_id": 1, "caption": "a"}'):
        (tmp_path / "a.json").write_text(content, encoding="utf-8")
        assert Captions().read_answers([tmp_path / "a.json"], []) == {"1": "a"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"question_id": 1}\n{"question_id": 2}', r"answer 1: a row needs one of the fields \['text'\]"),
        ('{"text": "a"}\n{"text": "b"}', r"answer 1: .*\['question_id', 'id'\]"),
        ('{"question_id": 1, "text": "a"}\n{"quest', "line 2 is not JSON"),
        ("[1, 2]", "row 1: a JSON int"),
    ],
)
def test_a_bad_answer_file_is_named_with_the_row(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(content)
    with pytest.raises(ValueError, match=f"a.jsonl.*{message}"):
        Plain().read_answers([tmp_path / "a.jsonl"], [])


def test_an_unknown_task_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match="no task 'popes'; choose one of scienceqa.*pope.*hallusionbench"):
        find_task("popes")


def test_scores_are_a_flat_object_without_nan(tmp_path: Path) -> None:
    write_scores({"a": 1.5, "b": float("nan")}, tmp_path / "scores.json")
    assert json.loads((tmp_path / "scores.json").read_text()) == {"a": 1.5, "b": None}


# ---- intervals ----


def _result(right: np.ndarray) -> Result:
    graded = [Graded(example, "", float(value)) for example, value in zip(_examples(len(right)), right, strict=True)]
    return score_graded(Plain(), graded)


def test_the_interval_is_the_normal_one_for_many_plain_answers() -> None:
    right = np.random.default_rng(1).random(2000) < 0.7
    result = _result(right)
    low, high = intervals(Plain(), result.statistics)["accuracy"]
    share = right.mean()
    half = 196 * np.sqrt(share * (1 - share) / len(right))
    assert low == pytest.approx(100 * share - half, abs=0.25)
    assert high == pytest.approx(100 * share + half, abs=0.25)
    assert intervals(Plain(), result.statistics)["accuracy"] == (low, high)  # seeded


def test_units_are_drawn_whole() -> None:
    """Ten copies of each answer are no more evidence than one."""
    right = np.random.default_rng(1).random(200) < 0.7

    class InTens(Plain):
        def cluster(self, example: Example) -> str:
            return str(int(example.id) // 10)

    graded = [Graded(Example(str(place), "", ""), "", float(right[place // 10])) for place in range(2000)]
    single = intervals(Plain(), _result(right).statistics)["accuracy"]
    assert intervals(InTens(), score_graded(InTens(), graded).statistics)["accuracy"] == single
    low, high = intervals(Plain(), score_graded(Plain(), graded).statistics)["accuracy"]
    assert high - low < 0.5 * (single[1] - single[0])


def test_a_paired_difference_is_narrower_than_two_intervals() -> None:
    generator = np.random.default_rng(2)
    one = generator.random(1000) < 0.6
    other = one | (generator.random(1000) < 0.05)  # right wherever the first is, and a little more
    first, second = _result(one), _result(other)
    low, high = difference_intervals(Plain(), first.statistics, second.statistics)["accuracy"]
    gain = 100 * (other.mean() - one.mean())
    assert 0 < low < gain < high
    single = intervals(Plain(), first.statistics)["accuracy"]
    assert high - low < 0.5 * (single[1] - single[0])


def test_the_least_difference_is_found_in_four_cases_of_five() -> None:
    draw, number = np.random.default_rng(3), 1500
    drawn = drawn_scores(Plain(), _result(draw.random(number) < 0.5).statistics)
    least = least_differences(drawn, independent=True)["accuracy"]
    shares = draw.binomial(number, [[0.5], [0.5 + least / 100]], (2, 4000)) / number
    errors = np.sqrt((shares * (1 - shares)).sum(axis=0) / number)
    found = np.abs(shares[1] - shares[0]) / errors > 1.96
    assert found.mean() == pytest.approx(0.8, abs=0.04)


def test_models_that_fail_on_the_same_show_smaller_differences() -> None:
    draw = np.random.default_rng(4)
    one = draw.random(1000) < 0.6
    other = one ^ (draw.random(1000) < 0.05)
    first, second = _result(one).statistics, _result(other).statistics
    paired = least_differences(drawn_differences(Plain(), first, second), independent=False)["accuracy"]
    assert paired == pytest.approx(280 * np.sqrt(0.05 / 1000), rel=0.2)
    assert paired < 0.5 * least_differences(drawn_scores(Plain(), first), independent=True)["accuracy"]


def test_questions_about_one_picture_are_drawn_together() -> None:
    content = {"bytes": b"the same", "path": None}
    examples = [
        Example("1", "", "", ["a.png"]),
        Example("2", "", "", ["a.png"]),
        Example("3", "", "", [content]),
        Example("4", "", "", [dict(content)]),
        Example("5", "", "", [{"bytes": b"another", "path": None}]),
        Example("6", "", "", ["a.png", "b.png"]),
        Example("7", "", ""),
        Example("8", "", ""),
    ]
    clusters = score_graded(Plain(), [Graded(example, "", 1.0) for example in examples]).clusters
    assert len(clusters) == 6 and clusters[0] == "a.png" and clusters[-2:] == ["7", "8"]


# ---- results and comparisons ----


def _write(folder: Path, examples: list[Example], answers: dict[str, str | None]) -> Path:
    task = TASKS["pope"]
    return write_results(task, score(task, examples, answers), folder, {"model": folder.name})


def test_compare_pairs_by_unit_and_marks_what_is_clear(
    pope_folder: Path, tmp_path: Path, evaluate: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    examples = TASKS["pope"].read([pope_folder])
    right = {example.id: "Yes" if example.truth else "No" for example in examples}
    wrong = {example.id: "No" if example.truth else "Yes" for example in examples}
    a = _write(tmp_path / "a", examples, wrong)
    b = _write(tmp_path / "b", examples[::-1], right)  # another order of clusters
    evaluate("compare", a, b, "-o", tmp_path / "table.md")
    printed = capsys.readouterr().out
    assert "| accuracy | 0.00 | 100.00 | +100.00 | +100.00 to +100.00 | * | 0.00 |" in printed
    assert (tmp_path / "table.md").read_text() == printed
    same = compare(b, b)
    assert same.differences["f1"] == 0 and not same.is_clear("f1")


def test_compare_refuses_what_was_not_asked_the_same(pope_folder: Path, tmp_path: Path) -> None:
    examples = TASKS["pope"].read([pope_folder])
    answers = {example.id: "Yes" for example in examples}
    some = [example for example in examples if example.images[0] != "0.png"]
    a = _write(tmp_path / "a", examples, answers)
    b = _write(tmp_path / "b", some, {example.id: "Yes" for example in some})
    with pytest.raises(ValueError, match=r"1 cluster\(s\) are in one of them only: '0.png'"):
        compare(a, b)
    with pytest.raises(ValueError, match="holds no results"):
        compare(a, tmp_path)


def test_the_worst_answers_are_failures_first_and_then_from_all_over() -> None:
    graded = [Graded(Example(str(place), "", ""), "x", float(place % 2)) for place in range(100)]
    graded[51] = Graded(graded[51].example, None, 0.0)
    shown = worst(Plain(), graded, 6)
    assert shown[0].failed and [int(entry.example.id) for entry in shown[1:]] == [10, 30, 50, 70, 90]
    assert len(worst(Plain(), graded, 200)) == 51


def test_text_in_a_report_is_text(tmp_path: Path) -> None:
    task = TASKS["scienceqa"]
    meta = {"choices": ["<b>", "b"], "hint": None, "subject": "natural science", "grade": "grade1"}
    example = Example("1", "<script>alert(1)</script>", 0, meta=meta)
    write_results(task, score(task, [example], {"1": "<img src=x>"}), tmp_path, {"model": "<i>"})
    page = (tmp_path / "report.html").read_text()
    assert "<script>" not in page and "<img src=x>" not in page and "<i>" not in page
    assert "&lt;script&gt;" in page and "A. &lt;b&gt;" in page
