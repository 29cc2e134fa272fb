"""`llavakit chat --web` in a process of its own."""

import contextlib
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass
class WebServer:
    url: str
    feedback: Path
    uploads: Path  # the folder for temporary files, where uploads go while the server runs


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextlib.contextmanager
def web_server(folder: Path, environment: dict[str, str], *arguments: str) -> Iterator[WebServer]:
    """Start it and wait for it; at the end Ctrl-C, after which nothing of what was uploaded is left."""
    port = free_port()
    feedback, uploads = folder / "feedback.jsonl", folder / "temporary"
    uploads.mkdir()
    command = [sys.executable, "-m", "llavakit.cli", "chat", *arguments, "--web", "--port", str(port)]
    command += ["--feedback", str(feedback)]
    log = folder / "log"
    with log.open("w") as errors:
        server = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, env={**environment, "TMPDIR": str(uploads)}
        )
        try:
            assert server.stdout is not None
            first = server.stdout.readline()
            assert first.startswith(f"Talk at http://127.0.0.1:{port} "), first + log.read_text()
            yield WebServer(f"http://127.0.0.1:{port}", feedback, uploads)
            server.send_signal(signal.SIGINT)
            server.wait(timeout=60)
        finally:
            server.kill()
            server.communicate()
    assert not list(uploads.glob("llavakit-web-*")), "the server left uploads behind"
    assert "Traceback" not in log.read_text(), log.read_text()
