"""Runs of a whole benchmark: a real model answers, a killed run goes on, and failures stay failures."""

import json
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
import torch

from llavakit.evaluation.run import read_predictions, run_task
from llavakit.evaluation.tasks import TASKS
from llavakit.inference.chat import load_llava
from llavakit.inference.engine import Answer, Question
from llavakit.inference.local_engine import LocalEngine

from ..warm_python import WarmPython


class Counting:
    """An engine that notes what it is asked, and passes it on."""

    def __init__(self, engine: LocalEngine) -> None:
        self.engine, self.asked = engine, []

    def answer(self, questions: Iterable[Question]) -> Iterator[Answer]:
        questions = list(questions)
        self.asked += [question.id for question in questions]
        return self.engine.answer(questions)


@pytest.fixture(scope="module")
def engine(tiny_llava: str) -> LocalEngine:
    return LocalEngine(*load_llava(tiny_llava), batch_size=4)


def test_a_run_leaves_predictions_scores_intervals_table_and_report(
    engine: LocalEngine, pope_folder: Path, tmp_path: Path
) -> None:
    result = run_task(TASKS["pope"], engine, [pope_folder], tmp_path / "out", max_new_tokens=4, model="tiny")

    assert result is not None
    predictions = read_predictions(tmp_path / "out" / "predictions.jsonl")
    assert len(predictions) == 16 and all(isinstance(text, str) for text in predictions.values())
    scores = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert scores["questions"] == 16 and 0 <= scores["accuracy"] <= 100
    intervals = json.loads((tmp_path / "out" / "intervals.json").read_text())
    assert intervals["accuracy"][0] <= scores["accuracy"] <= intervals["accuracy"][1]
    table = (tmp_path / "out" / "table.md").read_text()
    assert f"| adversarial_f1 | {scores['adversarial_f1']:.2f} |" in table
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count('<img src="data:image/jpeg') == sum(
        task_points < 1 for task_points in (TASKS["pope"].points(entry) for entry in result.graded)
    )


def test_what_is_answered_is_not_asked_again(engine: LocalEngine, pope_folder: Path, tmp_path: Path) -> None:
    out, counting = tmp_path / "out", Counting(engine)
    run_task(TASKS["pope"], counting, [pope_folder], out, max_new_tokens=2)
    assert len(counting.asked) == 16
    path = out / "predictions.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:9]) + lines[9][:11])  # killed while it wrote the tenth

    before = (out / "scores.json").read_text()
    counting.asked.clear()
    run_task(TASKS["pope"], counting, [pope_folder], out, max_new_tokens=2)

    assert sorted(counting.asked) == sorted(json.loads(line)["id"] for line in lines[9:])
    assert (out / "scores.json").read_text() == before


def test_a_failure_is_kept_as_one_and_asked_again_only_on_demand(
    engine: LocalEngine, pope_folder: Path, tmp_path: Path
) -> None:
    out, counting = tmp_path / "out", Counting(engine)
    (pope_folder / "2.png").write_text("no image")
    result = run_task(TASKS["pope"], counting, [pope_folder], out, max_new_tokens=2)

    assert result is not None and result.scores["failed"] == 4  # two questions in each split
    lines = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    failed = [line for line in lines if "error" in line]
    assert len(failed) == 4 and all("text" not in line and "image" in line["error"] for line in failed)
    assert "the generation failed" in (out / "report.html").read_text()

    counting.asked.clear()
    again = run_task(TASKS["pope"], counting, [pope_folder], out, max_new_tokens=2)
    assert again is not None and again.scores["failed"] == 4 and not counting.asked

    (pope_folder / "2.png").write_bytes((pope_folder / "1.png").read_bytes())
    mended = run_task(TASKS["pope"], counting, [pope_folder], out, max_new_tokens=2, retry_failed=True)
    assert mended is not None and "failed" not in mended.scores and len(counting.asked) == 4


def test_missing_images_stop_a_run_before_its_first_question(
    engine: LocalEngine, pope_folder: Path, tmp_path: Path
) -> None:
    (pope_folder / "0.png").unlink()
    counting = Counting(engine)
    with pytest.raises(ValueError, match=r"1 of 4 images are not in .*'0.png'.*--image_folder"):
        run_task(TASKS["pope"], counting, [pope_folder], tmp_path / "out")
    assert not counting.asked
    result = run_task(TASKS["pope"], counting, [pope_folder], tmp_path / "out", max_new_tokens=2, allow_partial=True)
    assert result is not None and result.scores["failed"] == 4


def test_annotations_without_questions_can_be_scored_but_not_asked(engine: LocalEngine, tmp_path: Path) -> None:
    answers = [{"answer": "yes"}] * 10
    annotations = {"annotations": [{"question_id": 1, "image_id": 1, "answers": answers}], "data_subtype": "val2014"}
    (tmp_path / "annotations.json").write_text(json.dumps(annotations))
    counting = Counting(engine)
    with pytest.raises(ValueError, match="1 of 1 examples have no question: '1'.*--data"):
        run_task(TASKS["vqav2"], counting, [tmp_path / "annotations.json"], tmp_path / "out")
    assert not counting.asked and not (tmp_path / "out").exists()


def test_another_run_is_not_mixed_in(engine: LocalEngine, pope_folder: Path, tmp_path: Path) -> None:
    run_task(TASKS["pope"], engine, [pope_folder], tmp_path / "out", max_new_tokens=2, limit=1, model="a")
    with pytest.raises(ValueError, match="model was 'a' and is now 'b'; max_new_tokens was 2 and is now 3"):
        run_task(TASKS["pope"], engine, [pope_folder], tmp_path / "out", max_new_tokens=3, limit=1, model="b")


def test_answers_of_other_weights_are_not_gone_on_with(tiny_llava: str, pope_folder: Path, tmp_path: Path) -> None:
    """A checkpoint that was trained on lies at the same path."""
    model, processor = load_llava(tiny_llava)
    run_task(TASKS["pope"], LocalEngine(model, processor), [pope_folder], tmp_path / "out", limit=1, model="a")
    again = LocalEngine(*load_llava(tiny_llava))
    run_task(TASKS["pope"], again, [pope_folder], tmp_path / "out", limit=1, model="a")
    with torch.no_grad():
        model.model.multi_modal_projector.linear.bias.mul_(1.01).add_(1e-4)
    with pytest.raises(ValueError, match="holds answers of 'a' with other weights.*new folder"):
        run_task(TASKS["pope"], LocalEngine(model, processor), [pope_folder], tmp_path / "out", limit=1, model="a")
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    (tmp_path / "out" / "run.json").write_text(json.dumps(run | {"weights": None}))  # as runs of before have none
    run_task(TASKS["pope"], LocalEngine(model, processor), [pope_folder], tmp_path / "out", limit=1, model="a")


def test_the_likeliest_choice_is_one_of_the_choices(engine: LocalEngine, pope_folder: Path, tmp_path: Path) -> None:
    run_task(TASKS["pope"], engine, [pope_folder], tmp_path / "out", likeliest_choice=True)
    assert set(read_predictions(tmp_path / "out" / "predictions.jsonl").values()) <= {"Yes", "No"}
    first = json.loads((tmp_path / "out" / "predictions.jsonl").read_text().splitlines()[0])
    assert max(first["scores"], key=first["scores"].get) == first["text"]


def test_the_limit_keeps_together_what_is_scored_together(
    engine: LocalEngine, pope_folder: Path, tmp_path: Path
) -> None:
    result = run_task(TASKS["pope"], engine, [pope_folder], tmp_path / "out", max_new_tokens=2, limit=1)
    assert result is not None
    assert sorted(entry.example.id for entry in result.graded) == [
        "adversarial/1", "adversarial/2", "random/1", "random/2",
    ]  # fmt: skip


KILLED = """
import sys
from llavakit.evaluation.run import run_task
from llavakit.evaluation.tasks import TASKS
from llavakit.inference.chat import load_llava
from llavakit.inference.local_engine import LocalEngine

checkpoint, data, out = sys.argv[1:]
run_task(TASKS["pope"], LocalEngine(*load_llava(checkpoint), batch_size=1), [data], out, max_new_tokens=100)
"""


@pytest.mark.slow
def test_a_killed_run_goes_on(
    engine: LocalEngine,
    tiny_llava: str,
    pope_folder: Path,
    tmp_path: Path,
    write_lines: Callable[..., Path],
    warm_python: WarmPython,
) -> None:
    rows = [json.loads(line) for line in (pope_folder / "coco_pope_random.json").read_text().splitlines()]
    many = [{**rows[number % 8], "question_id": number, "text": f"Is there a cat {number}?"} for number in range(400)]
    write_lines("pope/coco_pope_random.json", many)
    (pope_folder / "coco_pope_adversarial.json").unlink()
    path = tmp_path / "out" / "predictions.jsonl"
    process = warm_python.start(["-c", KILLED, tiny_llava, pope_folder, tmp_path / "out"], tmp_path / "said")
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (path.exists() and path.stat().st_size > 1000):
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    kept = path.read_bytes()
    answered = kept.count(b"\n")
    assert 0 < answered < 400

    counting = Counting(engine)
    result = run_task(TASKS["pope"], counting, [pope_folder], tmp_path / "out", max_new_tokens=100)
    assert result is not None and result.scores["questions"] == 400
    assert len(counting.asked) == 400 - answered
    assert path.read_bytes().startswith(kept[: kept.rfind(b"\n") + 1])
