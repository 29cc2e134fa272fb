"""docs/grounding.md: what it says is run, from top to bottom."""

import contextlib
import io
import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from llavakit.cli import main
from llavakit.processing.box_formats import BOX_FORMATS, write_box
from llavakit.processing.image_geometry import Placement

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "grounding.md").read_text(encoding="utf-8")


@pytest.fixture
def desk(tmp_path: Path, refcoco: Path, tiny_backbones: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files that the page begins with."""
    for name, folder in zip(("vision", "language"), tiny_backbones, strict=True):
        (tmp_path / name).symlink_to(folder)
    shutil.copy(refcoco / "COCO_train2014_000000000000.jpg", tmp_path / "photo.jpg")
    answers = [{"question_id": n, "text": "<box>[[0, 0, 500, 500]]</box>"} for n in range(24) if n // 2 % 4]
    (tmp_path / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in answers))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_page_runs_from_top_to_bottom(desk: Path, code_block: Callable[[str, str], str]) -> None:
    for name in re.findall(r"^```bash (\w+)$", PAGE, re.M):
        for line in code_block("grounding.md", f"bash {name}").replace("\\\n", " ").strip().splitlines():
            command = shlex.split(line)
            assert command[0] == "llavakit" and main(command[1:]) == 0, line
    assert "[0." in (desk / "rows.jsonl").read_text()
    assert json.loads((desk / "results/refcoco/scores.json").read_text())["questions"] == 18
    assert json.loads((desk / "scores.json").read_text())["without a box"] == 0

    names: dict[str, object] = {}
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(code_block("grounding.md", "python boxes"), names)
    assert printed.getvalue() == code_block("grounding.md", "text boxes")
    exec(code_block("grounding.md", "python tokens"), names)
    assert names["token"] == 0 and names["piece"].box == pytest.approx([7, 8.75, 14, 19.25])  # type: ignore[attr-defined]


def test_the_page_names_every_convention_and_its_form() -> None:
    canvas = Placement.stretched(640, 480, (224, 224))
    rows = dict(re.findall(r"^\| `(\w+)` \|(.*)\|$", PAGE, re.M))
    assert list(rows) == list(BOX_FORMATS)
    for name, form in BOX_FORMATS.items():
        box = [160, 160, 320, 480] if form.box else [160, 160]
        assert f"`{write_box(box, name, 640, 480, canvas)}`" in rows[name]
