"""Every row read as training reads it, every image decoded, by one process or by several."""

import hashlib
import multiprocessing
import os
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from PIL import Image

from ...processing.video_frames import is_video
from ...rows.schema import IMAGE_PLACEHOLDER
from ..collator import LlavaCollator
from ..row_preparation import PreparedRow, prepare_row

CHUNK = 16  # rows that a process takes at a time


@dataclass
class RowFindings:
    """One row's findings, small enough to come from another process by the hundred thousand."""

    check: PreparedRow
    turns: int | None = None  # None where the row could not be read as one
    images: list[bytes] = field(default_factory=list)  # a digest of each
    literal_image: bool = False


@dataclass
class RowReader:
    collator: LlavaCollator
    image_folder: str | os.PathLike | None

    def __call__(self, raw: Any, index: int) -> RowFindings:
        with warnings.catch_warnings():
            # Pillow warns of what is reported as a row's fault anyway
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            check = prepare_row(raw, index, self.collator, image_folder=self.image_folder, decode_images=True)
        row, check.row, check.input_ids = check.row, None, []  # the rest is small
        if row is None:
            return RowFindings(check)
        turns = sum(message["role"] == "assistant" for message in row["messages"])
        return RowFindings(check, turns, [digest(image) for image in row["images"]], has_literal_image(raw))


def read_rows(rows: Iterable[Any], reader: RowReader, num_proc: int | None) -> Iterator[tuple[Any, RowFindings]]:
    """Each row and its findings, in order. With several processes, a few chunks of rows are under way at a time."""
    numbered = enumerate(rows)
    if num_proc is None or num_proc == 1:
        yield from ((raw, reader(raw, index)) for index, raw in numbered)
        return
    with ProcessPoolExecutor(
        num_proc, multiprocessing.get_context(), initializer=_start_process, initargs=(reader,)
    ) as pool:
        under_way: deque[tuple[list[tuple[int, Any]], Future]] = deque()
        while chunk := list(islice(numbered, CHUNK)):
            under_way.append((chunk, pool.submit(_read_chunk, chunk)))
            if len(under_way) > 2 * num_proc:
                yield from _findings(*under_way.popleft())
        while under_way:
            yield from _findings(*under_way.popleft())


def _findings(chunk: list[tuple[int, Any]], future: Future) -> Iterator[tuple[Any, RowFindings]]:
    yield from zip((raw for _, raw in chunk), future.result(), strict=True)


_process_reader: RowReader  # in a process of the pool


def _start_process(reader: RowReader) -> None:
    global _process_reader
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism
    torch.set_num_threads(1)
    _process_reader = reader


def _read_chunk(chunk: list[tuple[int, Any]]) -> list[RowFindings]:
    return [_process_reader(raw, index) for index, raw in chunk]


def digest(image: Any) -> bytes:
    """Which image it is: by its path, or by its content where that is in the row."""
    if is_video(image):
        files = image["frames"] if image.get("frames") is not None else [image["video"]]
        content = b"".join(map(digest, files))
    elif isinstance(image, Image.Image):
        content = image.tobytes()
    elif isinstance(image, Mapping):
        content = image.get("bytes") or (image.get("path") or "").encode("utf-8", "surrogatepass")
    else:
        content = str(image).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(content, digest_size=16).digest()


def has_literal_image(raw: Mapping[str, Any]) -> bool:
    if raw.get("conversations") is not None:
        return False
    # An answer that speaks of the tag means the tag; a question that has it most likely means an image
    contents = [turn.get("content") for turn in raw["messages"] if turn.get("role") != "assistant"]
    return any(isinstance(content, str) and IMAGE_PLACEHOLDER in content for content in contents)
