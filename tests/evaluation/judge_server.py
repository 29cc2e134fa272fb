"""A judge on loopback, for tests: an OpenAI-compatible endpoint over real HTTP whose verdicts a function gives."""

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Verdict = Callable[[list[dict[str, Any]]], str]


@contextlib.contextmanager
def running_judge(verdict: Verdict) -> Iterator[tuple[str, list[str]]]:
    """The endpoint's base URL, and what its user messages were so far.

    Args:
        verdict: What to answer to the messages of a call.
    """
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append(body["messages"][-1]["content"])
            message = {"role": "assistant", "content": verdict(body["messages"])}
            usage = {"prompt_tokens": 100, "completion_tokens": 1000}
            content = json.dumps({"choices": [{"message": message, "finish_reason": "stop"}], "usage": usage}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", asked
    finally:
        server.shutdown()
        server.server_close()
