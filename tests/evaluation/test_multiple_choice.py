"""ScienceQA and MMBench: how an option is found in an answer, and what counts as right."""

import base64
import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import openpyxl
import pandas
import pytest
from PIL import Image

from llavakit.evaluation.metrics.scoring import score
from llavakit.evaluation.tasks import TASKS
from llavakit.evaluation.tasks.mmbench import chosen_option
from llavakit.evaluation.tasks.scienceqa import parse_option

PROBLEM = {"question": "Which?", "choices": ["a", "b", "c"], "answer": 1, "hint": "", "image": None}
PROBLEM |= {"grade": "grade3", "subject": "natural science", "split": "test"}


# ---- ScienceQA ----


@pytest.mark.parametrize(
    ("text", "option"),
    [
        ("B", 1),
        ("B. b", 1),
        ("LECTURE: ...\nSOLUTION: ...\nThe answer is B.", 1),
        ("The answer is B. No, the answer is C. The answer is C.", None),  # names two
        ("The answer is B", None),  # the official pattern wants one more character
        ("D", None),  # out of range: wrong, and never drawn at random
        ("The answer is E.", None),
        ("b", None),
        ("B.", None),
        ("", None),
    ],
)
def test_scienceqa_finds_an_option_or_none(text: str, option: int | None) -> None:
    assert parse_option(text, 3) == option


def test_scienceqa_groups_as_the_paper_s_table(tmp_path: Path, write_lines: Callable[..., Path]) -> None:
    problems = {
        "1": PROBLEM,
        "2": {**PROBLEM, "hint": "look", "image": "image.png", "grade": "grade7", "subject": "social science"},
        "3": {**PROBLEM, "hint": "look", "grade": "grade12", "subject": "language science"},
        "4": {**PROBLEM, "split": "train"},
    }
    path = tmp_path / "problems.json"
    path.write_text(json.dumps(problems))
    rows = [{"question_id": "1", "text": "B"}, {"question_id": "2", "text": "A"}, {"question_id": "3", "text": "B. b"}]
    task = TASKS["scienceqa"]
    examples = task.read([path])
    result = score(task, examples, task.read_answers([write_lines("a.jsonl", rows)], examples))
    assert {name: round(value, 4) for name, value in result.scores.items()} == {
        "NAT": 100, "SOC": 0, "LAN": 100, "TXT": 50, "IMG": 0, "NO": 100, "G1-6": 100, "G7-12": 50,
        "average": 66.6667, "questions": 3,
    }  # fmt: skip
    assert list(result.scores)[:9] == list(task.columns)
    assert examples[1].images == ["test/2/image.png"]
    assert examples[1].prompt == (
        "Context: look\nWhich?\nA. a\nB. b\nC. c\nAnswer with the option's letter from the given choices directly."
    )


def test_scienceqa_reads_the_official_folder_and_its_splits(tmp_path: Path) -> None:
    (tmp_path / "problems.json").write_text(json.dumps({"1": PROBLEM, "2": PROBLEM}))
    (tmp_path / "pid_splits.json").write_text(json.dumps({"train": ["1"], "test": ["2"]}))
    (tmp_path / "captions.json").write_text("{}")
    assert [example.id for example in TASKS["scienceqa"].read([tmp_path])] == ["2"]


@pytest.mark.parametrize(
    "content",
    [
        {"acc": 50, "results": {"1": 1, "2": 1}, "outputs": {"1": "The answer is B.", "2": "The answer is A."}},
        {"results": {"1": 1, "2": -1}},
        {"correct": [{"question_id": "1", "pred": "B"}], "incorrect": [{"question_id": "2", "pred": "A"}]},
    ],
)
def test_scienceqa_reads_what_the_official_scripts_write(content: dict, tmp_path: Path) -> None:
    (tmp_path / "problems.json").write_text(json.dumps({"1": PROBLEM, "2": PROBLEM}))
    (tmp_path / "result.jsonl").write_text(json.dumps(content, indent=1))
    task = TASKS["scienceqa"]
    examples = task.read([tmp_path])
    assert score(task, examples, task.read_answers([tmp_path / "result.jsonl"], examples)).scores["average"] == 50


# ---- MMBench ----


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        ("(B)", "B"),
        ("B. a dog", "B"),
        ("The answer is B.", "B"),
        ("a dog", "B"),
        ("It is a dog, I think", "B"),
        ("A and B", None),
        ("A man is walking with a dog in the park on a sunny day and more", None),
        ("a cat and a dog", None),
        ("Z", None),
        ("", None),
    ],
)
def test_mmbench_finds_an_option_or_none(text: str, letter: str | None) -> None:
    assert chosen_option(text, {"A": "a cat", "B": "a dog", "C": "a bus"}) == letter


def _picture() -> str:
    buffer = io.BytesIO()
    Image.new("RGB", (30, 20), "red").save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


@pytest.fixture
def tables(tmp_path: Path) -> dict[str, Path]:
    """Two questions, as first passes and with their rotations, as `mmbench_dev_20230712.tsv` has them."""
    first = [
        {"index": 7, "question": "What?", "A": "cat", "B": "dog", "C": None, "D": None, "answer": "A"},
        {"index": 9, "question": "Why?", "A": "x", "B": "y", "C": "z", "D": None, "answer": "C", "hint": "Look."},
    ]
    for row, ability in zip(first, ("logic_reasoning", "coarse_perception"), strict=True):
        row |= {"category": f"fine {row['index']}", "l2-category": ability, "image": _picture(), "split": "dev"}
    turned = [
        {**first[0], "index": 1_000_007, "A": "dog", "B": "cat", "answer": "B", "category": None, "image": "7"},
        {**first[1], "index": 1_000_009, "A": "y", "B": "z", "C": "x", "answer": "B", "image": "9"},
        {**first[1], "index": 2_000_009, "A": "z", "B": "x", "C": "y", "answer": "A", "image": "9"},
    ]
    paths = {}
    for name, rows in {"first": first, "all": [*first, *turned]}.items():
        paths[name] = tmp_path / f"{name}.tsv"
        pandas.DataFrame(rows).to_csv(paths[name], sep="\t", index=False)
    return paths


def test_mmbench_counts_a_question_only_when_every_rotation_is_right(tables: dict[str, Path]) -> None:
    task = TASKS["mmbench"]
    examples = task.read([tables["all"]])
    right = {"7": "A", "1000007": "cat", "9": "C", "1000009": "B", "2000009": "A"}
    assert score(task, examples, right).scores == {
        "accuracy": 100, "LR": 100, "CP": 100, "first_pass_accuracy": 100, "fine 7": 100, "fine 9": 100, "questions": 5,
    }  # fmt: skip
    result = score(task, examples, {**right, "1000009": "C"})
    assert len(result.clusters) == 1  # both ask about the same picture
    scores = result.scores
    assert (scores["accuracy"], scores["LR"], scores["CP"], scores["first_pass_accuracy"]) == (50, 100, 0, 100)


def test_mmbench_makes_the_rotations_that_a_table_lacks(tables: dict[str, Path]) -> None:
    """As LLaVA's --all-rounds makes them, whose answers carry the number of the round."""
    task = TASKS["mmbench"]
    made, official = task.read([tables["first"]]), task.read([tables["all"]])

    def content(examples: list) -> dict:
        return {example.id: (example.prompt, example.truth, example.meta["options"]) for example in examples}

    assert content(made) == content(official)
    assert task.answer_id({"question_id": 9, "round_id": 2, "text": "A"}) == "2000009"
    assert task.answer_id({"question_id": 9, "round_id": 0, "text": "A"}) == "9"


def test_mmbench_passes_share_their_picture(tables: dict[str, Path]) -> None:
    examples = TASKS["mmbench"].read([tables["all"]])
    assert all(example.images[0]["bytes"].startswith(b"\x89PNG") for example in examples)
    assert len({id(example.images[0]) for example in examples}) == 1


def test_mmbench_submission_comes_back_with_the_same_score(tables: dict[str, Path], tmp_path: Path) -> None:
    pytest.importorskip("openpyxl")
    task = TASKS["mmbench"]
    examples = task.read([tables["all"]])
    answers = {"7": "A", "1000007": "B", "9": "C", "1000009": "C", "2000009": None}
    task.write_submission(examples, answers, tmp_path / "submission.xlsx")

    table = pandas.read_excel(tmp_path / "submission.xlsx")
    assert list(table.columns) == ["index", "question", "A", "B", "C", "D", "prediction", "answer", "split"]
    again = task.read([tmp_path / "submission.xlsx"])
    read = task.read_answers([tmp_path / "submission.xlsx"], again)
    assert score(task, again, read).scores["accuracy"] == score(task, examples, answers).scores["accuracy"] == 50


def test_mmbench_test_split_has_no_score(tables: dict[str, Path], tmp_path: Path) -> None:
    table = pandas.read_table(tables["first"]).drop(columns="answer")
    table.to_csv(tmp_path / "test.tsv", sep="\t", index=False)
    examples = TASKS["mmbench"].read([tmp_path / "test.tsv"])
    with pytest.raises(ValueError, match="not public.*submission"):
        score(TASKS["mmbench"], examples, {example.id: "A" for example in examples})


def _mmbench_row(index: int, *options: object, answer: object = "C", **more: object) -> dict:
    row = {"index": index, "question": "How many?", **dict(zip("ABCD", options, strict=True)), "answer": answer}
    return {**row, "l2-category": "coarse_perception", "split": "dev", "image": _picture(), **more}


def _write_table(path: Path, rows: list[dict]) -> Path:
    """A table as another program writes it: `path` says as text or as a sheet; empty cells where a value is None."""
    if path.suffix == ".xlsx":
        book = openpyxl.Workbook()
        for row in (list(rows[0]), *(list(row.values()) for row in rows)):
            book.active.append(row)
        book.save(path)
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), dialect="excel-tab")
            writer.writeheader()
            writer.writerows(rows)
    return path


@pytest.mark.parametrize("suffix", [".tsv", ".xlsx"])
def test_mmbench_takes_options_as_they_are_written(suffix: str, tmp_path: Path) -> None:
    """None, NA and null are options, and 4 is no 4.0 where the column has a gap."""
    rows = [
        _mmbench_row(1, "One", "None", "Two", "Three"),
        _mmbench_row(2, "NA", "null", "nan", "N/A", answer="D"),
        _mmbench_row(3, 1, 2, 3, 4, answer="D"),
        _mmbench_row(4, 1, 2, 3, None),
    ]
    examples = TASKS["mmbench"].read([_write_table(tmp_path / f"t{suffix}", rows)])
    first = {example.id: example for example in examples if int(example.id) < 1_000_000}
    assert [list(first[key].meta["options"].values()) for key in "1234"] == [
        ["One", "None", "Two", "Three"],
        ["NA", "null", "nan", "N/A"],
        ["1", "2", "3", "4"],
        ["1", "2", "3"],
    ]
    assert [first[key].truth for key in "1234"] == ["C", "D", "D", "C"] and len(examples) == 4 + 4 + 4 + 3


def test_mmbench_submission_keeps_such_options(tmp_path: Path) -> None:
    task = TASKS["mmbench"]
    rows = [_mmbench_row(1, "=1+1", "None", "4", "NA", answer="B")]
    examples = task.read([_write_table(tmp_path / "t.tsv", rows)])
    answers = {example.id: example.truth for example in examples}
    task.write_submission(examples, answers, tmp_path / "s.xlsx")
    again = task.read([tmp_path / "s.xlsx"])
    assert [example.meta["options"] for example in again] == [example.meta["options"] for example in examples]
    assert score(task, again, task.read_answers([tmp_path / "s.xlsx"], again)).scores["accuracy"] == 100


@pytest.mark.parametrize(("answer", "truth"), [("c", "C"), (" C ", "C"), ("E", None), ("two", None)])
def test_mmbench_reads_an_answer_s_letter_or_refuses_it(answer: str, truth: str | None, tmp_path: Path) -> None:
    path = _write_table(tmp_path / "t.tsv", [_mmbench_row(5, "One", "None", "Two", "Three", answer=answer)])
    if truth is None:
        with pytest.raises(ValueError, match=f"question 5 is '{answer}', and its options are A, B, C, D"):
            TASKS["mmbench"].read([path])
    else:
        assert TASKS["mmbench"].read([path])[0].truth == truth


def test_mmbench_names_a_row_whose_index_is_no_number(tmp_path: Path) -> None:
    path = _write_table(tmp_path / "t.tsv", [_mmbench_row(1, *"abcd"), {**_mmbench_row(2, *"abcd"), "index": "x"}])
    with pytest.raises(ValueError, match="row 2: the index is 'x', which is no whole number"):
        TASKS["mmbench"].read([path])


@pytest.mark.parametrize(("answer", "truth"), [(1, 1), ("1", 1), (1.0, 1), ("B", None), (3, None), (None, None)])
def test_scienceqa_reads_the_number_of_a_choice_or_refuses_it(
    answer: object, truth: int | None, tmp_path: Path
) -> None:
    (tmp_path / "problems.json").write_text(json.dumps({"7": {**PROBLEM, "answer": answer}}))
    if truth is None:
        with pytest.raises(ValueError, match="the answer to problem 7 is"):
            TASKS["scienceqa"].read([tmp_path])
    else:
        assert TASKS["scienceqa"].read([tmp_path])[0].truth == truth
