"""A checkpoint goes to the Hub and comes back, by the commands of docs/hub.md.

The Hub is the small server of `hub_server.py`; each step is a process of its own with an empty cache, so that what is
loaded has come over the wire. Where the page loads without llavakit, the process cannot import it. The processes are
forked from one that has transformers imported, and the address of the Hub from its environment (`warm_python.py`).
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ..warm_python import TRANSFORMERS, WITHOUT_LLAVAKIT, WarmPython
from .hub_server import HubServer, Repository

pytestmark = pytest.mark.slow

REPO = "you/my-llava"

# Runs after a block of the page and writes what its `model` and `processor` make of one question about one picture.
ANSWER = """
import sys, torch

question = [{"type": "image", "path": "photo.jpg"}, {"type": "text", "text": "What is in the picture?"}]
inputs = processor.apply_chat_template(
    [{"role": "user", "content": question}], add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
)
model.eval()
with torch.no_grad():
    output = model(**inputs)
found = {name: output[name] for name in ("logits", "last_hidden_state") if name in output}
torch.save({**inputs, **found, "answer": globals().get("answer")}, sys.argv[1])
"""
WITHOUT = f"""
{WITHOUT_LLAVAKIT}
try:
    import llavakit
except ImportError:
    pass
else:
    raise SystemExit("llavakit can be imported; this test would show nothing")
"""

Result = dict[str, Any]
Run = Callable[..., Result]


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubServer]:
    with HubServer(tmp_path_factory.mktemp("hub") / "server") as server:
        yield server
        assert server.unknown_requests == []


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder the commands run in, with the photograph that the page names."""
    folder = tmp_path_factory.mktemp("desk")
    pixels = np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "photo.jpg")
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What has come from the Hub, kept for no longer than the process that asked for it."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def python(hub: HubServer, cache: Path) -> Iterator[WarmPython]:
    with WarmPython(TRANSFORMERS, {**os.environ, **hub.environment(), "HF_HOME": str(cache)}) as python:
        yield python


@pytest.fixture
def run(python: WarmPython, hub: HubServer, cache: Path, desk: Path, tmp_path: Path) -> Run:
    """Runs Python text in a process of its own with an empty cache; returns what it wrote to `sys.argv[1]`."""

    def run(code: str, *, with_llavakit: bool) -> Result:
        shutil.rmtree(cache, ignore_errors=True)
        environment = {**os.environ, **hub.environment(), "HF_HOME": str(cache)}
        result = tmp_path / "result.pt"
        done = python.run(["-c", code if with_llavakit else WITHOUT + code, result], desk, environment, timeout=300)
        assert done.returncode == 0, done.stderr[-4000:]
        return torch.load(result) if result.exists() else {}

    return run


def execute(command: str, python: WarmPython, hub: HubServer, folder: Path | None = None) -> None:
    """Runs a command line of the page, its program taken from the environment of this test."""
    program, *arguments = shlex.split(command.replace("\\\n", " "))
    words = [python.interpreter(), str(Path(sys.executable).with_name(program)), *arguments]
    environment = {**os.environ, **hub.environment()}
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.fixture(scope="module")
def reference(tiny_llava: str, desk: Path, python: WarmPython) -> Result:
    """What the checkpoint makes of the question before it is pushed, from the folder it was written to."""
    result = desk / "reference.pt"
    code = f"""
from llavakit import LlavaForConditionalGeneration, LlavaProcessor
model = LlavaForConditionalGeneration.from_pretrained({tiny_llava!r})
processor = LlavaProcessor.from_pretrained({tiny_llava!r})
{ANSWER}
with torch.no_grad():
    last_hidden_state = model.model(**inputs).last_hidden_state
output = model.generate(**inputs, max_new_tokens=64, do_sample=False)[0, inputs["input_ids"].shape[1] :]
answer = processor.decode(output, skip_special_tokens=True)
torch.save({{**torch.load(sys.argv[1]), "last_hidden_state": last_hidden_state, "answer": answer}}, sys.argv[1])
"""
    done = python.run(["-c", code, result], desk, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    return torch.load(result)


@pytest.fixture
def pushed(hub: HubServer, run: Run, tiny_llava: str, code_block: Callable[[str, str], str]) -> Repository:
    """The repository after the page's push; the first test to ask pushes."""
    repository = hub.repository("models", REPO)
    if not repository.folder.exists():
        run(code_block("hub.md", "python push").replace("runs/instruct", tiny_llava), with_llavakit=True)
    return repository


def assert_same(loaded: Result, reference: Result, *names: str) -> None:
    for name in ("input_ids", "attention_mask", "pixel_values", *names):
        assert torch.equal(loaded[name], reference[name]), name


def load(auto_class: str, flag: str) -> str:
    return f"""
from transformers import {auto_class}, AutoProcessor
processor = AutoProcessor.from_pretrained({REPO!r}{flag})
model = {auto_class}.from_pretrained({REPO!r}{flag})
"""


def test_push_writes_everything_that_loading_needs(pushed: Repository, tiny_llava: str) -> None:
    files = {file.name for file in pushed.files(pushed.resolve("main")).iterdir()}
    assert {file.name for file in Path(tiny_llava).iterdir()} <= files
    assert {"config.json", "model.safetensors", "generation_config.json", "chat_template.jinja", "README.md"} <= files
    assert {"modeling_llava.py", "processing_llava.py", "processor_config.json"} <= files


def test_push_sends_the_model_card(pushed: Repository, tiny_llava: str) -> None:
    card = (pushed.files(pushed.resolve("main")) / "README.md").read_text()
    assert card == (Path(tiny_llava) / "README.md").read_text(), "the card of the checkpoint, not an empty form"
    for words in ("vision encoder", "connector", "language model", "## Training", "## How to load"):
        assert words in card


def test_upload_of_the_folder(
    hub: HubServer,
    python: WarmPython,
    run: Run,
    tiny_llava: str,
    reference: Result,
    code_block: Callable[[str, str], str],
) -> None:
    command = code_block("hub.md", "bash upload").replace("runs/instruct", tiny_llava).replace(REPO, "you/by-folder")
    execute(command, python, hub)
    code = load("AutoModelForImageTextToText", ", trust_remote_code=True").replace(REPO, "you/by-folder")
    assert_same(run(code + ANSWER, with_llavakit=False), reference, "logits")


def test_load_without_llavakit(
    pushed: Repository, run: Run, reference: Result, code_block: Callable[[str, str], str]
) -> None:
    loaded = run(code_block("hub.md", "python load") + ANSWER, with_llavakit=False)
    assert_same(loaded, reference, "logits")
    assert loaded["answer"] == reference["answer"]


def test_auto_model_and_auto_config_without_llavakit(pushed: Repository, run: Run, reference: Result) -> None:
    config = f"""
from transformers import AutoConfig
config = AutoConfig.from_pretrained({REPO!r}, trust_remote_code=True)
assert (config.model_type, config.num_image_tokens, config.projector_type) == ("llavakit", 4, "linear"), config
"""
    loaded = run(config + load("AutoModel", ", trust_remote_code=True") + ANSWER, with_llavakit=False)
    assert_same(loaded, reference, "last_hidden_state")


def test_pipeline_without_llavakit(
    pushed: Repository, run: Run, reference: Result, code_block: Callable[[str, str], str]
) -> None:
    parts = "\nmodel, processor = talk.model, talk.processor\n"
    loaded = run(code_block("hub.md", "python pipeline") + parts + ANSWER, with_llavakit=False)
    assert_same(loaded, reference, "logits")
    assert loaded["answer"] == reference["answer"]


def test_load_with_llavakit_needs_no_flag(
    pushed: Repository, run: Run, reference: Result, code_block: Callable[[str, str], str]
) -> None:
    installed = '\nassert type(model).__module__.startswith("llavakit."), type(model)\n'
    loaded = run(code_block("hub.md", "python known") + installed + ANSWER, with_llavakit=True)
    assert_same(loaded, reference, "logits")


def test_load_without_flag_or_llavakit_is_refused(pushed: Repository, run: Run) -> None:
    with pytest.raises(AssertionError, match="trust_remote_code"):
        run(load("AutoModelForImageTextToText", ""), with_llavakit=False)


def test_training_pushes_what_it_saves(
    hub: HubServer, python: WarmPython, desk: Path, tiny_llava: str, run: Run, code_block: Callable[[str, str], str]
) -> None:
    turns = [{"from": "human", "value": "<image>\nwhat is it"}, {"from": "gpt", "value": "a red cat"}]
    (desk / "rows.json").write_text(json.dumps([{"id": "1", "image": "photo.jpg", "conversations": turns}]))
    command = code_block("hub.md", "bash train").replace("runs/align", tiny_llava)
    execute(f"{command.strip()} --max_steps 1 --use_cpu --report_to none", python, hub, desk)
    pushed = hub.repository("models", "you/trained")
    files = pushed.files(pushed.resolve("main"))
    for name in ("config.json", "model.safetensors", "modeling_llava.py", "chat_template.jinja", "README.md"):
        assert (files / name).read_bytes() == (desk / "runs" / "instruct" / name).read_bytes(), name
    assert "Stage 2" in (files / "README.md").read_text()
    run(
        load("AutoModelForImageTextToText", ", trust_remote_code=True").replace(REPO, "you/trained"),
        with_llavakit=False,
    )
