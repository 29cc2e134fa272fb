"""docs/leaks.md: its command, in a folder as the page assumes it, and what the page says of what goes on from there."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from llavakit.cli import main
from llavakit.rows.files import write_rows

from .planted_pictures import drawn_picture

PAGE = Path(__file__).resolve().parents[2] / "docs" / "leaks.md"
BLOCKS = re.findall(r"^```bash ([\w -]+)\n(.*?)^```$", PAGE.read_text(), re.M | re.S)


@pytest.fixture
def desk(tmp_path: Path, pope_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A training set that shows one picture of VQAv2, beside both benchmarks' files."""
    draw = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for number in range(2):
        picture = drawn_picture(draw, "scene")
        picture.save(tmp_path / f"COCO_val2014_{number:012d}.jpg")
        picture.save(tmp_path / "images" / f"{number}.jpg", quality=60)
    drawn_picture(draw, "scene").save(tmp_path / "images" / "1.jpg")
    keys = [{"question_id": number, "image_id": number} for number in range(2)]
    questions = [{**key, "question": "What is in the picture?"} for key in keys]
    annotations = [{**key, "answers": [{"answer": "shapes"}] * 10} for key in keys]
    (tmp_path / "questions.json").write_text(json.dumps({"questions": questions}))
    (tmp_path / "annotations.json").write_text(json.dumps({"annotations": annotations}))
    turns = [{"from": "human", "value": "<image>\nDescribe it."}, {"from": "gpt", "value": "Some shapes."}]
    rows = [{"id": str(number), "image": f"{number}.jpg", "conversations": turns} for number in range(2)]
    write_rows(rows, tmp_path / "train.jsonl")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_page_s_command_runs(desk: Path) -> None:
    assert [name for name, _ in BLOCKS] == ["check"]
    for _, code in BLOCKS:
        for line in code.replace("\\\n", " ").strip().splitlines():
            assert main(shlex.split(line)[1:]) == 0
    record = json.loads((desk / "train.leaks.json").read_text())
    found = {line["benchmark"]: line["leaked_questions"] for line in record["benchmarks"]}
    assert found == {"pope": 0, "vqav2": 1}
    lines = [json.loads(line) for line in (desk / "train.leaks.jsonl").read_text().splitlines()]
    assert [(line["question"], line["picture"]) for line in lines] == [("0", "near")]
