"""From real photographs and real contexts to rows that train: every step by its command, the teacher over real HTTP."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from llavakit import load_conversations
from llavakit.cli import main

from ..cpu_training import CPU_FLAGS
from ..servers.chat_server import ChatServer, completion
from ..servers.prompted_teacher import FAULTS, answer, fault_of, type_of
from ..warm_python import WarmPython

TYPES = ("conversation", "detail", "reasoning")
TRAINING = [
    "--max_steps",
    "2",
    "--per_device_train_batch_size",
    "8",
    "--max_length",
    "1024",
    "--learning_rate",
    "1e-2",
]
TRAINING += [*CPU_FLAGS, "--num_processes", "1"]
TRAINING += ["--gradient_checkpointing", "false"]

Row = dict[str, Any]


def lines(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@dataclass
class Made:
    """What the steps made of one source, in its folder."""

    folder: Path
    image_folder: Path | None
    chats: list[list[dict[str, Any]]]

    def __getitem__(self, name: str) -> list[Row]:
        return lines(self.folder / name)


@pytest.fixture(scope="module", params=["photographs", "contexts"])
def made(
    request: pytest.FixtureRequest, shared_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Made]:
    """The 60 photographs with COCO's annotations, or the original's 80 contexts, up to rows."""
    folder = tmp_path_factory.mktemp(request.param)
    photographs = shared_data / "coco_photos"
    captions, instances = photographs / "captions.json", photographs / "instances.json"
    image_folder = photographs / "images" if request.param == "photographs" else None
    source: list[object] = ["--caps_boxes", shared_data / "caps_boxes_coco2014_val_80.jsonl"]
    if image_folder:
        source = ["--captions", captions, "--instances", instances, "--image_folder", image_folder]
    images = ["--image_folder", image_folder] if image_folder else []

    def step(*arguments: object) -> None:
        assert main(["data", *map(str, arguments)]) == 0

    with ChatServer(lambda body: completion(answer(body["messages"]))) as server:
        step("contexts", *source, "-o", folder / "contexts.jsonl")
        endpoint = ["--teacher", "openai", "--base_url", server.base_url, "--model", "NAME"]
        price = ["--input_price", 1, "--output_price", 1, "--budget", 25, "--concurrency", 64]
        run = ["--types", ",".join(TYPES), *endpoint, *price, *images, "-o", folder / "RUN"]
        step("generate", folder / "contexts.jsonl", *run)
        step("generate", folder / "contexts.jsonl", *run)  # nothing is left to ask
        step("filter", folder / "RUN", "-o", folder / "rows.jsonl")
        yield Made(folder, image_folder, [body["messages"] for body in server.bodies])


@pytest.mark.slow
def test_every_context_is_asked_once_for_each_type(made: Made):
    contexts, journal = made["contexts.jsonl"], made["RUN/journal.jsonl"]
    assert len(contexts) == (60 if made.image_folder else 80)
    assert all(context["captions"] for context in contexts)
    keys = sorted(f"{context['id']}/{type_}" for context in contexts for type_ in TYPES)
    assert sorted(line["key"] for line in journal) == keys
    assert Counter(line["status"] for line in journal) == {"answered": len(keys)}
    assert len(made.chats) == len(keys)


def test_conversation_sees_captions_and_the_others_boxes_too(made: Made):
    contexts = {tuple(context["captions"]): context for context in made["contexts.jsonl"]}
    seen: Counter[str] = Counter()
    for chat in made.chats:
        text, type_ = chat[-1]["content"], type_of(chat)
        captions = text.partition("Captions:\n")[2].partition("\n\n")[0]
        boxes = contexts[tuple(captions.splitlines())]["instances"]
        assert (str(boxes[0]["bbox"]) in text) == (type_ != "conversation") if boxes else "[" not in text
        assert ("Request: " in text) == (type_ == "detail")
        seen[type_] += 1
    assert seen == dict.fromkeys(TYPES, len(contexts))
    questions = Counter(chat[-1]["content"].partition("Request: ")[2] for chat in made.chats)
    assert len(questions) - 1 >= 12, "drawn from a list of some sixteen"


def test_each_answer_becomes_a_row_or_a_stated_rejection(made: Made):
    contexts = {context["id"]: context for context in made["contexts.jsonl"]}
    rows, rejected = made["rows.jsonl"], made["rows.rejected.jsonl"]
    kept, reasons = {row["id"] for row in rows}, {row["id"]: row for row in rejected}
    every = {f"{context_id}-{type_}" for context_id in contexts for type_ in TYPES}
    assert len(kept) == len(rows) and len(reasons) == len(rejected)
    assert kept | set(reasons) == every and not kept & set(reasons)

    faults = {}
    for row_id in every:
        context_id, _, type_ = row_id.rpartition("-")
        faults[row_id] = fault_of(contexts[context_id]["captions"], type_)
    for row_id, fault in faults.items():
        if fault:
            assert reasons[row_id]["filter"] == FAULTS[fault] and reasons[row_id]["reason"], (row_id, fault)
    sound = [row_id for row_id, fault in faults.items() if fault is None]
    lost = Counter((reasons[row_id]["type"], reasons[row_id]["filter"]) for row_id in sound if row_id in reasons)
    print(f"{len(every)} answers, {len(every) - len(sound)} bad; of the sound ones rejected: {dict(lost)}")
    assert len(every) - len(sound) >= 10
    assert lost.total() <= 0.1 * len(sound)


def test_rows_have_the_original_format_and_load(made: Made):
    rows = made["rows.jsonl"]
    for row in rows:
        assert set(row) == {"id", "type", "image", "conversations"} and row["type"] in TYPES
        turns = row["conversations"]
        assert [turn["from"] for turn in turns] == ["human", "gpt"] * (len(turns) // 2)
        assert [turn["value"].count("<image>") for turn in turns] == [1] + [0] * (len(turns) - 1)
        assert row["type"] == "conversation" or len(turns) == 2
    first = [row["conversations"][0]["value"].startswith("<image>") for row in rows]
    assert 0.3 < sum(first) / len(first) < 0.7, "the image stands before or after the question"
    if made.image_folder:
        loaded = load_conversations(made.folder / "rows.jsonl", image_folder=made.image_folder)
        assert len(loaded) == len(rows) and loaded[0]["images"][0].size[0] > 100


def test_what_was_made_can_be_looked_at(made: Made, tmp_path: Path):
    for name, files in {"rows": ["rows.jsonl", "rows.rejected.jsonl"], "run": ["RUN"]}.items():
        paths = [str(made.folder / file) for file in files]
        assert main(["data", "view", *paths, "-o", str(tmp_path / f"{name}.html"), "--rows", "20"]) == 0
        page = (tmp_path / f"{name}.html").read_text(encoding="utf-8")
        assert page.count("<article") == 20 and page.count("data-box=") > 20, "boxes of the run's contexts"
        assert page.count("<img ") == (20 if made.image_folder else 0)


@pytest.mark.slow
@pytest.mark.parametrize("made", ["photographs"], indirect=True)  # of the 80 contexts the pictures are not at hand
@pytest.mark.parametrize("stage", ["align", "instruct"])
def test_rows_train(stage: str, made: Made, warm_python: WarmPython, tiny_llava: str, tmp_path: Path):
    data = ["--dataset_name", made.folder / "rows.jsonl", "--image_folder", made.image_folder]
    command = ["-m", "llavakit.cli", "sft", "--stage", stage, "--model_name_or_path", tiny_llava, *data, *TRAINING]
    done = warm_python.run([*command, "--output_dir", tmp_path / "out"])
    assert done.returncode == 0, done.stderr[-4000:]
    before, after = (load_file(Path(folder) / "model.safetensors") for folder in (tiny_llava, tmp_path / "out"))
    moved = " ".join(name for name in after if not torch.equal(before[name], after[name]))
    assert all(torch.isfinite(weight).all() for weight in after.values())
    assert ("multi_modal_projector" in moved) and ("vision_tower" not in moved)
    assert ("language_model" in moved) == (stage == "instruct")
