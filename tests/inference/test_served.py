"""A model of ours behind real servers: the terminal, the page in a real browser, a benchmark and the proof hear the same."""

import json
import os
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from llavakit.checkpoints.converting import export_checkpoint
from llavakit.checkpoints.proof.llama_cpp import llama_cpp
from llavakit.cli import main
from llavakit.inference.chat import load_llava
from llavakit.inference.served_session import ServedSession, Server
from llavakit.inference.session import ChatSession
from llavakit.rows.schema import BadRow

from ..checkpoints.conftest import byte_level_tokenizer, llava_checkpoint  # noqa: F401  fixtures
from ..servers.chat_server import ChatServer, completion
from .browser_page import Page
from .test_serve_page import serving, words
from .web_server import free_port, web_server

QUESTIONS = ["What is in this picture?", "Where is the square?"]
LENGTH = (
    6  # tokens: where a random model holds two for as likely, sixteen bits here and thirty-two there may choose apart
)


@dataclass
class Served:
    """A checkpoint, and the server that has it."""

    checkpoint: Path
    base_url: str
    model: str


@pytest.fixture(scope="module")
def checkpoint(llava_checkpoint: Callable[..., Path]) -> Path:  # noqa: F811
    return llava_checkpoint(projector_type="mlp2x_gelu", image_aspect_ratio="pad")


@pytest.fixture(scope="module", params=["llama.cpp", "transformers serve"])
def served(
    request: pytest.FixtureRequest, checkpoint: Path, forked_servers: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    if request.param == "llama.cpp":
        pytest.importorskip("xllamacpp", reason="llama.cpp is not installed: pip install xllamacpp")
        export_checkpoint(checkpoint, folder / "gguf", "gguf", outtype="f32", square_pictures=True)
        with llama_cpp(*(folder / "gguf" / f"{part}-f32.gguf" for part in ("model", "mmproj"))) as server:
            yield Served(checkpoint, server.base_url, "m")
        return
    for library in ("fastapi", "uvicorn", "openai"):
        pytest.importorskip(library, reason=f"{library} is not installed: pip install 'transformers[serving]'")
    port = str(free_port())
    command = words(f"transformers serve {shlex.quote(str(checkpoint))} --trust-remote-code --port {port}")
    with serving(command, folder, dict(os.environ), f"http://localhost:{port}/health"):
        yield Served(checkpoint, f"http://localhost:{port}/v1", str(checkpoint))


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Square, as llama.cpp shows it whole."""
    path = tmp_path_factory.mktemp("picture") / "photo.png"
    Image.effect_noise((28, 28), 90).convert("RGB").save(path)
    return path


@pytest.fixture(scope="module")
def said(checkpoint: Path, picture: Path) -> list[str]:
    """The turns with the checkpoint in this process."""
    session = ChatSession(*load_llava(str(checkpoint)))
    session.set_image(picture)
    for question in QUESTIONS:
        assert len(session.ask(question, stream=False, max_new_tokens=LENGTH)) > 2
    return [turn["content"] for turn in session.history]


@pytest.mark.slow
def test_the_proof(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["export", str(served.checkpoint), "--check_server", served.base_url, "--model", served.model]
    assert main([*command, "--square_pictures"]) == 0
    assert "say the same" in capsys.readouterr().out


@pytest.mark.slow
def test_the_terminal(served: Served, picture: Path, said: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    command = ["chat", served.model, "--base_url", served.base_url, "--image", str(picture)]
    assert main([*command, "--question", QUESTIONS[0], "--max_new_tokens", str(LENGTH)]) == 0
    assert capsys.readouterr().out.strip() == said[1]
    assert main([*command, "--question", "?", "--draw_boxes", "boxes.png"]) == 1
    assert "--draw_boxes goes without --base_url" in capsys.readouterr().err


@pytest.mark.slow
def test_the_page(chromium: Any, served: Served, picture: Path, said: list[str], tmp_path: Path) -> None:
    pytest.importorskip("gradio", reason="gradio is not installed: pip install 'llavakit[web]'")
    arguments = [served.model, "--base_url", served.base_url, "--max_new_tokens", str(LENGTH)]
    with web_server(tmp_path, dict(os.environ), *arguments) as server:
        page = Page(chromium, server.url)
        page.upload(picture)
        page.wait(page.picture)
        for number, question in enumerate(QUESTIONS):
            page.ask(question)
            page.wait(lambda turns=2 * number + 2: page.ready() and len(page.chats()[0]) == turns)
        assert page.chats()[0] == said
        page.one("#undo").click()
        page.wait(lambda: page.box() == QUESTIONS[1] and page.chats()[0] == said[:2])


@pytest.mark.slow
def test_a_benchmark(served: Served, tmp_path: Path) -> None:
    folder = tmp_path / "pope"
    folder.mkdir()
    rows = []
    for number in range(8):
        Image.new("RGB", (28, 28), (30 * number, 80, 120)).save(folder / f"{number}.png")
        text = f"Is there a {('cat', 'dog')[number % 2]} in the image?"
        rows.append({"question_id": number + 1, "image": f"{number}.png", "text": text, "label": "no"})
    (folder / "coco_pope_random.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ["eval", "run", "pope", "--data", str(folder), "--max_new_tokens", str(LENGTH)]
    assert main([*command, "--model", str(served.checkpoint), "-o", str(tmp_path / "here")]) == 0
    there = ["--model", served.model, "--base_url", served.base_url, "--batch_size", "2"]
    assert main([*command, *there, "-o", str(tmp_path / "there")]) == 0
    here, there = (
        {row["id"]: row["text"] for row in map(json.loads, (tmp_path / name / "predictions.jsonl").open())}
        for name in ("here", "there")
    )
    assert len(here) == 8 and here == there


# ---- what a server may say ----


def test_a_failure_takes_the_question_back(picture: Path) -> None:
    with ChatServer(lambda body: completion("a cat") if body["max_tokens"] < 9 else (500, {})) as server:
        session = ServedSession("m", Server(server.base_url))
        session.set_image(picture)
        assert "".join(session.ask("What?", max_new_tokens=8)) == "a cat" and session.finish_reason == "stop"
        with pytest.raises(ValueError, match="m at http://.*500"):
            list(session.ask("And now?", max_new_tokens=9))
        assert [turn["content"] for turn in session.history] == ["What?", "a cat"]
        assert not server.bodies[-1].keys() & {"top_k", "seed"}
        list(session.ask("Again?", max_new_tokens=8, seed=0, top_k=3, temperature=0.5))
        assert (server.bodies[-1]["seed"], server.bodies[-1]["top_k"]) == (0, 3)
        assert [message["role"] for message in server.bodies[-1]["messages"]] == ["user", "assistant", "user"]
        assert session.undo() == "Again?"
        assert session.undo() == "What?" and session.undo() is None
        with pytest.raises(BadRow, match="this is a video: show frames of it"):
            session.set_image({"video": "clip.mp4"})
        assert len(session.images) == 1
