"""What the tests of evaluations share: the command line, and small benchmarks made of the formats' own rules."""

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ..servers.chat_server import ChatServer, last_text


@pytest.fixture
def write_lines(tmp_path: Path) -> Callable[..., Path]:
    """Writes JSON lines to a file of the temporary folder."""

    def write(name: str, rows: list[dict]) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return write


@pytest.fixture(scope="session")
def evaluate() -> Callable[..., int]:
    """`llavakit eval ...`, in this process; errors come as they are raised."""
    from llavakit.cli import parser_of

    def run(*argv: str | Path) -> int:
        args = parser_of("eval").parse_args([*map(str, argv)])
        return args.run(args)

    return run


@pytest.fixture
def pope_folder(tmp_path: Path) -> Path:
    """Two splits of POPE about four pictures, in the official form, beside the pictures."""
    from PIL import Image

    folder = tmp_path / "pope"
    folder.mkdir()
    for split, objects in {"random": ("cat", "dog"), "adversarial": ("cat", "bus")}.items():
        rows = []
        for number in range(8):
            image = f"{number // 2}.png"
            Image.new("RGB", (40, 30), (60 * (number // 2), 80, 120)).save(folder / image)
            text, label = f"Is there a {objects[number % 2]} in the image?", "no" if number % 2 else "yes"
            rows.append({"question_id": number + 1, "image": image, "text": text, "label": label})
        (folder / f"coco_pope_{split}.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def chat_server() -> Iterator[Callable[..., str]]:
    """Starts a server that answers each chat with what a function says to its last message, and gives its base URL."""
    with contextlib.ExitStack() as servers:

        def start(say: Callable[[str], str]) -> str:
            return servers.enter_context(ChatServer(lambda body: say(last_text(body)))).base_url

        yield start
