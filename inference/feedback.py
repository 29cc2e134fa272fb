"""Thumbs up and down, kept as rows that `load_conversations` reads.

A line of the file::

    {"id": "f3c2...-0-1", "time": "2026-11-21T02:30:00+00:00", "model": "runs/instruct", "rating": "up",
     "images": ["feedback_images/9f86...d0.jpg"], "messages": [{"role": "user", "content": "What is it?"},
                                                               {"role": "assistant", "content": "A cat."}],
     "sampling": {"max_new_tokens": 256, "temperature": 0.0, "top_p": 1.0}}

The last message is the answer that was rated; `rating` is `up`, `down`, or null for a thumb that was taken back. Lines
are only added: a visitor who thinks again gives another line of the same `id`, and the last one counts. The pictures
lie beside the file, as they were sent.
"""

import json
import os
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from ..rows.files import replacing
from .picture import UploadedPicture

Rating = Literal["up", "down"]


class Feedback:
    """The file that thumbs go to. It and its folder of pictures are made with the first one.

    Args:
        path: Of the file, `.jsonl`.

    Raises:
        ValueError: Another suffix.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)
        if self.path.suffix != ".jsonl":
            raise ValueError(f"feedback={os.fspath(path)!r}: give a file that ends in .jsonl.")
        self.pictures = self.path.with_name(f"{self.path.stem}_images")
        self._lock = threading.Lock()

    def add(self, row: Mapping[str, Any], rating: Rating | None, picture: UploadedPicture | None) -> None:
        """Keep a thumb, and return when it is on disk.

        Args:
            row: `id`, `model`, `messages`, `sampling`.
            rating: What the visitor said; None takes it back.
            picture: What the conversation is about.

        Raises:
            OSError: The disk is full, or the file cannot be written.
        """
        with self._lock:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            images = [] if picture is None else [self._keep(picture)]
            now = datetime.now(UTC).isoformat(timespec="seconds")
            self._append({"id": row["id"], "time": now, "rating": rating, "images": images, **row})

    def _keep(self, picture: UploadedPicture) -> str:
        """Where the picture lies, seen from the file's folder."""
        path = self.pictures / f"{picture.digest}{picture.suffix}"
        if not path.exists():
            self.pictures.mkdir(exist_ok=True)
            with replacing(path) as partial:
                partial.write_bytes(picture.content)
        return path.relative_to(self.path.parent).as_posix()

    def _append(self, row: Mapping[str, Any]) -> None:
        line = json.dumps(row, ensure_ascii=False).encode("utf-8") + b"\n"
        file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            size = os.fstat(file).st_size
            if size and os.pread(file, 1, size - 1) != b"\n":  # a process was killed while it wrote
                line = b"\n" + line
            _write_whole(file, line, size)
        finally:
            os.close(file)


def _write_whole(file: int, content: bytes, size: int) -> None:
    """Append all of it or nothing, and return when it is on disk."""
    view = memoryview(content)
    try:
        while view:
            view = view[os.write(file, view) :]
        os.fsync(file)
    except OSError:  # a full disk: what is written next must not continue a torn line
        os.ftruncate(file, size)
        raise
