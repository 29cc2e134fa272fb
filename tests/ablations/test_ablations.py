"""The ablations: every run in a smoke of all, killed and gone on with; what the exams measure; what the report says."""

import json
import os
import random
import signal
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from llavakit.ablations import run_ablations
from llavakit.ablations.exams import (
    EXAMS,
    examples_of,
    longer_items,
    overlap,
    science_items,
    science_problems,
    write_science,
)
from llavakit.ablations.report import summarize, write_report
from llavakit.ablations.runs import RECIPE, SCIENCE, TYPES, WITHOUT, ablations
from llavakit.evaluation.metrics.scoring import Result, score
from llavakit.quickstart.evaluate import Item, make_exam
from llavakit.quickstart.world import COLOURS, SHAPES, held_out_pairs
from llavakit.rows.loading import load_conversations

from ..warm_python import WarmPython

PAIRS = frozenset((colour, shape) for colour in COLOURS for shape in SHAPES)


@pytest.fixture(scope="module")
def items() -> list[Item]:
    short = make_exam(0, PAIRS, held_out_pairs(0), 12)
    return [*short, *longer_items(short, random.Random(0))]


def result_of(items: list[Item], said: list[str]) -> Result:
    examples = examples_of(items)
    return score(EXAMS["world"], examples, {e.id: text for e, text in zip(examples, said, strict=True)})


def test_each_run_differs_from_the_recipe_in_one_thing() -> None:
    recipe, *others = (ablation.run for ablation in ablations(10, 20))
    assert recipe.name == RECIPE and len({run.name for run in others}) == len(others)
    for run in others:
        changed = {
            "stages": run.stages != recipe.stages,
            "model": run.model != recipe.model,
        }
        assert sum(changed.values()) == 1, run


def test_the_truth_scores_full_marks_and_each_type_counts_alike(items: list[Item]) -> None:
    truths = [item.question.answer for item in items]
    assert {name: result_of(items, truths).scores[name] for name in (*TYPES, "all")} == dict.fromkeys(
        (*TYPES, "all"), 100
    )
    for wrong in TYPES:
        kinds = [item.question.kind if item.question.kind in TYPES else "conversation" for item in items]
        said = ["nonsense" if kind == wrong else truth for kind, truth in zip(kinds, truths, strict=True)]
        scores = result_of(items, said).scores
        assert scores[wrong] == 0 and scores["all"] == pytest.approx(100 * 2 / 3)


@pytest.mark.parametrize(
    ("said", "points"),
    [
        ("There are two things. In the northwest is a small red circle. In the southeast is a large blue square.", 1),
        ("There are two things. In the northwest is a small red circle.", 2 * 2 / 5),
        (
            "There are two things. In the northwest is a large red circle. In the southeast is a large blue square.",
            2 * 2 / 6,
        ),
        ("yes", 0),
        ("", 0),
    ],
)
def test_a_description_is_marked_by_its_sentences(said: str, points: float) -> None:
    truth = "There are two things. In the northwest is a small red circle. In the southeast is a large blue square."
    assert overlap(said, truth) == pytest.approx(points)


def test_reasoning_is_marked_by_its_conclusion() -> None:
    short = make_exam(0, PAIRS, held_out_pairs(0), 12)
    reasoning = [item for item in longer_items(short, random.Random(0)) if item.question.kind == "reasoning"]
    task, examples = EXAMS["world"], examples_of(reasoning)
    for example in examples:
        conclusion = example.truth.rpartition(", so ")[2]
        assert task.grade(example, f"Whatever, so {conclusion}") == 1
        assert task.grade(example, f"{example.truth} Or not.") == 0


def test_science_is_in_the_official_form(tmp_path: Path) -> None:
    banned = held_out_pairs(0)
    problems = science_problems(random.Random(0), banned, 40, 20)
    assert not any(problem.scene.pairs & banned for problem in problems.values())
    write_science(tmp_path, problems)
    task = EXAMS["science"]
    examples = task.read([tmp_path / "problems.json"])
    items = science_items(tmp_path, problems)
    assert len(examples) == len(items) == 20
    for item, example in zip(items, examples, strict=True):
        assert task.grade(example, item.question.answer) == 1
        assert all(f") {choice}" in item.question.text for choice in example.meta["choices"])
    rows = {order: load_conversations(tmp_path / f"{order}.json") for order in ("reasoning_first", "answer_first")}
    for first, last in zip(rows["reasoning_first"], rows["answer_first"], strict=True):
        one, other = (row["messages"][1]["content"][0]["text"] for row in (first, last))
        assert one.split("\n") == other.split("\n")[::-1] and other.startswith("The answer is ")


def test_report_says_what_was_found(items: list[Item], tmp_path: Path) -> None:
    """The recipe answers all, the others all but the descriptions; the difference is certain, and drawn."""
    truths = [item.question.answer for item in items]
    partly = ["" if item.question.kind == "detail" else truth for item, truth in zip(items, truths, strict=True)]
    problems = science_problems(random.Random(0), frozenset(), 5, 30)
    write_science(tmp_path, problems)
    science = EXAMS["science"].read([tmp_path / "problems.json"])
    runs = ablations(10, 20)
    found: dict[str, list[Result]] = {}
    for ablation in runs:
        if ablation.exam == "world":
            said = truths if ablation.run.name == RECIPE else partly
            found[ablation.run.name] = [result_of(items, said)] * 2
        else:
            answers = {example.id: "The answer is A." for example in science}
            found[ablation.run.name] = [score(EXAMS["science"], science, answers)] * 2
    results = summarize(runs, found) | {"seeds": [0, 1], "settings": {"stage 2": "<few> steps"}}
    said = write_report(results, tmp_path)
    by_name = {run["run"]: run for run in results["runs"]}
    assert by_name[RECIPE]["score"] == 100 and by_name[RECIPE]["difference"] is None
    skipped = by_name["skip_stage_1"]
    assert skipped["score"] == pytest.approx(200 / 3) and skipped["seeds"] == pytest.approx([200 / 3] * 2)
    assert skipped["difference"]["value"] == pytest.approx(-100 / 3)
    assert by_name["answer_first"]["difference"]["value"] == 0
    assert json.loads((tmp_path / "results.json").read_text()) == json.loads(json.dumps(results))
    assert (
        "| stages | stage 1 skipped | 100.0 | 0.0 | 100.0 | 66.7 | 66.7 to 66.7 | -33.3 (-33.3 to -33.3) | * |" in said
    )
    plot = ElementTree.parse(tmp_path / "ablations.svg").getroot()
    drawn = ["".join(element.itertext()) for element in plot.iter("{http://www.w3.org/2000/svg}text")]
    assert all(ablation.name in drawn for ablation in runs) and drawn.count("66.7") == len(WITHOUT) + 4
    page = (tmp_path / "report.html").read_text()
    assert "<svg" in page and "&lt;few&gt; steps" in page and "<few>" not in page


@pytest.mark.slow(minutes=1)
def test_a_killed_call_is_gone_on_with(warm_python: WarmPython, tmp_path: Path) -> None:
    """Killed once while it prepares and once between runs; what was finished is not run again."""
    folder = tmp_path / "ablations"
    command = ["-m", "llavakit.cli", "ablations", "--output_dir", folder, "--scale", "0.001"]
    said = tmp_path / "said"

    def kill_when(ready: Path) -> None:
        process = warm_python.start(command, said)
        while not any(ready.parent.glob(ready.name)):
            assert process.poll() is None, said.read_text()
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    kill_when(folder / "seed-0" / "align.json")
    kill_when(folder / "seed-0" / "outcomes" / "*.json")
    outcomes = folder / "seed-0" / "outcomes"
    finished = {path: path.stat().st_mtime_ns for path in outcomes.glob("*.json")}
    assert warm_python.start(command, said).wait() == 0, said.read_text()
    results = json.loads((folder / "results.json").read_text())
    assert finished and all(path.stat().st_mtime_ns == when for path, when in finished.items())
    assert {run["run"] for run in results["runs"]} == {path.stem for path in outcomes.glob("*.json")}
    assert {run["exam"] for run in results["runs"]} == set(EXAMS)
    assert (folder / "seed-0" / SCIENCE / "test").is_dir() and (folder / "report.html").is_file()
    with pytest.raises(ValueError, match="at scale 0.001, not 0.02; choose a new folder"):
        run_ablations(str(folder), scale=0.02)


def test_what_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "chapter.txt").write_text("years of work")
    with pytest.raises(ValueError, match="holds something else"):
        run_ablations(str(tmp_path))
    with pytest.raises(ValueError, match="seeds is empty"):
        run_ablations(str(tmp_path / "new"), seeds=())
    assert [file.name for file in tmp_path.iterdir()] == ["chapter.txt"]
