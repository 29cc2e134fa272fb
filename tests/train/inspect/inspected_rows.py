"""Rows to inspect, and the inspection of a file of them."""

import json
import zlib
from pathlib import Path

from llavakit import LlavaCollator, LlavaProcessor
from llavakit.rows.loading import read_raw_rows
from llavakit.train.inspect import (
    Inspection,
    inspect_rows,
)

Row = dict[str, object]


def talk(row_id: str, image: object, *turns: str, first: str = "<image>\n") -> Row:
    speakers = ("human", "gpt")
    values = [first + turns[0], *turns[1:]]
    said = [{"from": speakers[number % 2], "value": value} for number, value in enumerate(values)]
    return {"id": row_id, "image": image, "conversations": said}


def text_row(row_id: str, *turns: str) -> Row:
    return talk(row_id, None, *turns, first="")


def said(question: str, answer: str) -> Row:
    """A row whose `<image>` is text."""
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def png_of(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 2, 0, 0, 0])
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")
    )


EXPECTED = {
    "format": ["neither", "no list", "no turns", "a number", "no picture", "half a character", None],
    "turns": ["role", "two answers"],
    "empty answer": ["empty"],
    "image count": ["count"],
    "image path": ["leaves", "url", "null"],
    "image missing": ["missing", "missing again"],
    "image unreadable": ["truncated", "hollow", "no image"],
    "image format": ["drawing"],
    "image too large": ["bomb"],
    "too long": ["too long"],
}


def inspected(path: Path, processor: LlavaProcessor, max_length: int | None = 200, **options) -> Inspection:
    rows, folder = read_raw_rows(path)
    return inspect_rows(rows, LlavaCollator(processor, max_length), image_folder=folder, **options)


def raw_rows(path: Path) -> list[Row]:
    return json.loads(path.read_text())
