"""The one OpenAI-compatible chat server of the tests, on loopback: real HTTP, answers by a function, faults by choice.

Within a test, with a function that says what to answer::

    with ChatServer(lambda body: "Yes") as server:
        ... server.base_url ... server.bodies

A reply is a text (a chat completion is made of it), JSON of a success, or a status with JSON and, if need be, headers.

In a process of its own, as a teacher (see `teacher`) some of whose calls go wrong::

    python -m tests.servers.chat_server --calls calls.jsonl [--latency 0.2] [--faults 0.5] [--key SECRET] [--model NAME]

It prints its port. Each call is a line of the file of calls: what was asked (a digest of the messages), and what came of
it, "answered" or a fault.
"""

import argparse
import asyncio
import contextlib
import hashlib
import json
import os
import random
import re
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .teacher import answer_to

ROOT = Path(__file__).resolve().parents[2]
FAULTS = ("429", "500", "cut", "cut_body", "slow", "malformed", "empty", "truncated")
REFUSALS = ("refusal", "content_filter")
ANSWERED = "answered"

Body = dict[str, Any]
Reply = str | Body | tuple[int, Any] | tuple[int, Any, Mapping[str, str]]
USAGE = {"prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150}


def completion(content: Any, finish_reason: str | None = "stop", **message: Any) -> Body:
    """A chat completion.

    Args:
        content: Of the message.
        finish_reason: Why the model stopped.
        message: Further fields of the message.
    """
    message = {"role": "assistant", "content": content, **message}
    choice = {"index": 0, "finish_reason": finish_reason, "message": message}
    return {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], "usage": USAGE}


def last_text(body: Body) -> str:
    """The text of the last message of a call."""
    content = body["messages"][-1]["content"]
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def digest(messages: list[dict[str, Any]]) -> str:
    """What a call asks, short."""
    return hashlib.sha1(json.dumps(messages, sort_keys=True).encode()).hexdigest()[:16]


# The server


class Connection(asyncio.Protocol):
    """One connection, kept open between calls. Written on the bare protocol, so that a benchmark measures the client."""

    def __init__(self, server: "ChatServer | FaultyServer") -> None:
        self.server, self.received = server, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.received += data
        head, blank, rest = self.received.partition(b"\r\n\r\n")
        if not blank:
            return
        length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
        if len(rest) < (expected := int(length[1]) if length else 0):
            return
        self.received = rest[expected:]
        self.server.call(self, head, rest[:expected])

    def send(self, status: int, content: Any, headers: str = "") -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.transport.write(_head(status, len(body), headers) + body)


def _head(status: int, length: int, headers: str = "") -> bytes:
    lines = f"HTTP/1.1 {status} -\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n{headers}\r\n"
    return lines.encode()


class ChatServer:
    """A server whose replies a function gives. Use as a context manager.

    Args:
        reply: What to answer to the body of a call.
        latency: Seconds for each answer.
        slots: So many calls are worked on at once, and others wait in a queue, also those that were given up.

    Attributes:
        bodies: Of the calls so far.
        heads: Their request lines and headers.
        most_in_flight: Calls at once, at most.
    """

    def __init__(self, reply: Callable[[Body], Reply], latency: float = 0.0, slots: int | None = None) -> None:
        self._reply, self._latency, self._slots = reply, latency, slots
        self.bodies: list[Body] = []
        self.heads: list[str] = []
        self.most_in_flight = self._in_flight = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> "ChatServer":
        self._thread.start()
        listening = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result()
        self.base_url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/v1"
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    async def _end(self) -> None:
        self._listening.close()
        answering = asyncio.all_tasks() - {asyncio.current_task()}
        for task in answering:
            task.cancel()
        await asyncio.gather(*answering, return_exceptions=True)

    async def _listen(self) -> asyncio.Server:
        self._slot = asyncio.Semaphore(self._slots or 10_000)
        self._listening = await self._loop.create_server(lambda: Connection(self), "127.0.0.1", 0, backlog=1024)
        return self._listening

    def call(self, connection: Connection, head: bytes, body: bytes) -> None:
        self._loop.create_task(self._answer(connection, head, body))

    async def _answer(self, connection: Connection, head: bytes, body: bytes) -> None:
        content = json.loads(body)
        self.bodies.append(content)
        self.heads.append(head.decode())
        self._in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self._in_flight)
        async with self._slot:
            await asyncio.sleep(self._latency)
        self._in_flight -= 1
        try:
            reply = self._reply(content)
        except Exception as error:  # a test's own mistake: the client should see one, and not wait
            reply = 400, {"error": {"message": f"the test's reply failed: {error!r}"}}
        if isinstance(reply, str):
            reply = completion(reply)
        status, answer, *headers = reply if isinstance(reply, tuple) else (200, reply)
        lines = "".join(f"{name}: {value}\r\n" for name, value in (headers[0] if headers else {}).items())
        if not connection.transport.is_closing():
            connection.send(status, answer, lines)


# In a process of its own


@dataclass
class RunningServer:
    """A server that runs, as a test sees it."""

    base_url: str
    calls_file: Path

    def calls(self) -> list[dict[str, Any]]:
        """All calls so far: `{"asked": digest, "outcome": "answered" or a fault, "type", "at": seconds}`."""
        return [json.loads(line) for line in self.calls_file.read_text().splitlines()]

    def stats(self) -> dict[str, int]:
        """Calls received, and how many were in flight at once at most."""
        with urllib.request.urlopen(f"{self.base_url}/stats") as response:
            return json.load(response)


@contextlib.contextmanager
def running_server(folder: Path, *options: str) -> Iterator[RunningServer]:
    """Start a server in a process of its own, and end it afterwards."""
    calls = folder / "calls.jsonl"
    calls.touch()
    command = [sys.executable, "-m", "tests.servers.chat_server", "--calls", str(calls.absolute()), *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        assert process.stdout is not None
        yield RunningServer(f"http://127.0.0.1:{int(process.stdout.readline())}/v1", calls)
    finally:
        process.kill()
        process.wait()


class FaultyServer:
    """A teacher that answers after the latency, or with a fault."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.draw = options, random.Random(options.seed)
        self.file = os.open(options.calls, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self.stats = {"calls": 0, "in_flight": 0, "most_in_flight": 0}

    def call(self, connection: Connection, head: bytes, body: bytes) -> None:
        if head.startswith(b"GET /v1/stats"):
            return connection.send(200, self.stats)
        self.stats["calls"] += 1
        self.stats["in_flight"] += 1
        self.stats["most_in_flight"] = max(self.stats["most_in_flight"], self.stats["in_flight"])
        request, wrong = json.loads(body), self._wrong(head, body)
        faulty = self.draw.random() < self.options.faults
        outcome = wrong[1] if wrong else self.draw.choice(self.options.kinds) if faulty else ANSWERED
        asyncio.get_running_loop().call_later(self.options.latency, self._answer, connection, request, outcome, wrong)

    def _wrong(self, head: bytes, body: bytes) -> tuple[int, str, str] | None:
        if self.options.key and f"Bearer {self.options.key}".encode() not in head:
            return 401, "invalid_api_key", "Incorrect API key provided."
        if self.options.model and json.loads(body)["model"] != self.options.model:
            return 404, "model_not_found", "The model does not exist."
        return None

    def _answer(
        self, connection: Connection, request: dict[str, Any], outcome: str, wrong: tuple[int, str, str] | None
    ) -> None:
        type, text = answer_to(request["messages"])
        reply = self._reply(request, text, outcome)
        line = {"asked": digest(request["messages"]), "outcome": outcome, "type": type, "at": time.time()}
        os.write(self.file, json.dumps(line).encode() + b"\n")  # before the client can know
        self.stats["in_flight"] -= 1
        if wrong:
            connection.send(wrong[0], {"error": {"code": wrong[1], "message": wrong[2], "param": None}})
        elif outcome == "429":
            error = {"error": {"code": "rate_limit_exceeded", "message": "Too many requests."}}
            connection.send(429, error, f"Retry-After: {self.options.retry_after}\r\n")
        elif outcome == "500":
            connection.send(500, b"<html>Internal Server Error</html>")
        elif outcome == "cut":
            connection.transport.abort()
        elif outcome == "cut_body":
            connection.transport.write((_head(200, len(reply)) + reply)[: -len(reply) // 2])
            connection.transport.close()
        elif outcome == "slow":
            connection.transport.write(_head(200, len(reply)))
            asyncio.get_running_loop().create_task(self._drip(connection, reply))
        elif outcome == "malformed":
            connection.send(200, reply[:-20])
        else:
            connection.send(200, reply)

    def _reply(self, request: dict[str, Any], text: str, outcome: str) -> bytes:
        text = "" if outcome == "empty" else text[: len(text) // 2] if outcome == "truncated" else text
        usage = {"prompt_tokens": len(json.dumps(request["messages"])) // 4, "completion_tokens": len(text) // 4}
        message = {"role": "assistant", "content": text, "refusal": None}
        if outcome == "refusal":
            message |= {"content": None, "refusal": "I cannot help with this."}
        reason = {"truncated": "length", "content_filter": "content_filter"}.get(outcome, "stop")
        choice = {"index": 0, "message": message, "finish_reason": reason}
        return json.dumps(
            {"id": "chatcmpl-1", "object": "chat.completion", "created": int(time.time()), "model": request["model"]}
            | {"choices": [choice], "usage": usage | {"total_tokens": sum(usage.values())}}
        ).encode()

    async def _drip(self, connection: Connection, reply: bytes) -> None:
        """A byte now and then, for longer than anyone should wait."""
        for position in range(len(reply)):
            if connection.transport.is_closing():
                return
            connection.transport.write(reply[position : position + 1])
            await asyncio.sleep(0.05)


async def serve(options: argparse.Namespace) -> None:
    server = FaultyServer(options)
    loop = asyncio.get_running_loop()
    listening = await loop.create_server(lambda: Connection(server), "127.0.0.1", options.port, backlog=1024)
    print(listening.sockets[0].getsockname()[1], flush=True)
    await listening.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--calls", required=True, help="file to which a line a call is added")
    parser.add_argument("--port", type=int, default=0, help="0 is any that is free")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds before each answer")
    parser.add_argument("--faults", type=float, default=0.0, help="share of calls that go wrong")
    parser.add_argument("--kinds", nargs="+", default=FAULTS, choices=(*FAULTS, *REFUSALS), help="how they go wrong")
    parser.add_argument("--retry_after", default="0.05", help="seconds that a 429 asks to wait")
    parser.add_argument("--key", default=None, help="the API key; default: any")
    parser.add_argument("--model", default=None, help="the one model served; default: any")
    parser.add_argument("--seed", type=int, default=0)
    asyncio.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
