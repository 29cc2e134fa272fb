"""POPE, MME and HallusionBench: yes and no, by the official rules."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from llavakit.evaluation.judging.judged_task import JudgedTask
from llavakit.evaluation.metrics.scoring import score
from llavakit.evaluation.tasks import TASKS
from llavakit.evaluation.tasks.hallusionbench import RIGHT, UNCERTAIN, WRONG, Judged, verdict_by_rule
from llavakit.evaluation.tasks.mme import parse_yes_no
from llavakit.evaluation.tasks.pope import says_yes


@pytest.mark.parametrize(
    ("text", "yes"),
    [
        ("Yes", True),
        ("yes, there is", True),
        ("No", False),
        ("no, there is none", False),
        ("There is not.", False),
        ("There is a cat. No dog.", True),  # the first sentence counts
        ("NO", True),  # the official rule knows No, no and not
        ("None", True),
        ("", True),
    ],
)
def test_pope_rule(text: str, yes: bool) -> None:
    assert says_yes(text) == yes


def _pope_answers(folder: Path, wrong: set[str] = frozenset()) -> dict[str, str]:
    examples = TASKS["pope"].read([folder])
    return {example.id: "Yes" if example.truth != (example.id in wrong) else "No" for example in examples}


def test_pope_scores_each_split_and_their_mean(pope_folder: Path) -> None:
    task = TASKS["pope"]
    answers = _pope_answers(pope_folder, {"adversarial/2", "adversarial/4", "adversarial/1"})
    scores = score(task, task.read([pope_folder]), answers).scores
    # adversarial: of four cats three are found, of four buses that are not there two are seen
    assert scores["adversarial_accuracy"] == pytest.approx(62.5)
    assert scores["adversarial_precision"] == pytest.approx(60)
    assert scores["adversarial_recall"] == pytest.approx(75)
    assert scores["adversarial_f1"] == pytest.approx(2 * 60 * 75 / 135)
    assert scores["adversarial_yes_ratio"] == pytest.approx(62.5)
    assert scores["random_f1"] == 100 and scores["random_yes_ratio"] == 50
    assert scores["f1"] == pytest.approx((scores["adversarial_f1"] + 100) / 2)


def test_pope_does_not_depend_on_the_order_of_lines(pope_folder: Path, write_lines: Callable[..., Path]) -> None:
    """The original joins by line number, and scores shuffled answers as chance."""
    task = TASKS["pope"]
    examples = task.read([pope_folder])
    offset = {"adversarial": 0, "random": 10_000_000}
    rows = []
    for key, text in reversed(list(_pope_answers(pope_folder).items())):
        split, _, number = key.partition("/")
        rows.append({"question_id": offset[split] + int(number), "text": text})
    answers = task.read_answers([write_lines("a.jsonl", rows)], examples)
    assert score(task, examples, answers).scores["f1"] == 100


def test_pope_refuses_answers_to_another_release(pope_folder: Path, write_lines: Callable[..., Path]) -> None:
    task = TASKS["pope"]
    rows = [{"question_id": 1, "text": "Yes", "prompt": "Is there a horse in the image?\nAnswer shortly."}]
    with pytest.raises(ValueError, match="1 answer.*other questions.*'adversarial/1'.*release"):
        task.read_answers([write_lines("a.jsonl", rows)], task.read([pope_folder]))


def test_pope_takes_labels_by_what_was_asked_where_llava_s_questions_are_given(
    pope_folder: Path, write_lines: Callable[..., Path]
) -> None:
    asked = [
        {
            "question_id": 10_000_003,
            "image": "0.png",
            "text": "Is there a dog in the imange?\nShort.",
            "category": "random",
        },
        {
            "question_id": 5,
            "image": "3.png",
            "text": "Is there a cat in the image?\nShort.",
            "category": "adversarial",
        },
    ]
    questions = write_lines("llava_pope_test.jsonl", asked)
    task = TASKS["pope"]
    examples = task.read([pope_folder, questions])
    assert [(example.id, example.truth) for example in examples] == [("10000003", False), ("5", True)]
    asked[0]["image"] = "9.png"
    with pytest.raises(ValueError, match="1 question.*no label.*'10000003'"):
        task.read([pope_folder, write_lines("llava_pope_test.jsonl", asked)])


def test_pope_counts_a_failure_as_wrong_and_as_no_prediction(pope_folder: Path) -> None:
    task = TASKS["pope"]
    answers: dict[str, str | None] = dict(_pope_answers(pope_folder))
    answers["random/1"] = answers["random/2"] = None
    scores = score(task, task.read([pope_folder]), answers).scores
    assert scores["random_accuracy"] == 75 and scores["random_recall"] == 75 and scores["random_precision"] == 100
    assert scores["random_yes_ratio"] == 50 and scores["failed"] == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [("Yes", "yes"), ("no.", "no"), ("The answer is yes", "other"), ("Not", "no"), ("I know", "other"), ("", "other")],
)
def test_mme_rule_looks_at_four_characters(text: str, said: str) -> None:
    assert parse_yes_no(text) == said


def test_mme_reads_the_release_and_the_tool_s_files(tmp_path: Path) -> None:
    flat, apart = tmp_path / "data" / "count", tmp_path / "data" / "artwork"
    for folder in (flat, apart / "images", apart / "questions_answers_YN"):
        folder.mkdir(parents=True)
    lines = "Is it one? Please answer yes or no.\tYes\nIs it two? Please answer yes or no.\tNo\n"
    (flat / "1.txt").write_text(lines)
    (flat / "1.png").touch()
    (apart / "questions_answers_YN" / "2.txt").write_text(lines)
    (apart / "images" / "2.jpg").touch()
    (tmp_path / "results").mkdir()
    for subtask, image in {"count": "1.png", "artwork": "2.jpg"}.items():
        parts = [line.split("\t") for line in lines.splitlines()]
        text = "".join(f"{image}\t{question}\t{truth}\tyes\n" for question, truth in parts)
        (tmp_path / "results" / f"{subtask}.txt").write_text(text)

    task = TASKS["mme"]
    examples = task.read([tmp_path / "data"])
    assert {example.images[0] for example in examples} == {"count/1.png", "artwork/images/2.jpg"}
    assert {example.id for example in task.read([tmp_path / "results"])} == {example.id for example in examples}
    scores = score(task, examples, task.read_answers([tmp_path / "results"], examples)).scores
    assert scores["count"] == scores["artwork"] == 50 and scores["perception"] == scores["total"] == 100


@pytest.mark.parametrize(
    ("text", "truth", "verdict"),
    [
        ("Yes, it is not wrong: no doubt.", "1", RIGHT),
        ("No.", "1", WRONG),
        ("It is not the case; the answer is no.", "0", RIGHT),
        ("I cannot say yes or no.", "0", UNCERTAIN),
        ("Who knows", "1", UNCERTAIN),
        ("0", "0", RIGHT),
        ("2", "1", UNCERTAIN),
        ("", "1", UNCERTAIN),
    ],
)
def test_hallusionbench_rule(text: str, truth: str, verdict: str) -> None:
    assert verdict_by_rule(text, truth) == verdict


def _hallusion_rows() -> list[dict]:
    """A set with a question without a picture (figure 0), with it (1) and with an edited one (2)."""
    rows = []
    for figure in "012":
        for question in "01":
            row = {"category": "VS", "subcategory": "map", "set_id": "0", "figure_id": figure, "question_id": question}
            row |= {"visual_input": figure, "question": "Is it?", "gt_answer": "1", "gt_answer_details": "It is."}
            rows.append({**row, "filename": None if figure == "0" else f"./VS/map/0_{figure}.png"})
    return rows


def test_hallusionbench_scores_questions_pairs_and_figures(tmp_path: Path) -> None:
    """Verdicts by figure and question; without its picture an uncertain answer of this kind counts as right."""
    verdicts = {"00": "2", "01": "1", "10": "1", "11": "1", "20": "1", "21": "0"}
    rows = _hallusion_rows()
    results = [
        {**row, "model_prediction": "...", "gpt4v_output_gpt_check": verdicts[row["figure_id"] + row["question_id"]]}
        for row in rows
    ]
    (tmp_path / "HallusionBench.json").write_text(json.dumps(rows))
    (tmp_path / "results.json").write_text(json.dumps(results))
    task = TASKS["hallusionbench"]
    examples = task.read([tmp_path / "HallusionBench.json"])
    answers = task.read_answers([tmp_path / "results.json"], examples)
    assert all(isinstance(answer, Judged) for answer in answers.values())
    # A judge who is asked about them anew sees the answers alone
    assert isinstance(task, JudgedTask)
    assert set(task.read_model_answers([tmp_path / "results.json"], examples).values()) == {"..."}
    scores = score(task, examples, answers).scores
    assert scores["aAcc"] == pytest.approx(500 / 6)
    assert scores["qAcc"] == 50  # question 1 is wrong about the edited figure
    assert scores["fAcc"] == 50  # figure 1 of the two figures
    assert scores["easy_aAcc"] == 100 and scores["hard_aAcc"] == 50
    assert scores["VS_aAcc"] == scores["aAcc"] and "VD_aAcc" not in scores


def test_pope_labels_are_words_whatever_their_case_and_refused_where_they_are_neither(
    tmp_path: Path, write_lines: Callable[..., Path]
) -> None:
    task = TASKS["pope"]
    rows = [
        {"question_id": n, "image": "a.jpg", "text": f"Is there a thing {n} in the image?", "label": label}
        for n, label in enumerate(("Yes", "NO", "yes ", "no"), 1)
    ]
    examples = task.read([write_lines("mine.json", rows)])
    assert [example.truth for example in examples] == [True, False, True, False]
    for label in ("unknown", "", None, True, "not"):
        with pytest.raises(ValueError, match="mine.json: question 1: the label is .*yes or no"):
            task.read([write_lines("mine.json", [{**rows[0], "label": label}])])


@pytest.mark.parametrize("kind", [str, float])
def test_pope_ids_are_joined_however_they_are_written(kind: type, write_lines: Callable[..., Path]) -> None:
    task = TASKS["pope"]
    rows = [
        {"question_id": kind(n), "image": "a.jpg", "text": f"Is there a thing {n} in the image?", "label": "yes"}
        for n in (1, 2)
    ]
    examples = task.read([write_lines("coco_pope_random.json", rows)])
    for offset in (0, 10_000_000):  # the benchmark's numbers, and LLaVA's
        answers = task.read_answers(
            [write_lines("a.jsonl", [{"question_id": offset + n, "text": "Yes"} for n in (1, 2)])], examples
        )
        assert score(task, examples, answers).scores["accuracy"] == 100
    named = task.read([write_lines("coco_pope_random.json", [{**rows[0], "question_id": "cat-1"}])])
    assert [example.id for example in named] == ["random/cat-1"]


def test_mme_truths_are_yes_or_no(tmp_path: Path) -> None:
    folder = tmp_path / "count"
    folder.mkdir()
    (folder / "1.png").touch()
    (folder / "1.txt").write_text("Is it one?\tYES \nIs it two?\tmaybe\n")
    with pytest.raises(ValueError, match="Is it two.*'maybe'.*yes or no"):
        TASKS["mme"].read([tmp_path])
    (folder / "1.txt").write_text("Is it one?\tYES \n")
    assert [example.truth for example in TASKS["mme"].read([tmp_path])] == ["yes"]


@pytest.mark.parametrize(("truth", "read"), [(1, "1"), ("0", "0"), (1.0, "1"), ("Yes", "1"), ("no", "0"), ("2", None)])
def test_hallusionbench_truths_are_yes_or_no(truth: object, read: str | None, tmp_path: Path) -> None:
    row = {"category": "VD", "subcategory": "chart", "set_id": 0, "figure_id": 1.0, "question_id": "2"}
    row |= {"question": "Is it?", "visual_input": "1", "gt_answer": truth, "filename": None}
    (tmp_path / "h.json").write_text(json.dumps([row]))
    if read is None:
        with pytest.raises(ValueError, match="gt_answer of question VD_chart_0_1_2 is '2'"):
            TASKS["hallusionbench"].read([tmp_path / "h.json"])
    else:
        (example,) = TASKS["hallusionbench"].read([tmp_path / "h.json"])
        assert (example.truth, example.id) == (read, "VD_chart_0_1_2")
