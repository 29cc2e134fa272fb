"""docs/data.md, run from top to bottom: every command, in a folder as the page assumes it, against a local endpoint."""

import contextlib
import io
import json
import os
import re
import shlex
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from datasets import load_dataset
from PIL import Image, ImageDraw

from llavakit import load_conversations
from llavakit.cli import main

from ..hub.hub_server import HubServer
from ..servers.chat_server import RunningServer, running_server

pytestmark = pytest.mark.slow

PAGE = Path(__file__).resolve().parents[2] / "docs" / "data.md"
BLOCKS = {
    name: (language, code)
    for language, name, code in re.findall(r"^```(bash|python) ([\w -]+)\n(.*?)^```$", PAGE.read_text(), re.M | re.S)
}
KEY = "the-key"
# What the twelve pictures show: thing, colour, where it lies
SHOWN = [("ball", colour) for colour in ("red", "green", "blue", "white")]
SHOWN += [("box", colour) for colour in ("red", "green", "blue", "white")]
SHOWN += [("car", colour) for colour in ("red", "green", "blue", "white")]


def write_desk(folder: Path) -> None:
    """The files that the page begins with: COCO's format, VQAv2's, and captions of a stage-1 set."""
    (folder / "images").mkdir()
    images, captions, boxes, questions, answers = [], [], [], [], []
    for number, (thing, colour) in enumerate(SHOWN):
        name = f"{number:012}.jpg"
        picture = Image.new("RGB", (120, 80), "grey")
        ImageDraw.Draw(picture).rectangle((10 + 5 * number, 20, 40 + 5 * number, 60), fill=colour)
        picture.save(folder / "images" / name)
        images.append({"id": number, "file_name": name, "width": 120, "height": 80})
        # Sentences that share few words, or the near-duplicate filter would rightly take them for one
        texts = (
            f"A {colour} {thing} with the number {number} lies on a grey floor, {12 - number} steps from the wall",
            f"Somebody has put a {thing} down here, and its {colour} paint shines",
        )
        captions += [{"id": 2 * number + i, "image_id": number, "caption": text} for i, text in enumerate(texts)]
        box = {"id": number, "image_id": number, "category_id": 1 + ["ball", "box", "car"].index(thing), "iscrowd": 0}
        boxes.append({**box, "bbox": [10 + 5 * number, 20, 30, 40]})
        questions.append({"question_id": number, "image_id": number, "question": f"What colour is the {thing}?"})
        answers.append({"question_id": number, "image_id": number, "multiple_choice_answer": colour, "answers": []})
    categories = [{"id": 1 + i, "name": name} for i, name in enumerate(("ball", "box", "car"))]
    files = {
        "captions.json": {"images": images, "annotations": captions},
        "instances.json": {"images": images, "annotations": boxes, "categories": categories},
        "v2_OpenEnded_mscoco_train2014_questions.json": {"questions": questions},
        "v2_mscoco_train2014_annotations.json": {"annotations": answers},
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    rows = [json.dumps({"image": f"{i}.jpg", "caption": caption["caption"]}) for i, caption in enumerate(captions)]
    (folder / "captions.jsonl").write_text("\n".join(rows))


def answer_batch(server: RunningServer, folder: Path) -> None:
    """What a batch API does: each request of the files to the endpoint, each answer to a line."""
    answers = []
    for line in (folder / "runs" / "batch" / "batch-1" / "00001.jsonl").read_text().splitlines():
        asked = json.loads(line)
        url = server.base_url.removesuffix("/v1") + asked["url"]
        headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
        call = urllib.request.Request(url, json.dumps(asked["body"]).encode(), headers)
        with urllib.request.urlopen(call) as response:
            body = json.load(response)
        answers.append(
            {"custom_id": asked["custom_id"], "response": {"status_code": 200, "body": body}, "error": None}
        )
    (folder / "answers.jsonl").write_text("\n".join(map(json.dumps, reversed(answers))))


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory, tiny_backbones: tuple[str, str]) -> Iterator[Path]:
    """The folder after the whole page; what each block printed lies in `said/`."""
    folder = tmp_path_factory.mktemp("desk")
    write_desk(folder)
    (folder / "said").mkdir()
    with (
        running_server(tmp_path_factory.mktemp("server"), "--key", KEY) as server,
        HubServer(folder / "hub") as hub,
        pytest.MonkeyPatch.context() as here,
    ):
        here.chdir(folder)
        for variable, value in {"OPENAI_BASE_URL": server.base_url, "OPENAI_API_KEY": KEY}.items():
            here.setenv(variable, value)
        for name, (language, code) in BLOCKS.items():
            if name == "read-batch":
                answer_batch(server, folder)
            code = code.replace("http://localhost:8000/v1", server.base_url)
            code = code.replace("openai/clip-vit-base-patch32", tiny_backbones[0])
            (folder / "said" / name).write_text(run_block(language, code, {**os.environ, **hub.environment()}))
        yield folder


def run_block(language: str, code: str, environment: dict[str, str]) -> str:
    """What a block prints. A command of llavakit runs in this process: it need not be imported so many times."""
    words = shlex.split(code.replace("\\\n", " ")) if language == "bash" else [sys.executable, "-c", code]
    if words[0] == "llavakit":
        with contextlib.redirect_stdout(io.StringIO()) as printed, contextlib.redirect_stderr(io.StringIO()) as failed:
            assert main(words[1:]) == 0, f"{code}\n{printed.getvalue()[-2000:]}\n{failed.getvalue()[-4000:]}"
        return printed.getvalue()
    words[0] = str(Path(sys.executable).with_name(Path(words[0]).name))  # of this environment
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"{code}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def said(desk: Path, name: str) -> str:
    return (desk / "said" / name).read_text()


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_page_runs_from_top_to_bottom(desk: Path):
    fenced = len(re.findall(r"^```(?:bash|python)", PAGE.read_text(), re.M))
    assert len(BLOCKS) == fenced, "every block has a name of its own, and was run"
    assert len(rows(desk / "contexts.jsonl")) == 12 and "12 contexts" in said(desk, "contexts")
    for page in ("contexts.html", "rows.html"):
        seen = (desk / page).read_text()
        assert "<article" in seen and seen.count("<img ") == seen.count("<article") and 'class="box"' in seen
    assert (desk / "prompts" / "detail" / "system.txt").exists() and (desk / "kept.png").exists()


def test_the_estimate_is_in_dollars(desk: Path):
    lines = said(desk, "estimate").splitlines()
    assert lines[0].split()[:2] == ["type", "calls"] and any(line.split()[:2] == ["all", "36"] for line in lines)


@pytest.mark.parametrize(
    ("run", "count"),
    [("gpt-4o", 36), ("qwen", 36), ("rule", 36), ("batch", 36), ("vision", 12), ("echo", 12)],
)
def test_every_run_is_answered(run: str, count: int, desk: Path):
    journal = rows(desk / "runs" / run / "journal.jsonl")
    assert len({line["key"] for line in journal}) == len(journal) == count
    assert {line["status"] for line in journal} == {"answered"}


def test_rows_and_rejected_rows_add_up(desk: Path):
    kept, rejected = rows(desk / "rows.jsonl"), rows(desk / "rows.rejected.jsonl")
    assert len(kept) + len(rejected) == 36
    # The endpoint's descriptions and arguments are much alike, and the filter says so
    assert sum(row["type"] == "conversation" for row in kept) == 12 and {row["filter"] for row in rejected} == {
        "near_duplicates"
    }
    assert all(set(row) == {"id", "type", "image", "conversations"} for row in kept)
    assert all(row["reason"] for row in rejected)


def test_the_training_set_is_ready_for_training_and_for_the_hub(desk: Path):
    train = load_dataset("parquet", data_files=str(desk / "made" / "train.parquet"), split="train")
    assert {"id", "image", "conversations"} <= set(train.column_names)
    academic = sum(row_type == "vqav2" for row_type in train["type"])
    assert academic / len(train) == pytest.approx(0.5, abs=0.05)
    card = (desk / "made" / "README.md").read_text()
    assert "Questions about my photographs" in card and "gpt-4o" in card and "cc-by-4.0" in card
    (commit,) = [
        path for path in (desk / "hub" / "datasets" / "you" / "my-data" / "commits").iterdir() if any(path.iterdir())
    ]
    assert (commit / "README.md").read_text() == card and (commit / "train.parquet").exists()
    images = load_conversations(desk / "rows.jsonl", image_folder=desk / "images")[0]["images"]
    assert images[0].size == (120, 80)
