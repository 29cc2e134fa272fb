"""The journal of a run: a line for each answer, on disk before the answer counts.

A line of `RUN/journal.jsonl`::

    {"key": "000000296284/detail", "id": "000000296284", "type": "detail", "status": "answered", "text": "...",
     "reason": null, "question": "...", "model": "...", "finish_reason": "stop", "prompt_tokens": 1834,
     "completion_tokens": 171, "dollars": 0.006295, "attempts": 1}

`status` is `answered`, `failed` (may succeed when asked again) or `refused`, and `reason` says why. Tokens and dollars
are those of all attempts. Lines are only ever added. A key has one line, or, when failed keys were asked again, several,
of which the last one counts: `read_journal` gives that one.
"""

import asyncio
import hashlib
import json
import os
import threading
from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from .caller import Reply

Line = dict[str, Any]

NAME = "journal.jsonl"
STATUSES = ("answered", "failed", "refused")


def journal_line(reply: Reply, model: str) -> Line:
    """A line for the journal, as the module describes it."""
    request, completion = reply.request, reply.completion
    return {
        "key": request.key,
        "id": request.context_id,
        "type": request.type,
        "status": reply.status,
        "text": reply.text,
        "reason": reply.reason,
        "question": request.question,
        "model": model,
        "finish_reason": completion.finish_reason if completion else None,
        "prompt_tokens": reply.prompt_tokens,
        "completion_tokens": reply.completion_tokens,
        "dollars": reply.dollars,
        "attempts": reply.attempts,
    }


class Journal:
    """The journal, open for adding. Use as a context manager.

    Args:
        run_dir: Folder of the run.
        name: Of the file in it.

    Raises:
        ValueError: Another process has it open.
    """

    def __init__(self, run_dir: str | os.PathLike, name: str = NAME) -> None:
        self.path = Path(run_dir) / name
        self._lock = FileLock(self.path.with_suffix(".lock"), timeout=0)
        self._waiting: list[tuple[bytes, asyncio.Future[None]]] = []
        self._guard = threading.Lock()  # of what waits, and of whether the writer will look again
        self._writing = False
        self._written: Future[None] | None = None

    def __enter__(self) -> "Journal":
        try:
            self._lock.acquire()
        except Timeout as error:
            raise ValueError(
                f"{self.path.parent} is in use by another run. Wait for it, or name another folder."
            ) from error
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        self._size = self._cut_torn_line()
        _sync_folder(self.path.parent)
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix=NAME)
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.shutdown()
        os.close(self._file)
        self._lock.release()

    def write(self, lines: Iterable[Line]) -> None:
        """Add lines and return when they are on disk."""
        self._write(b"".join(map(_encode, lines)))

    async def add(self, line: Line) -> None:
        """Add a line and return when it is on disk. Lines that come while others are written share one sync."""
        loop = asyncio.get_running_loop()
        content, done = _encode(line), loop.create_future()
        with self._guard:
            self._waiting.append((content, done))
            if not self._writing:
                self._writing, self._written = True, self._writer.submit(self._write_waiting, loop)
        await done

    async def flush(self) -> None:
        """Return when all that was added is on disk, also what nobody waits for any more."""
        if self._written is not None:
            await asyncio.wrap_future(self._written)

    def _write_waiting(self, loop: asyncio.AbstractEventLoop) -> None:
        """The writer's thread. It takes group after group by itself: a busy loop would be slow to hand it the next."""
        while True:
            with self._guard:
                group, self._waiting = self._waiting, []
                self._writing = bool(group)
            if not group:
                return
            failure = None
            try:
                self._write(b"".join(content for content, _ in group))
            except OSError as error:  # whoever waits must know
                failure = error
            loop.call_soon_threadsafe(_tell, [done for _, done in group], failure)

    def _write(self, content: bytes) -> None:
        view = memoryview(content)
        try:
            while view:
                view = view[os.write(self._file, view) :]
            os.fsync(self._file)
        except OSError:  # a full disk: what is written next must not continue a torn line
            os.ftruncate(self._file, self._size)
            raise
        self._size += len(content)

    def _cut_torn_line(self) -> int:
        """The size of the file, without a line that a process was killed at: it lacks its end, and never counted."""
        size = end = os.fstat(self._file).st_size
        while end:
            start = max(0, end - 65536)
            newline = os.pread(self._file, end - start, start).rfind(b"\n")
            if newline >= 0:
                end = start + newline + 1
                break
            end = start
        if end < size:
            os.ftruncate(self._file, end)
            os.fsync(self._file)
        return end


def _tell(waiting: Iterable[asyncio.Future[None]], failure: OSError | None) -> None:
    """Tell whoever waits that the lines are on disk, or why they are not."""
    for done in waiting:
        if done.done():  # cancelled: nobody waits any more
            continue
        if failure is None:
            done.set_result(None)
        else:
            done.set_exception(failure)


def _encode(line: Mapping[str, Any]) -> bytes:
    return json.dumps(line, ensure_ascii=False).encode("utf-8") + b"\n"


def _sync_folder(folder: Path) -> None:
    """A new file's name is durable only with its folder."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def journal_lines(run_dir: str | os.PathLike) -> Iterator[Line]:
    """All lines as they were added, but for a last one that is still being written.

    Raises:
        ValueError: A line that is not JSON; the message names it.
    """
    path = Path(run_dir) / NAME
    if not path.exists():
        return
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.endswith(b"\n"):
                return
            try:
                yield json.loads(line)
            except ValueError as error:
                raise ValueError(
                    f"{path}, line {number}: not JSON ({error}). The disk may have lost it: delete the line, and the next "
                    "run asks again."
                ) from error


def read_journal(run_dir: str | os.PathLike) -> Iterator[Line]:
    """The one line that counts for each key, in the order of the journal.

    Two passes; only keys that failed are held in memory.

    Raises:
        ValueError: A line that is not JSON; the message names it.
    """
    last: dict[str, int] = {}
    for number, line in enumerate(journal_lines(run_dir)):
        if line["status"] == "failed" or line["key"] in last:
            last[line["key"]] = number
    for number, line in enumerate(journal_lines(run_dir)):
        if last.get(line["key"], number) == number:
            yield line


class Progress:
    """What a journal says of a run so far.

    Args:
        lines: Of the journal.
        retry_failed: Failed keys are to be asked again.

    Attributes:
        counts: Keys by status, without those to be asked again.
        dollars: Spent so far.
        unpriced_tokens: Tokens read and written while no price was known.
    """

    def __init__(self, lines: Iterable[Line], retry_failed: bool = False) -> None:
        self.counts: Counter[str] = Counter()
        self.dollars = 0.0
        self.unpriced_tokens = [0, 0]
        done, failed = array("Q"), set()
        for line in lines:
            key, status = line["key"], line["status"]
            if key in failed:  # asked again since
                failed.discard(key)
                self.counts["failed"] -= 1
            self.counts[status] += 1
            if status == "failed":
                failed.add(key)
            else:
                done.append(_digest(key))
            if line["dollars"] is None:
                self.unpriced_tokens[0] += line["prompt_tokens"]
                self.unpriced_tokens[1] += line["completion_tokens"]
            else:
                self.dollars += line["dollars"]
        if retry_failed:
            del self.counts["failed"]
        else:
            done.extend(map(_digest, failed))
        self.counts = +self.counts  # without zeros
        self._done = array("Q", sorted(done))

    def is_done(self, key: str) -> bool:
        """Whether this key need not be asked. Keys are held as digests of eight bytes, to stay small for millions."""
        digest = _digest(key)
        place = bisect_left(self._done, digest)
        return place < len(self._done) and self._done[place] == digest


def _digest(key: str) -> int:
    return int.from_bytes(hashlib.blake2b(key.encode("utf-8"), digest_size=8).digest(), "big")
