"""`llavakit photographs`: what it reads, asks and counts; and the whole of it at tiny scale, killed and gone on with."""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw

from llavakit.checkpoints.command import add_arguments as add_init_arguments
from llavakit.photographs import command
from llavakit.photographs.labelled import Photograph, read_photographs
from llavakit.photographs.pipeline import save_encoder_at
from llavakit.photographs.recipe import (
    CHAT_TEMPLATE,
    Recipe,
    StageSettings,
    init_arguments,
    sft_arguments,
    uses_bf16,
)
from llavakit.photographs.report import confusions, lead, shown_examples, write_report
from llavakit.photographs.rows import QUESTION, alignment_rows, instruction_rows
from llavakit.photographs.steps import NOTES, Steps
from llavakit.processing.chat_templates import render, template_text
from llavakit.rows.schema import normalize_row

from ..warm_python import WarmPython

COLOURS = {"red_ball": (200, 30, 30), "green ball": (30, 160, 60), "blue": (40, 60, 200)}


def draw(path: Path, colour: tuple[int, int, int], rng: random.Random) -> None:
    """A disc of a colour somewhere on a grey ground."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.new("RGB", (40, 48), (rng.randrange(90, 140),) * 3)
    left, top = rng.randrange(12), rng.randrange(16)
    ImageDraw.Draw(picture).ellipse((left, top, left + 26, top + 26), fill=colour)
    picture.save(path)


@pytest.fixture
def drawn(tmp_path: Path) -> Path:
    rng, folder = random.Random(0), tmp_path / "drawn"
    for split, number in (("train", 8), ("validation", 3)):
        for label, colour in COLOURS.items():
            for place in range(number):
                draw(folder / split / label / f"{place}.png", colour, rng)
    return folder


# ---- the folder ----


def test_labels_are_folders_and_ids_are_paths(drawn: Path):
    found = read_photographs(drawn)
    assert found.labels == ["blue", "green ball", "red ball"]
    assert (len(found.train), len(found.validation), found.left_out) == (24, 9, {})
    assert found.train[-1] == Photograph("train/red_ball/7.png", "red ball")
    paths = [photograph.path for photograph in found.train + found.validation]
    assert len({*paths}) == len(paths) == 33, "equal names in two folders are two photographs"


def test_without_splits_a_fifth_of_each_label_is_kept_back(drawn: Path):
    found = read_photographs(drawn / "train")
    assert [photograph.label for photograph in found.validation] == ["blue", "green ball", "red ball"]
    assert len(found.train) == 21 and not {*found.train} & {*found.validation}
    assert found == read_photographs(drawn / "train"), "the same each time"


def test_what_a_file_is_its_content_decides(drawn: Path):
    blue = drawn / "train" / "blue"
    (blue / "0.png").rename(blue / "photograph")  # a picture without a suffix
    (blue / "notes.jpg").write_text("no picture")
    (blue / "cut.png").write_bytes((blue / "1.png").read_bytes()[:60])
    (blue / ".DS_Store").write_bytes(b"\0")
    found = read_photographs(drawn)
    assert Photograph("train/blue/photograph", "blue") in found.train
    assert [*found.left_out] == ["train/blue/cut.png", "train/blue/notes.jpg"]
    assert all(path in reason for path, reason in found.left_out.items())


@pytest.mark.parametrize(
    ("take", "says"),
    [("validation", "no validation/"), ("train", "no train/"), ("train/blue", r"\['blue'\] in validation/ alone")],
)
def test_a_folder_that_cannot_be_used_is_named(drawn: Path, tmp_path: Path, take: str, says: str):
    (drawn / take).rename(tmp_path / "away")
    with pytest.raises(ValueError, match=says):
        read_photographs(drawn)


def test_one_label_is_too_few(drawn: Path, tmp_path: Path):
    with pytest.raises(ValueError, match="two labels"):
        read_photographs(drawn / "train" / "blue")
    with pytest.raises(ValueError, match="is no folder"):
        read_photographs(tmp_path / "nowhere")


# ---- the rows ----


def test_rows_name_the_label_and_ask_for_it_first(drawn: Path):
    found = read_photographs(drawn)
    labels = {photograph.path: photograph.label for photograph in found.train}
    for row in map(normalize_row, alignment_rows(found.train, seed=0)):
        assert row["messages"][-1]["content"][0]["text"] == f"A photo of {labels[row['id']]}."
    rows = instruction_rows(found.train, found.labels, seed=0)
    assert (
        rows == instruction_rows(found.train, found.labels, seed=0) != instruction_rows(found.train, found.labels, 1)
    )
    for row in map(normalize_row, rows):
        first, answer, *more = ([block.get("text") for block in each["content"]] for each in row["messages"])
        label = labels[row["id"]]
        assert row["images"] == [row["id"]] and first[0] is None and answer == [f"A photo of {label}."]
        assert not any(name in first[1] for name in found.labels), "the first answer is in the picture alone"
        if not more:
            continue
        second, reply = more
        named = [name for name in found.labels if name in second[0]]
        assert reply[0] != "Yes." or named == [label]
        assert not reply[0].startswith("No") or label not in named
    assert any(QUESTION in row["conversations"][0]["value"] for row in rows)
    assert {len(row["conversations"]) for row in rows} == {2, 4}


# ---- the commands ----


def test_the_commands_say_what_the_recipe_says(tmp_path: Path):
    settings = StageSettings(2, 8, 5e-5, 5e-4, weight_decay=2.0, chat_template="plain")
    given = sft_arguments("instruct", settings, tmp_path, tmp_path / "a.json", tmp_path, tmp_path / "b", True, seed=3)
    flags = dict(zip(given[1::2], given[2::2], strict=True))
    assert flags["--connector_learning_rate"] == 5e-4 and flags["--chat_template"] == "plain"
    assert flags["--weight_decay"] == 2.0
    assert flags["--bf16"] == "true" and flags["--seed"] == 3 and flags["--resume_from_checkpoint"] == "true"
    assert uses_bf16("bf16") and not uses_bf16("float32")
    assert "--vision_learning_rate" not in flags
    seeing = sft_arguments("align_vision", Recipe().align_vision, *([tmp_path] * 4), bf16=False, seed=0)
    flags = dict(zip(seeing[1::2], seeing[2::2], strict=True))
    assert (flags["--stage"], flags["--vision_learning_rate"], flags["--vision_layer_decay"]) == (
        "align_vision",
        Recipe().align_vision.vision_learning_rate,
        Recipe().align_vision.vision_layer_decay,
    )


@pytest.mark.parametrize(
    ("given", "tokens"),
    [
        ([], 4),
        (["--projector_type", "mlp2x_gelu"], 4),
        (["--projector_type", "resampler"], None),
        (["--pooled_tokens", "0"], None),
        (["--pooled_tokens", "16"], 16),
    ],
)
def test_patches_are_averaged_where_the_connector_has_no_number_of_its_own(
    given: list[str], tokens: int | None, monkeypatch: pytest.MonkeyPatch
):
    parser, recipes = argparse.ArgumentParser(), []
    command.add_arguments(parser)
    monkeypatch.setattr("llavakit.photographs.pipeline.run_photographs", lambda *args: recipes.append(args[2]))
    args = parser.parse_args(["garments", *given])
    assert args.run(args) == 0 and recipes[0].pooled_tokens == tokens
    if not given:
        assert recipes == [Recipe()], "the defaults of the command are those of the recipe"


def test_the_template_says_nothing_before_the_photograph_and_keeps_a_system_prompt():
    picture = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": QUESTION}]}
    answer = {"role": "assistant", "content": [{"type": "text", "text": "A photo of dress."}]}
    template, context = template_text(CHAT_TEMPLATE), {"bos_token": "<|im_start|>", "image_token": "<image>"}
    text, spans = render(template, [picture, answer], context)
    assert text.startswith(f"<|im_start|>user\n<image>\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n")
    assert [text[start:end] for start, end in spans] == ["A photo of dress.<|im_end|>"]
    system = {"role": "system", "content": "Be brief."}
    assert (
        render(template, [system, picture, answer], context)[0] == f"<|im_start|>system\nBe brief.<|im_end|>\n{text}"
    )
    with pytest.raises(ValueError, match="unknown role"):
        render(template, [picture, system], context)


def test_a_size_that_the_patches_do_not_divide_is_refused(tiny_backbones: tuple[str, str], tmp_path: Path):
    with pytest.raises(ValueError, match="--image_size=30 is no multiple"):
        save_encoder_at(tiny_backbones[0], 30, tmp_path / "vision")
    save_encoder_at(tiny_backbones[0], 42, tmp_path / "vision")
    written = json.loads((tmp_path / "vision" / "preprocessor_config.json").read_text())
    assert written["crop_size"] == {"height": 42, "width": 42} and written["size"] == {"shortest_edge": 42}


# ---- steps ----


@pytest.mark.parametrize(("tokens", "options"), [(None, None), (64, {"pooled_tokens": 64})])
def test_the_class_token_is_taken_where_patches_are_averaged_too(tokens: Any, options: Any, tmp_path: Path):
    parser = argparse.ArgumentParser()
    add_init_arguments(parser)
    verb, *arguments = map(str, init_arguments(Recipe(pooled_tokens=tokens), "vision", tmp_path))
    read = parser.parse_args(arguments)
    assert (verb, read.vision_feature_select_strategy, read.projector_options) == ("init", "full", options)


def test_a_step_is_done_once_and_cut_off_ones_again(tmp_path: Path):
    done: list[str] = []

    def fail(attempt: Any) -> None:
        done.append("failed")
        raise RuntimeError("cut off")

    steps = Steps(tmp_path / "run", {"seed": 0})
    steps.run("first", lambda attempt: done.append("first"))
    with pytest.raises(RuntimeError, match="cut off"):
        steps.run("second", fail)
    with pytest.raises(ValueError, match="in use by another run"):
        Steps(tmp_path / "run", {"seed": 0})
    steps.close()
    again = Steps(tmp_path / "run", {"seed": 0})
    again.run("first", lambda attempt: done.append("first"))
    again.run("second", lambda attempt: done.append("second"))
    again.close()
    assert done == ["first", "failed", "second"] and [*again.seconds] == ["first", "second"]
    with pytest.raises(ValueError, match="seed was 0 and is now 1"):
        Steps(tmp_path / "run", {"seed": 1}).close()


def test_what_is_not_ours_is_left_alone(tmp_path: Path):
    (tmp_path / "chapter.txt").write_text("years of work")
    with pytest.raises(ValueError, match="holds something else"):
        Steps(tmp_path, {})
    assert [file.name for file in tmp_path.iterdir()] == ["chapter.txt"]


def test_a_command_that_outlived_its_run_is_waited_for(tmp_path: Path):
    left = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
    try:
        (tmp_path / NOTES).write_text(json.dumps({"settings": {}, "steps": {}, "group": left.pid}))
        with pytest.raises(ValueError, match=f"process group {left.pid}"):
            Steps(tmp_path, {})
    finally:
        left.kill()
        left.wait()
    Steps(tmp_path, {}).close()


def wait_until_gone(group: int) -> None:
    deadline = time.monotonic() + 10
    with pytest.raises(ProcessLookupError):
        while time.monotonic() < deadline:
            os.killpg(group, 0)
            time.sleep(0.05)


@pytest.mark.slow
def test_a_run_that_is_ended_ends_its_command(warm_python: WarmPython, tmp_path: Path):
    """SIGTERM, as a scheduler sends it: the command and what it started are gone with the run."""
    script = (
        "import sys; from pathlib import Path; from llavakit.photographs import steps\n"
        "steps.sys.executable = sys.argv[2]\n"
        "steps.Steps(Path(sys.argv[1]), {}).run('only', lambda attempt: attempt.llavakit('any'))\n"
    )
    sleeper = tmp_path / "sleeper"  # stands for Python, whatever it is given
    sleeper.write_text("#!/bin/sh\nsleep 60 &\nwait\n")
    sleeper.chmod(0o755)
    run = warm_python.start(["-c", script, tmp_path / "run", sleeper], tmp_path / "said")
    group = None
    while group is None:
        assert run.poll() is None
        time.sleep(0.05)
        notes = tmp_path / "run" / NOTES
        group = json.loads(notes.read_text()).get("group") if notes.exists() else None
    os.kill(run.pid, signal.SIGTERM)
    assert run.wait() == 128 + signal.SIGTERM
    wait_until_gone(group)
    Steps(tmp_path / "run", {}).close()


# ---- the page ----


def results_of(folder: Path) -> dict[str, Any]:
    found = read_photographs(folder)
    answers = []
    for place, photograph in enumerate(found.validation):
        named = {"model": "blue" if place % 2 else photograph.label, "blind": "blue", "probe": photograph.label}
        answers.append(
            {
                "image": photograph.path,
                "label": photograph.label,
                "named": named,
                "blind": "blue <b>&",
                "model": "said",
            }
        )
    return {
        "question": QUESTION,
        "labels": found.labels,
        "photographs": {"train": 24, "validation": 9},
        "left_out": {"train/blue/x": "train/blue/x: not <an> image"},
        "accuracy": {"model": 6 / 9, "blind": 3 / 9, "probe": 1.0},
        "interval": (0.35, 0.88),
        "answers": answers,
        "curves": {"align": [[10, 2.0], [20, 0.5]], "instruct": []},
        "seconds": {"rows": 1.5, "align": 3700.0},
        "machine": {"threads": 2, "bf16": True, "gpu": False},
        "recipe": json.loads(json.dumps(vars(Recipe()), default=vars)),
    }


def test_the_page_has_figures_pictures_and_answers(drawn: Path, tmp_path: Path):
    results = results_of(drawn)
    page = write_report(results, tmp_path, drawn).read_text()
    assert "66.7 %" in lead(results) and "35.0 to 88.0" in lead(results) and lead(results) in page
    assert page.count("data:image/jpeg;base64,") == 9 == len(shown_examples(results["answers"], results["labels"]))
    assert "blue &lt;b&gt;&amp;" in page and "not &lt;an&gt; image" in page and "<b>&" not in page
    assert "62 min" in page and "from 2.000 to 0.500 in 20 steps" in page and "--question" in page
    assert confusions(results["answers"])[0][:2] in [("green ball", "blue"), ("red ball", "blue")]
    for outside in ("http", "<script", 'src="/'):
        assert outside not in page.replace("http-equiv", "")


# ---- all of it ----


@pytest.mark.slow(minutes=1)
def test_the_whole_of_it_killed_and_gone_on_with(
    warm_python: WarmPython, drawn: Path, tiny_backbones: tuple[str, str], tmp_path: Path
):
    """Killed in the middle of a stage; the same command ends with a model, its answers and the page."""
    vision, language = tiny_backbones
    output = tmp_path / "run"
    command = [
        "-m", "llavakit.cli", "photographs", drawn, "--output_dir", output,
        "--vision", vision, "--language", language, "--image_size", "0", "--chat_template", "vicuna_v1",
        "--align_epochs", "20", "--instruct_epochs", "4", "--precision", "float32", "--mirrored",
        "--crops", "2",
    ]  # fmt: skip
    process = warm_python.start(command, tmp_path / "said")
    while not [*output.glob("aligned/checkpoint-*")]:
        assert process.poll() is None
        time.sleep(0.02)
    group = json.loads((output / NOTES).read_text())["group"]
    for each in (process.pid, group):
        os.killpg(each, signal.SIGKILL)
    process.wait()
    wait_until_gone(group)
    notes = json.loads((output / NOTES).read_text())
    assert notes["steps"]["probe"]["done"] and not notes["steps"]["align"]["done"]
    untrained = (output / "untrained" / "model.safetensors").stat().st_mtime_ns

    done = warm_python.run(command)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "init: done before" in done.stdout and "report.html" in done.stdout
    assert (output / "untrained" / "model.safetensors").stat().st_mtime_ns == untrained
    assert not [*output.glob("*/checkpoint-*")], "what only resuming needs is gone"

    results = json.loads((output / "results.json").read_text())
    assert {answer["image"] for answer in results["answers"]} == {f.path for f in read_photographs(drawn).validation}
    assert len({answer["blind"] for answer in results["answers"]}) == 1, "without the picture all get one answer"
    assert results["curves"]["align"][-1][0] == 60, "the steps of a run that was never killed"
    rows = json.loads((output / "align.json").read_text())
    assert len(rows) == 48 and {row["image"].split("/")[0] for row in rows} == {"as_taken", "mirrored"}
    assert not any("validation" in row["image"] for row in rows)
    assert results["accuracy"]["probe"] >= 0.9
    page = (output / "report.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 9 and f"{100 * results['accuracy']['model']:.1f} %" in page
    assert (output / "inspect-instruct.html").stat().st_size > 10_000
    history = json.loads((output / "model" / "config.json").read_text())["provenance"]["training_history"]
    assert [record["stage"] for record in history] == ["align", "align_vision", "instruct"]
    crops = json.loads((output / "align_vision.json").read_text())
    assert len(crops) == 48 and all((output / "crops" / row["image"]).exists() for row in crops)
    assert "stage align_vision" in page and "2 crops of each" in page
