"""The comparison: every choice in a smoke of all, killed and gone on with; what wide pictures show; what the report says."""

import json
import os
import random
import signal
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest

from llavakit.compare import run_compare
from llavakit.compare.choices import BLIND, PARTS
from llavakit.compare.exam import EXAM, score_exam
from llavakit.compare.pipeline import Found
from llavakit.compare.report import summarize, write_report
from llavakit.compare.wide import VIEW_SIDE, WIDE_SIZE, widen, widened_exam
from llavakit.quickstart.evaluate import Item, make_exam
from llavakit.quickstart.world import COLOURS, SHAPES, draw_scene, held_out_pairs, sample_scene

from ..warm_python import WarmPython

PAIRS = frozenset((colour, shape) for colour in COLOURS for shape in SHAPES)


@pytest.fixture(scope="module")
def items() -> list[Item]:
    return make_exam(0, PAIRS, held_out_pairs(0), 12)


def test_a_thing_of_a_wide_picture_is_small_and_lies_whole_in_one_view_of_its_half() -> None:
    rng = random.Random(0)
    for _ in range(200):
        scene = sample_scene(rng)
        wide = widen(scene, rng)
        pixels = np.asarray(draw_scene(wide)).astype(int)
        assert pixels.shape == (*WIDE_SIZE[::-1], 3)
        ground = np.abs(pixels - np.array(wide.ground)).max(-1) <= 6
        assert len(wide.things) == len(scene.things)
        for before, thing in zip(scene.things, wide.things, strict=True):
            assert (thing.pair, thing.place, thing.size) == (before.pair, before.place, "small")
            left, top, right, bottom = thing.box
            assert left // VIEW_SIDE == (right - 1) // VIEW_SIDE and (left > WIDE_SIZE[0] // 2) == thing.column
            assert 0 <= top < bottom <= VIEW_SIDE and (top > VIEW_SIDE // 2) == thing.row
            middle = pixels[(top + bottom) // 2, (left + right) // 2]
            assert tuple(middle) == thing.rgb
            ground[top:bottom, left:right] = True
        assert ground.all(), "there is something outside the boxes"


def test_the_same_is_asked_about_wide_pictures(items: list[Item]) -> None:
    wide = widened_exam(items, 0)
    assert [item.question for item in wide] == [item.question for item in items]
    assert widened_exam(items, 0) == wide and widened_exam(items, 1) != wide


def found(items: list[Item], said: list[str], **outcome: object) -> Found:
    figures = {
        "image_tokens": 16,
        "image_features": 16,
        "connector_parameters": 1234,
        "seconds_a_step": {"instruct": 0.05},
        "peak_memory_mb": 900.0,
    }
    return Found(score_exam(items, said), figures | outcome)


def test_report_says_what_was_found(items: list[Item], tmp_path: Path) -> None:
    """The first choice answers all, the others all but the counts; one attends to features beside the text."""
    truths = [item.question.answer for item in items]
    partly = ["?" if item.question.kind == "count" else truth for item, truth in zip(items, truths, strict=True)]
    part = PARTS["connectors"]
    first, *others = part.choices
    runs = {first.run_name: [found(items, truths)] * 2, BLIND: [found(items, ["yes"] * len(items))] * 2}
    runs |= {choice.run_name: [found(items, partly)] * 2 for choice in others}
    runs[others[-1].run_name] = [found(items, partly, image_tokens=1)] * 2
    summary = summarize(part, runs)
    assert [run["score"] for run in summary[:-1]] == pytest.approx([100] + [75] * len(others))
    assert summary[0]["difference"] is None and summary[1]["difference"]["value"] == pytest.approx(-25)
    assert summary[1]["scores"] == pytest.approx(dict.fromkeys(EXAM.columns, 100) | {"count": 0, "all": 75})

    results = {"parts": {"connectors": summary}, "seeds": [0, 1], "settings": {"stage 2": "<few> steps"}}
    said = write_report(results, tmp_path)
    assert "| 75.0 |" in said and "| 16 | 1,234 | 50 | 900 |" in said and "| 1 (16 attended to) |" in said
    assert json.loads((tmp_path / "results.json").read_text()) == json.loads(json.dumps(results))
    plot = ElementTree.parse(tmp_path / "compare-connectors.svg").getroot()
    drawn = ["".join(element.itertext()) for element in plot.iter("{http://www.w3.org/2000/svg}text")]
    assert all(choice.name in drawn for choice in part.choices)
    page = (tmp_path / "report.html").read_text()
    assert "<svg" in page and "&lt;few&gt; steps" in page and "<few>" not in page


@pytest.mark.slow(minutes=1)
def test_a_killed_call_is_gone_on_with(warm_python: WarmPython, tmp_path: Path) -> None:
    """Killed once while it prepares and once between runs; what was finished is not run again. Every choice can learn."""
    folder = tmp_path / "compare"
    command = ["-m", "llavakit.cli", "compare", "--output_dir", folder, "--scale", "0.001", "--seeds", "0"]
    said = tmp_path / "said"

    def kill_when(ready: Path) -> None:
        process = warm_python.start(command, said)
        while not any(ready.parent.glob(ready.name)):
            assert process.poll() is None, said.read_text()
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    kill_when(folder / "seed-0" / "small" / "align.json")
    kill_when(folder / "seed-0" / "small" / "outcomes" / "*.json")
    finished = {path: path.stat().st_mtime_ns for path in folder.glob("seed-0/*/outcomes/*.json")}
    assert warm_python.start(command, said).wait() == 0, said.read_text()
    results = json.loads((folder / "results.json").read_text())
    assert finished and all(path.stat().st_mtime_ns == when for path, when in finished.items())
    for name, part in PARTS.items():
        runs = {run["name"]: run for run in results["parts"][name]}
        assert list(runs) == [*(choice.name for choice in part.choices), BLIND]
        assert all(run["connector_parameters"] and run["milliseconds_a_step"] for run in runs.values())
    tokens = {run["name"]: run["image_tokens"] for runs in results["parts"].values() for run in runs}
    assert tokens["linear"] == 16 and tokens["linear, pooled to 4"] == tokens["pixel_shuffle_mlp"] == 4
    assert tokens["tiles"] == 4 * 16 and tokens["anyres"] == 4 * 16 + 4 and tokens["anyres, resampled to 16"] == 16
    assert tokens["gated cross-attention"] == 1
    with pytest.raises(ValueError, match="at scale 0.001, not 0.02; choose a new folder"):
        run_compare(str(folder), scale=0.02)


def test_what_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "chapter.txt").write_text("years of work")
    with pytest.raises(ValueError, match="holds something else"):
        run_compare(str(tmp_path))
    with pytest.raises(ValueError, match="seeds is empty"):
        run_compare(str(tmp_path / "new"), seeds=())
    with pytest.raises(ValueError, match="parts='glasses'.*connectors.*layouts"):
        run_compare(str(tmp_path / "new"), parts=("glasses",))
    assert [file.name for file in tmp_path.iterdir()] == ["chapter.txt"]
