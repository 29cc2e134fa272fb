"""What the tests of evaluations share: the command line, and small benchmarks made of the formats' own rules."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest


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
    """Starts an OpenAI-compatible server on loopback that answers each chat with what a function says to its last message.

    Returns its base URL.
    """
    servers = []

    def start(say: Callable[[str], str]) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                content = body["messages"][-1]["content"]
                if not isinstance(content, str):
                    content = "".join(block.get("text", "") for block in content)
                choice = {
                    "index": 0,
                    "finish_reason": "stop",
                    "message": {"role": "assistant", "content": say(content)},
                }
                usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
                answer = {"id": "1", "object": "chat.completion", "created": 0, "model": body["model"], "usage": usage}
                payload = json.dumps({**answer, "choices": [choice]}).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(payload)))
                self.end_headers()
                self.wfile.write(payload)

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_address[1]}/v1"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()
