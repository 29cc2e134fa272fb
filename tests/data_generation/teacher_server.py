"""A small OpenAI-compatible chat server on loopback, for tests: real HTTP, a process of its own, faults by choice.

    python teacher_server.py --calls calls.jsonl [--latency 0.2] [--faults 0.5] [--key SECRET] [--model NAME]

It prints its port. It knows the type that is asked for by the system message, which it looks up among the shipped
prompts, and answers from the captions and boxes of the last message, in the form that type asks for. Each call is a line
of the file of calls: what was asked (a digest of the messages), and what came of it, "answered" or a fault.
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
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROMPTS = Path(__file__).resolve().parents[2] / "data_generation" / "prompts"
FAULTS = ("429", "500", "cut", "cut_body", "slow", "malformed", "empty", "truncated")
REFUSALS = ("refusal", "content_filter")
ANSWERED = "answered"
BOX_LINE = re.compile(r"^(.+): \[([\d., ]+)\]$", re.MULTILINE)


# For tests


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
    command = [sys.executable, __file__, "--calls", str(calls), *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield RunningServer(f"http://127.0.0.1:{int(process.stdout.readline())}/v1", calls)
    finally:
        process.kill()
        process.wait()


def digest(messages: list[dict[str, Any]]) -> str:
    """What a call asks, short."""
    return hashlib.sha1(json.dumps(messages, sort_keys=True).encode()).hexdigest()[:16]


# What is answered


def answer_to(messages: list[dict[str, Any]]) -> tuple[str, str]:
    """The type that is asked for, and an answer in its form."""
    type = next((name for name, system in _systems().items() if system == messages[0]["content"]), "detail")
    content = messages[-1]["content"]
    text = content if isinstance(content, str) else " ".join(part.get("text", "") for part in content)
    captions = text.partition("Captions:\n")[2].partition("\n\n")[0].splitlines() or ["A place that can be seen here."]
    captions = [caption.strip().rstrip(".") for caption in captions]
    objects = [(name, [float(number) for number in box.split(",")]) for name, box in BOX_LINE.findall(text)]
    return type, WRITERS[type](captions, objects)


def _systems() -> dict[str, str]:
    if not SYSTEMS:
        SYSTEMS.update({path.parent.name: path.read_text().strip() for path in PROMPTS.glob("*/system.txt")})
    return SYSTEMS


SYSTEMS: dict[str, str] = {}
Objects = list[tuple[str, list[float]]]


def _conversation(captions: list[str], objects: Objects) -> str:
    questions = ("What is going on here?", "What else stands out?", "How would you put it in other words?")
    pairs = zip(questions, captions, strict=False)
    return "\n===\n".join(f"Question:\n{question}\n===\nAnswer:\n{caption}." for question, caption in pairs)


def _detail(captions: list[str], objects: Objects) -> str:
    sentences = [f"{caption}." for caption in captions]
    sentences += [f"There is a {name} {_place(box)}." for name, box in objects[:6]]
    closing = "Seen as a whole, everything is close together and easy to make out, from the front to the back."
    return " ".join([*sentences, closing])


def _reasoning(captions: list[str], objects: Objects) -> str:
    answer = (
        f"{captions[0]}. That already says a good deal. {captions[-1]}. From this it follows that whoever is here should "
        "take some time, look around with care, and think about what comes next before doing anything in a hurry. It may "
        "well go on like this for a while, so patience is probably the better choice, and it would help to keep enough "
        "distance, to speak with one another, and to leave the place as it was found."
    )
    return f"Question:\nWhat should one think about before going on from here?\n===\nAnswer:\n{answer}"


def _structured(captions: list[str], objects: Objects) -> str:
    claims = [{"text": f"A {name} is {_place(box)}.", "category": name, "bbox": box} for name, box in objects]
    qa = [{"question": "What is going on here?", "answer": f"{captions[0]}."}]
    qa += [{"question": f"Where is the {name}?", "answer": f"It is {_place(box)}."} for name, box in objects[:2]]
    return json.dumps({"description": _detail(captions, objects), "claims": claims, "qa": qa})


def _place(box: list[float]) -> str:
    across, down = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    side = "on the left" if across < 0.4 else "on the right" if across > 0.6 else "in the middle"
    return f"{side}, {'far up' if down < 0.4 else 'far down' if down > 0.6 else 'at middle height'}"


WRITERS: dict[str, Callable[[list[str], Objects], str]] = {
    "conversation": _conversation,
    "detail": _detail,
    "reasoning": _reasoning,
    "structured": _structured,
    "vision_detail": _detail,
}


# The server


class Connection(asyncio.Protocol):
    """One connection, kept open between calls. Written on the bare protocol, so that a benchmark measures the client."""

    def __init__(self, server: "Server") -> None:
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


class Server:
    """Answers calls after the latency, or with a fault."""

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
    server = Server(options)
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
