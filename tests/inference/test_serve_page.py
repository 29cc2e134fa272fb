"""docs/serve.md: every command of the page, in a folder as the page assumes it."""

import copy
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from llavakit.inference.feedback import Feedback
from llavakit.inference.picture import UploadLimits, read_picture
from llavakit.inference.session import ChatSession

from .web_server import free_port

PAGE = Path(__file__).resolve().parents[2] / "docs" / "serve.md"
# Those of the page's commands and scripts
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("forked_servers")]

QUESTION = "What is in the picture?"


@pytest.fixture(scope="module")
def desk(vivid_llava: tuple[Any, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two checkpoints and a photograph, under the names that the page gives them."""
    folder = tmp_path_factory.mktemp("desk")
    model, processor = vivid_llava
    for name in ("runs/align", "runs/instruct"):
        model.save_pretrained(folder / name)
        processor.save_pretrained(folder / name)
    Image.effect_noise((80, 60), 90).convert("RGB").save(folder / "photo.jpg")
    return folder


@pytest.fixture(scope="module")
def answer(vivid_llava: tuple[Any, Any], desk: Path) -> str:
    """What a session of ours answers."""
    session = ChatSession(*vivid_llava)
    session.set_image(desk / "photo.jpg")
    said = session.ask(QUESTION, stream=False, max_new_tokens=64)
    assert len(said) > 3
    return said


def run(command: list[str], desk: Path, environment: dict[str, str] | None = None) -> str:
    done = subprocess.run(command, cwd=desk, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def words(command: str) -> list[str]:
    """A command line of the page, its program taken from the environment of this test."""
    program, *arguments = shlex.split(command)
    return [sys.executable, str(Path(sysconfig.get_path("scripts"), program)), *arguments]


@contextmanager
def serving(command: list[str], desk: Path, environment: dict[str, str], url: str) -> Iterator[None]:
    """A server that runs while the body does, from when it answers at `url`."""
    with (desk / "server.log").open("w") as log:
        server = subprocess.Popen(command, cwd=desk, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        while not answers(url):
            assert server.poll() is None, (desk / "server.log").read_text()[-4000:]
            time.sleep(0.2)
        yield
    finally:
        server.send_signal(signal.SIGINT)
        try:
            server.wait(timeout=30)
        finally:
            server.kill()
            server.wait()


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return response.status == 200
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False


def test_every_block_is_run_here():
    shown = re.findall(r"^```((?:bash|python)[\w ]*)$", PAGE.read_text(), re.M)
    tested = "ask, install web, web, compare, elsewhere, thumbs, install serve, serve, client, pipeline, session"
    assert [block.partition(" ")[2] for block in shown] == tested.split(", ")


def test_the_extras_that_the_page_installs_exist(code_block: Callable[[str, str], str], repository: Path):
    import configparser
    from importlib.metadata import metadata

    setup = configparser.ConfigParser()
    setup.read(repository / "setup.cfg")
    assert code_block("serve.md", "bash install web") == "pip install 'llavakit[web]'\n"
    assert "gradio" in setup["options.extras_require"]["web"]
    assert code_block("serve.md", "bash install serve") == "pip install 'transformers[serving]'\n"
    assert "serving" in (metadata("transformers").get_all("Provides-Extra") or [])


def test_ask(code_block: Callable[[str, str], str], desk: Path, answer: str):
    assert run(words(code_block("serve.md", "bash ask")), desk).startswith(answer[:30])


@pytest.mark.parametrize("block", ["web", "compare", "elsewhere"])
def test_web(code_block: Callable[[str, str], str], desk: Path, block: str):
    pytest.importorskip("gradio", reason="gradio is not installed: pip install 'llavakit[web]'")
    port = free_port()
    command = [*words(code_block("serve.md", f"bash {block}")), "--port", str(port)]
    url = f"http://127.0.0.1:{port}"
    with serving(command, desk, dict(os.environ), url):
        if block == "elsewhere":
            with pytest.raises(urllib.error.HTTPError, match="401"):
                urllib.request.urlopen(f"{url}/config")
            return
        with urllib.request.urlopen(f"{url}/config") as response:
            parts = json.load(response)["components"]
    chats = [part["props"]["label"] for part in parts if part["type"] == "chatbot"]
    assert chats == (["runs/instruct"] if block == "web" else ["runs/align", "runs/instruct"])


def test_thumbs(code_block: Callable[[str, str], str], desk: Path, monkeypatch: pytest.MonkeyPatch):
    turns = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": "a cat"}]
    row = {"id": "1", "model": "runs/instruct", "messages": turns, "sampling": {"temperature": 0.0}}
    Feedback(desk / "feedback.jsonl").add(row, "up", read_picture(desk / "photo.jpg", "photo.jpg", UploadLimits()))
    monkeypatch.chdir(desk)
    found: dict[str, Any] = {}
    exec(code_block("serve.md", "python thumbs"), found)
    assert found["rows"][0]["messages"][1]["content"][0]["text"] == "a cat"
    assert found["rows"][0]["images"][0].size == (80, 60)


def test_serve_and_its_client(
    code_block: Callable[[str, str], str], desk: Path, answer: str, environment_without_llavakit: dict[str, str]
):
    for library in ("fastapi", "uvicorn", "openai"):
        pytest.importorskip(library, reason=f"{library} is not installed: pip install 'transformers[serving]'")
    port = str(free_port())
    command = [word.replace("8000", port) for word in words(code_block("serve.md", "bash serve"))]
    client = code_block("serve.md", "python client").replace("8000", port)
    with serving(command, desk, environment_without_llavakit, f"http://localhost:{port}/health"):
        assert run([sys.executable, "-c", client], desk).strip() == answer


def test_serve_with_a_stop_of_text(
    vivid_llava: tuple[Any, Any],
    with_template: Any,
    code_block: Callable[[str, str], str],
    desk: Path,
    tmp_path: Path,
    environment_without_llavakit: dict[str, str],
):
    """The page's remedy for a model that ends its answers with text, which the server does not know."""
    for library in ("fastapi", "uvicorn", "openai"):
        pytest.importorskip(library, reason=f"{library} is not installed: pip install 'transformers[serving]'")
    model, processor = with_template("llava_v0")
    model = copy.deepcopy(model)
    [sign] = processor.tokenizer("#", add_special_tokens=False).input_ids
    model.generation_config.sequence_bias = [[[sign], 4.0], [[processor.tokenizer.eos_token_id], -100.0]]
    model.save_pretrained(tmp_path / "runs/instruct")
    processor.save_pretrained(tmp_path / "runs/instruct")
    shutil.copy(desk / "photo.jpg", tmp_path)
    session = ChatSession(model, processor)
    session.set_image(tmp_path / "photo.jpg")
    expected = session.ask(QUESTION, stream=False, max_new_tokens=64)
    remedy = 'answer.partition("###")[0].strip()'
    assert session.finish_reason == "stop" and remedy in PAGE.read_text()

    port = str(free_port())
    command = [word.replace("8000", port) for word in words(code_block("serve.md", "bash serve"))]
    client = code_block("serve.md", "python client").replace("8000", port)
    client = client.replace("print(answer)", f"print({remedy})")
    with serving(command, tmp_path, environment_without_llavakit, f"http://localhost:{port}/health"):
        said = run([sys.executable, "-c", client], tmp_path)
    assert said.strip() == expected


def test_pipeline(
    code_block: Callable[[str, str], str], desk: Path, answer: str, environment_without_llavakit: dict[str, str]
):
    code = code_block("serve.md", "python pipeline")
    assert run([sys.executable, "-c", code], desk, environment_without_llavakit).strip() == answer


def test_session(
    code_block: Callable[[str, str], str],
    desk: Path,
    answer: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
):
    monkeypatch.chdir(desk)
    found: dict[str, Any] = {}
    exec(code_block("serve.md", "python session"), found)
    assert capsys.readouterr().out == answer
    assert [turn["role"] for turn in found["session"].history] == ["user", "assistant"] * 2
    assert found["answer"] == found["session"].history[-1]["content"]
