"""RefCOCO: its official files, the box of an answer by the convention of who answers, and the accuracy at an IoU of 0.5."""

import json
import pickle
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llavakit.checkpoints.loading import load_model, load_processor
from llavakit.evaluation.metrics.scoring import score
from llavakit.evaluation.run import run_task
from llavakit.evaluation.tasks import TASKS
from llavakit.evaluation.tasks.refcoco import iou
from llavakit.inference.engine import Answer
from llavakit.inference.local_engine import LocalEngine
from llavakit.processing.box_formats import BOX_FORMATS, write_box
from llavakit.processing.image_geometry import Placement


def test_official_files(refcoco: Path) -> None:
    examples = TASKS["refcoco"].read([refcoco])
    assert len(examples) == 18 and {example.meta["split"] for example in examples} == {"val", "testA", "testB"}
    first = examples[0]
    asked = "Please provide the bounding box coordinate of the region this sentence describes: Cat 1."
    assert (first.id, first.prompt, first.images) == ("2", asked, ["COCO_train2014_000000000001.jpg"])
    [content] = [
        each for each in json.loads((refcoco / "instances.json").read_text())["annotations"] if each["id"] == 101
    ]
    x, y, width, height = content["bbox"]
    assert first.truth == pytest.approx([x, y, x + width, y + height])


def by_hand(answers: dict[str, Any], examples: list[Any]) -> dict[str, float]:
    """Accuracy by split, areas counted on a fine grid."""
    right: dict[str, list[bool]] = {}
    for example in examples:
        box = answers[example.id]
        grid = np.arange(0, 64, 0.1) + 0.05
        masks = [
            ((grid > b[0]) & (grid < b[2]))[None] & ((grid > b[1]) & (grid < b[3]))[:, None]
            for b in (box or [0, 0, 0, 0], example.truth)
        ]
        both, either = (masks[0] & masks[1]).sum(), (masks[0] | masks[1]).sum()
        for group in ("accuracy", example.meta["split"]):
            right.setdefault(group, []).append(bool(both / either >= 0.5))
    return {group: 100 * float(np.mean(hits)) for group, hits in right.items()}


@pytest.mark.parametrize("name", [name for name, form in BOX_FORMATS.items() if form.box and form.of != "canvas"])
def test_accuracy_is_that_of_a_count_by_hand(name: str, refcoco: Path, write_lines: Callable[..., Path]) -> None:
    task, draw = TASKS["refcoco"].with_boxes(name), random.Random(name)
    examples, rows, given = task.read([refcoco]), [], {}
    for example in examples:
        width, height = example.meta["width"], example.meta["height"]
        shift = draw.choice([1, 2, 3.9])
        moved = [value + draw.uniform(-shift, shift) for value in example.truth]
        box = [max(0, moved[0]), max(0, moved[1]), min(width, moved[2]), min(height, moved[3])]
        text = (
            f"It is at {write_box(box, name, width, height)}, not at {write_box([0, 0, 3, 3], name, width, height)}."
        )
        given[example.id] = box
        if draw.random() < 0.2:
            text, given[example.id] = draw.choice(["I see no cat.", "[0.1, 0.2,"]), None
        rows.append({"question_id": int(example.id), "text": text})
    found = score(task, examples, task.read_answers([write_lines("answers.jsonl", rows)], examples)).scores
    expected = by_hand(given, examples)
    assert {group: found[group] for group in expected} == pytest.approx(expected)
    assert 0 < found["accuracy"] < 100
    assert found["without a box"] == pytest.approx(100 * np.mean([box is None for box in given.values()]))


def test_intersection_over_union() -> None:
    assert iou([0, 0, 10, 10], [0, 0, 10, 5]) == 0.5 and iou([0, 0, 1, 1], [1, 1, 2, 2]) == 0
    assert iou([0, 0, 4, 4], [2, 2, 6, 6]) == pytest.approx(4 / 28)


class Writes:
    """A local engine that writes the true boxes, by its checkpoint's convention, and one that is wrong."""

    def __init__(self, engine: LocalEngine, examples: list[Any]) -> None:
        self.engine, self.examples = engine, {example.id: example for example in examples}
        self.boxes_in = engine.boxes_in

    def answer(self, questions: Any) -> Iterator[Answer]:
        assert sum(1 for answer in self.engine.answer(questions) if answer.error is None) == len(self.examples)
        for number, (key, example) in enumerate(self.examples.items()):
            box = [0, 0, 2, 2] if number == 0 else example.truth
            size = example.meta["width"], example.meta["height"]
            yield Answer(key, self.engine.processor.box_text(box, *size), "stop")


@pytest.mark.parametrize("name", ["llava", "canvas", "qwen_vl"])
def test_a_checkpoint_s_answers_are_read_by_its_own_convention(
    name: str, refcoco: Path, tiny_llava: str, tmp_path: Path, evaluate: Callable[..., int]
) -> None:
    processor: Any = load_processor(tiny_llava)
    processor.box_format, processor.image_aspect_ratio = name, "pad"
    examples = TASKS["refcoco"].read([refcoco])
    engine = Writes(LocalEngine(load_model(tiny_llava).eval(), processor, batch_size=4), examples)
    result = run_task(TASKS["refcoco"], engine, [refcoco], tmp_path / "out", max_new_tokens=2)
    assert result is not None and result.scores["accuracy"] == pytest.approx(100 * 17 / 18)
    lines = (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()
    assert all(len(json.loads(line)["boxes"]) == 1 for line in lines)
    # What the file says of boxes counts, whoever scores it
    files = (
        "--annotations",
        refcoco,
        "--answers",
        tmp_path / "out" / "predictions.jsonl",
        "-o",
        tmp_path / "scores.json",
    )
    assert evaluate("score", "refcoco", *files) == 0
    assert json.loads((tmp_path / "scores.json").read_text())["accuracy"] == pytest.approx(100 * 17 / 18)
    assert "in pixels" in (tmp_path / "out" / "report.html").read_text()


def test_a_stated_convention_is_taken_over_the_checkpoint_s(refcoco: Path, write_lines: Any, evaluate: Any) -> None:
    examples = TASKS["refcoco"].read([refcoco])
    size = [(example.meta["width"], example.meta["height"]) for example in examples]
    texts = [write_box(example.truth, "internvl", *each) for example, each in zip(examples, size, strict=True)]
    rows = [{"question_id": example.id, "text": text} for example, text in zip(examples, texts, strict=True)]
    answers, scores = write_lines("internvl.jsonl", rows), refcoco / "scores.out"
    files = ("--annotations", refcoco, "--answers", answers, "-o", scores)
    evaluate("score", "refcoco", *files, "--box_format", "internvl")
    assert json.loads(scores.read_text())["accuracy"] == 100
    evaluate("score", "refcoco", *files)
    assert json.loads(scores.read_text()) | {"accuracy": 0.0, "without a box": 100.0} == json.loads(scores.read_text())
    with pytest.raises(ValueError, match="--box_format internvl: answers to pope hold no boxes"):
        evaluate("score", "pope", *files, "--box_format", "internvl")


def test_what_cannot_be_read_is_named(refcoco: Path, tmp_path: Path) -> None:
    task = TASKS["refcoco"]
    with pytest.raises(ValueError, match="takes one file of references and one of instances"):
        task.read([refcoco / "instances.json"])
    (refcoco / "instances.json").write_text(json.dumps({"images": [], "annotations": []}))
    with pytest.raises(ValueError, match="reference 1: its box or image is not in"):
        task.read([refcoco])
    (refcoco / "instances.json").write_text("[]")
    with pytest.raises(ValueError, match="is not RefCOCO's instances.json"):
        task.read([refcoco])
    (refcoco / "instances.json").write_text(json.dumps({"images": [], "annotations": []}))
    (refcoco / "refs(unc).p").write_bytes(pickle.dumps(Placement(1, 1, 1, 1)))
    with pytest.raises(ValueError, match="annotations hold plain values only"):
        task.read([refcoco])
