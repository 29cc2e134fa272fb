"""Requests as files in OpenAI's batch format, and their answers back into a journal.

The vendor's batch API takes such files (half the price, within a day), and so does `vllm run-batch` on one's own
cluster. A line asked, and a line answered::

    {"custom_id": "000000296284/detail", "method": "POST", "url": "/v1/chat/completions", "body": {"model": ...}}
    {"custom_id": "000000296284/detail", "response": {"status_code": 200, "body": {...}}, "error": null}
"""

import itertools
import json
import os
import shutil
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...endpoints.answers import Outcome, Reading, parse_completion, read_completion
from ...endpoints.caller import Reply
from ...endpoints.chat_model import CallError, Completion
from ...endpoints.errors import error_of_status
from ...endpoints.journal import Journal, Line, Progress, journal_line, journal_lines
from ...endpoints.options import RequestOptions, chat_body
from ...endpoints.prices import Price
from ...endpoints.request import Request
from ...rows.files import read_rows
from ..prompts.prompt import Prompt, load_prompt
from .generate import Summary, open_requests
from .run_folder import PROMPTS, RunFolder

URL = "/v1/chat/completions"
# What OpenAI takes in one file
MAX_LINES, MAX_BYTES = 50_000, 200_000_000
SHARED_SYNC = 1000  # lines of the journal that are made durable together

# Of several answers to a request the one furthest right counts
PREFERRED = ("failed", "refused", "answered")

Place = tuple[int, int]  # of an answer: which file, and from which byte


@dataclass(frozen=True)
class BatchFile:
    """A file to hand in, and how many requests it holds."""

    path: Path
    requests: int


def write_batch(
    run: RunFolder,
    options: RequestOptions | None = None,
    retry_failed: bool = False,
    max_lines: int = MAX_LINES,
    max_bytes: int = MAX_BYTES,
) -> list[BatchFile]:
    """Write what a run has left to ask: `RUN/batch-1/00001.jsonl`, ...; another time, to `RUN/batch-2`.

    Args:
        run: The run's folder.
        options: How answers are drawn.
        retry_failed: Ask again for what failed.
        max_lines: Most requests in a file.
        max_bytes: Most bytes in a file.

    Returns:
        The files; none when nothing is left to ask.

    Raises:
        ValueError: A picture that is missing, a run in use, or a limit below 1.
    """
    if max_lines < 1 or max_bytes < 1:
        raise ValueError(f"--max_lines {max_lines} and --max_bytes {max_bytes} must be at least 1.")
    with Journal(run.path) as journal:
        progress = Progress(journal_lines(run.path), retry_failed)
        requests = open_requests(run, _prompts(run), progress, run.settings["image_folder"])
        lines = _request_lines(requests, run.settings["model"], options or RequestOptions(), journal)
        folder = next(path for n in itertools.count(1) if not (path := run.path / f"batch-{n}").exists())
        partial = run.path / ".batch.part"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        files = _write_files(lines, partial, max_lines, max_bytes)
        if not files:
            partial.rmdir()
            return []
        os.rename(partial, folder)
        return [BatchFile(folder / file.path.name, file.requests) for file in files]


def _request_lines(
    requests: Iterable[Request | Reply], model: str, options: RequestOptions, journal: Journal
) -> Iterator[bytes]:
    for request in requests:
        if isinstance(request, Reply):  # why it is not asked
            journal.write([journal_line(request, model)])
            continue
        line = {"custom_id": request.key, "method": "POST", "url": URL, "body": chat_body(request, model, options)}
        yield json.dumps(line, ensure_ascii=False).encode("utf-8") + b"\n"


def _write_files(lines: Iterable[bytes], folder: Path, max_lines: int, max_bytes: int) -> list[BatchFile]:
    files: list[BatchFile] = []
    lines = iter(lines)
    line = next(lines, None)
    while line is not None:
        path, requests, size = folder / f"{len(files) + 1:05d}.jsonl", 0, 0
        with path.open("wb") as file:
            while line is not None and requests < max_lines and (size + len(line) <= max_bytes or not requests):
                size += file.write(line)
                requests += 1
                line = next(lines, None)
        files.append(BatchFile(path, requests))
    return files


def read_batch(run: RunFolder, outputs: Sequence[str | os.PathLike], price: Price | None = None) -> Summary:
    """Read files of answers into a run's journal, as if they had just arrived.

    What was answered before stays; a key without an answer in these files is left to ask.

    Args:
        run: The run whose requests they answer.
        outputs: The files: output and error files, in any order.
        price: That was paid.

    Returns:
        How the run stands.

    Raises:
        ValueError: A line that is none of this format, or answers of another run; then nothing is read.
    """
    places = _places(outputs)
    prompts = _prompts(run)
    unknown = set(places)
    for context in read_rows(run.contexts):
        unknown.difference_update(f"{context['id']}/{prompt.type}" for prompt in prompts)
    if unknown:
        raise ValueError(
            f"{len(unknown)} answers are of no request of {run.path}, the first is {min(unknown)!r}. Read them into the "
            "run whose `write-batch` wrote the requests."
        )
    with Journal(run.path) as journal:
        progress = Progress(journal_lines(run.path), retry_failed=True)
        requests = open_requests(run, prompts, progress)
        lines = _answer_lines(requests, outputs, places, run.settings["model"], price)
        while group := list(itertools.islice(lines, SHARED_SYNC)):
            journal.write(group)
    now = Progress(journal_lines(run.path))
    total = run.settings["contexts"] * len(prompts)
    return Summary(now.counts, total - sum(now.counts.values()), now.dollars if price else None)


def _prompts(run: RunFolder) -> list[Prompt]:
    return [load_prompt(type, run.path / PROMPTS) for type in run.settings["types"]]


def _places(outputs: Sequence[str | os.PathLike]) -> dict[str, list[Place]]:
    """Where the answers to each request stand: they come in any order, and may be too many for memory."""
    places: dict[str, list[Place]] = defaultdict(list)
    for number, output in enumerate(outputs):
        position = 0
        with open(output, "rb") as lines:
            for count, line in enumerate(lines, start=1):
                if line.strip():
                    places[_key(line, f"{output}, line {count}")].append((number, position))
                position += len(line)
    return places


def _key(line: bytes, name: str) -> str:
    try:
        content = json.loads(line)
        if {"custom_id", "response"} <= set(content):
            return str(content["custom_id"])
    except (ValueError, TypeError):
        pass
    raise ValueError(
        f"{name}: no answer in the batch format, which has 'custom_id' and 'response'. Fetch the file anew."
    )


def _answer_lines(
    requests: Iterable[Request | Reply],
    outputs: Sequence[str | os.PathLike],
    places: Mapping[str, list[Place]],
    model: str,
    price: Price | None,
) -> Iterator[Line]:
    files = [open(output, "rb") for output in outputs]
    try:
        for request in requests:
            if isinstance(request, Request) and request.key in places:
                lines = []
                for number, position in places[request.key]:
                    files[number].seek(position)
                    lines.append(_journal_line(request, json.loads(files[number].readline()), model, price))
                # What expired in one batch may be answered in another, whichever file is named first
                yield max(lines, key=lambda line: PREFERRED.index(line["status"]))
    finally:
        for file in files:
            file.close()


def _journal_line(request: Request, content: dict[str, Any], model: str, price: Price | None) -> Line:
    reading, completion = _read(content)
    text = reading.text if completion else None
    reply = Reply(request, reading.status, text, reading.reason, completion=completion, attempts=1)
    if completion is not None:
        reply.prompt_tokens = completion.prompt_tokens or 0
        reply.completion_tokens = completion.completion_tokens or 0
    reply.dollars = price.dollars(reply.prompt_tokens, reply.completion_tokens) if price else None
    return journal_line(reply, model)


def _read(content: dict[str, Any]) -> tuple[Reading, Completion | None]:
    """A line of answers as it is read, and the completion in it, if there is one."""
    try:
        completion = _completion(content)
    except CallError as error:
        return Reading(Outcome.REFUSED if error.refused else Outcome.UNUSABLE, "", error.reason), None
    return read_completion(completion), completion


def _completion(content: dict[str, Any]) -> Completion:
    response, error = content["response"], content.get("error")
    if error or not isinstance(response, dict):
        message = error.get("message") or error.get("code") if isinstance(error, dict) else error
        raise CallError(f"the batch brought no answer: {message or 'no reason given'}")
    if response.get("status_code") != 200:
        raise error_of_status(int(response.get("status_code") or 0), response.get("body"))
    return parse_completion(response.get("body"))
