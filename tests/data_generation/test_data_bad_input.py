"""Broken annotations and wrong settings, through the command line: each ends in one clear line, and leaves no file."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from llavakit.cli import main

from ..servers.chat_server import running_server

Content = dict[str, Any]
Fails = Callable[..., str]


@pytest.fixture
def fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Fails:
    """Runs `llavakit data ...`, which must fail with the given words and without `made.*`; gives back what it said."""

    def run(*arguments: object, words: tuple[str, ...]) -> str:
        capsys.readouterr()
        assert main(["data", *map(str, arguments)]) == 1
        said = capsys.readouterr().err
        lines = [line for line in said.splitlines() if line.startswith("llavakit data: ")]
        assert len(lines) == 1 and "Traceback" not in said, said
        for word in words:
            assert word in lines[0], f"{word!r} is not in: {lines[0]}"
        assert not list(tmp_path.glob("made*")) and not list(tmp_path.rglob("*.part")), "nothing half-made stays"
        return lines[0]

    return run


@pytest.fixture
def coco(tmp_path: Path) -> tuple[Content, Content, Callable[[], tuple[str, ...]]]:
    """A sound captions file and instances file of two images, to be broken; and what writes them."""
    images = [{"id": i, "file_name": f"{i}.jpg", "width": 100, "height": 50} for i in (1, 2)]
    captions = {"images": images, "annotations": [{"id": i, "image_id": i, "caption": f"A dog {i}."} for i in (1, 2)]}
    box = {"image_id": 1, "category_id": 7, "iscrowd": 0}
    boxes = [{**box, "id": 5, "bbox": [0, 0, 20, 20]}, {**box, "id": 6, "bbox": [70, 10, 30, 40]}]
    instances = {"images": images, "annotations": boxes, "categories": [{"id": 7, "name": "dog"}]}
    (tmp_path / "images").mkdir()
    for image in images:
        Image.new("RGB", (100, 50)).save(tmp_path / "images" / image["file_name"])

    def write() -> tuple[str, ...]:
        for name, content in (("captions", captions), ("instances", instances)):
            (tmp_path / f"{name}.json").write_text(json.dumps(content))
        paths = [str(tmp_path / name) for name in ("captions.json", "instances.json", "images", "made.jsonl")]
        flags = ("--captions", "--instances", "--image_folder", "-o")
        return ("contexts", *(word for pair in zip(flags, paths, strict=True) for word in pair))

    return captions, instances, write


def change(content: Any, *path: Any) -> None:
    """Set the value at a path of keys: change(content, "images", 0, "id", 2)."""
    *keys, last, value = path
    for key in keys:
        content = content[key]
    content[last] = value


def test_sound_annotations_pass(coco: Any, tmp_path: Path):
    assert main(["data", *coco[2]()]) == 0
    contexts = [json.loads(line) for line in (tmp_path / "made.jsonl").read_text().splitlines()]
    assert [context["id"] for context in contexts] == ["1", "2"]
    assert contexts[0]["instances"][1] == {"category": "dog", "bbox": [0.7, 0.2, 1.0, 1.0]}


@pytest.mark.parametrize("name", ["captions", "instances"])
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"images": [{"id": 1, "file_na', ("is not JSON", "complete")),
        ("[]", ("not a COCO file", "'images'", "'annotations'")),
        ('{"images": [], "annotations": {}}', ("not a COCO file",)),
    ],
)
def test_a_broken_file_is_named(name: str, text: str, words: tuple[str, ...], coco: Any, tmp_path: Path, fails: Fails):
    arguments = coco[2]()
    (tmp_path / f"{name}.json").write_text(text)
    fails(*arguments, words=(f"{name}.json", *words))


@pytest.mark.parametrize(
    ("path", "words"),
    [
        (("annotations", 1, "bbox", [90, 10, 30, 40]), ("box 6", "[0.9, 0.2, 1.2, 1.0]", "leaves the image")),
        (("annotations", 1, "bbox", [-9, 10, 30, 40]), ("box 6", "leaves the image", "drop")),
        (("annotations", 1, "bbox", [10, 10, 0, 40]), ("box 6", "no area")),
        (("annotations", 1, "bbox", [10, 10, "wide", 40]), ("box 6", "four numbers")),
        (("annotations", 1, "category_id", 99), ("box 6", "category 99")),
        (("annotations", 1, "image_id", 99), ("box 6", "image 99", "Add the image, or drop")),
        (("annotations", 1, "id", 5), ("box 5", "stands twice")),
        (("images", 0, "width", 0), ("box 5", "width and height", "pixels")),
    ],
)
def test_a_bad_box_is_named(path: tuple, words: tuple[str, ...], coco: Any, tmp_path: Path, fails: Fails):
    _, instances, write = coco
    change(instances, *path)
    arguments = write()
    said = fails(*arguments, words=words)
    assert "instances.json" in said and "--on_bad_row skip" in said
    assert main(["data", *arguments, "--on_bad_row", "skip"]) == 0
    kept = [json.loads(line) for line in (tmp_path / "made.jsonl").read_text().splitlines()]
    assert [context["id"] for context in kept] == ["1", "2"]
    assert len(kept[0]["instances"]) == (1 if path[0] == "annotations" else 0)
    left_out = (tmp_path / "made.left_out.jsonl").read_text()
    assert words[0] in left_out


@pytest.mark.parametrize(
    ("path", "words"),
    [
        (("annotations", 1, "image_id", 99), ("caption 2", "image 99", "unknown", "Add the image, or drop")),
        (("annotations", 1, "id", 1), ("caption 1", "stands twice", "rename or drop")),
        (("annotations", 1, "caption", " "), ("caption 2", "' '", "write one, or drop")),
        (("annotations", 1, {"id": 2}), ("caption at position 1", "lacks image_id, caption")),
        (("images", 1, {"id": 1, "file_name": "1.jpg"}), ("image 1", "stands twice")),
        (("images", 1, "file_name", "none.jpg"), ("'none.jpg'", "--image_folder")),
        (("images", 1, "file_name", "../captions.json"), ("'../captions.json'", "leads out of")),
    ],
)
def test_a_bad_caption_or_image_is_named(path: tuple, words: tuple[str, ...], coco: Any, fails: Fails):
    captions, instances, write = coco
    if path[0] == "images":  # the two files list the same images
        captions["images"] = json.loads(json.dumps(captions["images"]))
        instances["images"] = []
        instances["annotations"] = []
    change(captions, *path)
    fails(*write(), words=words)


def test_two_images_with_one_name_are_told(coco: Any, fails: Fails):
    captions, instances, write = coco
    captions["images"] = [*captions["images"], {"id": 3, "file_name": "1.jpg"}]
    captions["annotations"].append({"id": 3, "image_id": 3, "caption": "Another."})
    fails(*write(), words=("context '1'", "this id came before"))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"id": "a", "image": null, "captions": ["x"]', ("line 2", "not JSON")),
        ('["a"]', ("line 2", "list")),
        ('{"id": "1", "image": null, "captions": ["x"]}', ("context '1'", "came before", "rename or drop")),
        ('{"id": "2", "captions": "x"}', ("row 2", "'captions'", "lists")),
        ('{"id": "2", "captions": ["x"], "instances": [{"category": "dog"}]}', ("row 2", "instance 0", "'bbox'")),
        ('{"captions": ["x"]}', ("row 2", "id is None")),
    ],
)
@pytest.mark.parametrize("step", ["contexts", "estimate", "generate"])
def test_bad_contexts_are_named_by_every_step(
    line: str, words: tuple[str, ...], step: str, tmp_path: Path, fails: Fails
):
    path = tmp_path / "caps_boxes.jsonl"
    path.write_text('{"id": "1", "image": null, "captions": ["A dog."]}\n' + line + "\n")
    arguments: dict[str, tuple[object, ...]] = {
        "contexts": ("--caps_boxes", path, "-o", tmp_path / "made.jsonl"),
        "estimate": (path, "--model", "gpt-4o"),
        "generate": (path, "--teacher", "rule", "--types", "conversation", "-o", tmp_path / "made"),
    }
    fails(step, *arguments[step], words=words)


@pytest.fixture
def contexts(tmp_path: Path) -> Path:
    """Five hundred sound contexts, so that a run that does not stop at once would be seen."""
    path = tmp_path / "contexts.jsonl"
    rows = [{"id": str(i), "image": None, "captions": [f"A dog runs after {i} balls."]} for i in range(500)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.mark.slow
@pytest.mark.parametrize(
    ("key", "model", "words"),
    [
        ("wrong", "the-model", ("HTTP 401", "Incorrect API key")),
        ("right", "no-model", ("HTTP 404", "model", "does not exist")),
    ],
)
def test_a_wrong_key_or_model_fails_on_the_first_call(
    key: str, model: str, words: tuple[str, ...], contexts: Path, fails: Fails, monkeypatch: pytest.MonkeyPatch
):
    folder = contexts.parent
    with running_server(folder, "--key", "right", "--model", "the-model") as server:
        run = ["generate", contexts, "--types", "conversation", "--base_url", server.base_url, "-o", folder / "RUN"]
        monkeypatch.setenv("OPENAI_API_KEY", key)
        fails(*run, "--model", model, words=(*words, "stopped"))
        assert len(server.calls()) == 1
        assert (folder / "RUN" / "journal.jsonl").read_text() == ""
        if model == "the-model":  # the same command goes on, once the key is right
            monkeypatch.setenv("OPENAI_API_KEY", "right")
            assert main(["data", *map(str, run), "--model", model]) == 0
            assert (
                len(server.calls()) == 501 and len((folder / "RUN" / "journal.jsonl").read_text().splitlines()) == 500
            )


def test_an_endpoint_that_is_not_there_is_named(contexts: Path, fails: Fails):
    run = ["generate", contexts, "--model", "m", "--base_url", "http://127.0.0.1:9/v1", "--attempts", "1"]
    fails(*run, "--first_wait", "0", "-o", contexts.parent / "RUN", words=("cannot be reached", "stopped"))


def test_no_key_for_openai_is_named(contexts: Path, fails: Fails, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    run = ["generate", contexts, "--model", "gpt-4o", "-o", contexts.parent / "made"]
    fails(*run, words=("OPENAI_API_KEY", "--base_url"))


def test_a_run_with_other_settings_is_not_continued(contexts: Path, fails: Fails):
    run = ["generate", contexts, "--teacher", "rule", "--types", "conversation", "-o", contexts.parent / "RUN"]
    assert main(["data", *map(str, run)]) == 0
    journal = (contexts.parent / "RUN" / "journal.jsonl").read_text()
    fails(*run, "--seed", "1", words=("seed was 0 and is now 1", "new folder"))
    assert (contexts.parent / "RUN" / "journal.jsonl").read_text() == journal


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("generate CONTEXTS --types talk --teacher rule -o made", ("'talk'", "'conversation', 'detail'")),
        ("generate CONTEXTS --teacher openai -o made", ("--model",)),
        ("generate CONTEXTS --model m --base_url http://h/v1 --budget 5 -o made", ("'m'", "--input_price")),
        ("generate none.jsonl --teacher rule -o made", ("none.jsonl",)),
        ("generate CONTEXTS --teacher rule --prompts none -o made", ("none", "llavakit data prompts")),
        ("generate CONTEXTS --teacher rule --concurrency 0 -o made", ("--concurrency", "at least 1")),
        ("estimate CONTEXTS --model my-own", ("'my-own'", "--input_price")),
        ("read-batch CONTEXTS -o none", ("none", "no run")),
        ("filter none -o made.jsonl", ("none", "does not exist")),
        ("filter CONTEXTS --filters vibes -o made.jsonl", ("'vibes'", "'meta_talk'")),
        ("balance CONTEXTS --spacy_model no_such_model -o made.jsonl", ("no_such_model", "python -m spacy download")),
        ("balance CONTEXTS --column words --phrases rule -o made.jsonl", ("words=None", "no caption")),
        ("mix none.jsonl:0.5 -o made.parquet", ("none.jsonl",)),
        ("mix CONTEXTS:0.5 -o made.parquet", ("contexts.jsonl, row 0", "'conversations'")),
        ("contexts --caps_boxes CONTEXTS -o made.txt", ("'.txt'", ".parquet")),
        ("view none.jsonl -o made.html", ("none.jsonl",)),
        ("contexts --caps_boxes CONTEXTS --instances i.json -o made.jsonl", ("--instances", "--captions")),
        ("contexts --caption_file CONTEXTS -o made.jsonl", ("'image'", "'caption'")),
    ],
)
def test_wrong_settings_are_named(
    arguments: str, words: tuple[str, ...], contexts: Path, fails: Fails, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(contexts.parent)
    fails(*arguments.replace("CONTEXTS", "contexts.jsonl").split(), words=words)
