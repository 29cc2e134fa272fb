"""MMMU: its parse by cases worked out by hand, and its scores from each form of its files."""

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from llavakit.evaluation.metrics.scoring import score
from llavakit.evaluation.reading.mmmu_parse import is_right, normalized, parse_choice, parse_open
from llavakit.evaluation.tasks import TASKS

OPTIONS = {"A": "red car", "B": "a blue house", "C": "dog"}


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        ("B.", "B"),
        ("(C)", "C"),
        ("The answer is (A), not (B)", "B"),  # of several the last
        ("A or (C)", "C"),  # brackets before bare letters
        ("A B", "B"),
        ("I think that it is the Red Car", "A"),  # more than five words: the text of an option counts
        ("the red car", None),  # five or fewer: it does not
        ("a dog and a blue house, or the dog", "C"),
        ("", None),
        ("D", None),
    ],
)
def test_parse_choice(text: str, letter: str | None) -> None:
    assert parse_choice(text, "ABC", OPTIONS) == letter


@pytest.mark.parametrize(
    ("text", "truth", "right"),
    [
        ("1.06", "1.06", True),
        ("The result is 1.064 m", "1.06", True),  # two decimals
        ("it is 1,234", "1234", True),
        ("x = 3 = 5", "5", True),
        ("1.5e3", "1500", True),
        ("from 3-4", "-4", True),  # the official patterns take every hyphen before a digit for a sign
        ("the hormone", "hormone", True),  # anywhere in the text
        ("Transformation.", "transformation", True),
        ("abc", "C", False),  # a single letter needs a blank beside it
        ("vitamin c", "C", True),
        ("seven", ["7", "seven"], True),
        ("right", "C", False),
        ("", "x", False),
    ],
)
def test_short_answers(text: str, truth: str | list[str], right: bool) -> None:
    assert is_right(parse_open(text), truth) is right


def test_open_answers_are_looked_for_behind_key_words() -> None:
    assert set(parse_open("So the answer is 5\nor x = 7")) == {5.0, 7.0}
    assert parse_open("blue") == ["blue"]
    assert normalized("1,234.567") == [1234.57]
    assert normalized("Q") == [" q", "q "]


def score_of(annotations: list[Path], answers: list[Path]) -> dict[str, float]:
    task = TASKS["mmmu"]
    examples = task.read(annotations)
    return score(task, examples, task.read_answers(answers, examples)).scores


def test_official_sample(shared_data: Path) -> None:
    """None of the nine official answers of LLaVA in the sample is right."""
    formats = shared_data / "eval_formats"
    scores = score_of([formats / "mmmu_answer_dict.json"], [formats / "mmmu_llava_outputs.json"])
    assert scores["accuracy"] == scores["accounting"] == scores["business"] == 0
    assert scores["questions"] == 9 and "guessed" not in scores


def test_a_dict_of_right_answers(tmp_path: Path) -> None:
    truth = {
        "validation_Art_1": {"question_type": "multiple-choice", "ground_truth": "B"},
        "validation_Art_Theory_1": {"question_type": "multiple-choice", "ground_truth": "B"},
        "validation_Math_1": {"question_type": "short-answer", "ground_truth": ["7", "seven"]},
    }
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    given = {"validation_Art_1": "B", "validation_Art_Theory_1": "no idea", "validation_Math_1": "it is seven"}
    (tmp_path / "given.json").write_text(json.dumps(given))
    scores = score_of([tmp_path / "truth.json"], [tmp_path / "given.json"])
    expected = {"accuracy": 200 / 3, "art": 100, "art_theory": 0, "art_and_design": 50, "math": 100, "science": 100}
    assert scores == pytest.approx(expected | {"questions": 3})


def test_official_outputs_draw_for_answers_that_choose_nothing(tmp_path: Path) -> None:
    """The official code draws with the seed 42, subject by subject; so the same letters come out."""
    responses = {"Physics": ["?", "B"], "Biology": ["?", "(A) or so", "?"]}
    for subject, texts in responses.items():
        rows = [
            {
                "id": f"validation_{subject}_{number}",
                "question_type": "multiple-choice",
                "answer": "A",
                "all_choices": list("ABCD"),
                "index2ans": dict.fromkeys("ABCD", "text"),
                "response": text,
            }
            for number, text in enumerate(texts)
        ]
        (tmp_path / subject).mkdir()
        (tmp_path / subject / "output.json").write_text(json.dumps(rows))
    draw = random.Random(42)
    biology = [draw.choice("ABCD") == "A", True, draw.choice("ABCD") == "A"]
    physics = [draw.choice("ABCD") == "A", False]
    expected = {"biology": 100 * sum(biology) / 3, "physics": 100 * sum(physics) / 2, "guessed": 3}
    scores = score_of([tmp_path], [tmp_path])
    assert {name: scores[name] for name in expected} == pytest.approx(expected)
    # The same when the right answers come from the dict, and the options only with the outputs
    truth = {
        f"validation_{subject}_{number}": {"question_type": "multiple-choice", "ground_truth": "A"}
        for subject, texts in responses.items()
        for number in range(len(texts))
    }
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    assert score_of([tmp_path / "truth.json"], [tmp_path]) == scores


def test_rows_of_the_data_set(write_lines: Callable[..., Path]) -> None:
    row = {"id": "validation_Math_1", "question": "<image 1> How many?", "options": "['one', 'two']", "answer": "B"}
    row |= {"question_type": "multiple-choice", "image_1": {"bytes": None, "path": "a.png"}, "image_2": None}
    open_row = {**row, "id": "validation_Math_2", "options": "[]", "answer": "['2', 'two']", "question_type": "open"}
    first, second = TASKS["mmmu"].read([write_lines("rows.jsonl", [row, open_row])])
    letter = "Answer with the option's letter from the given choices directly."
    assert first.prompt == f"<image 1> How many?\n(A) one\n(B) two\n\n{letter}"
    assert second.prompt == "<image 1> How many?\nAnswer the question using a single word or phrase."
    assert first.images == [{"bytes": None, "path": "a.png"}] and second.truth == ["2", "two"]
    task = TASKS["mmmu"]
    assert task.grade(first, "I am sure that it is Two") == task.grade(second, "2.0") == 1
