"""Text files as people have them, and JSON in them: decoded and parsed, or refused with file, line and remedy."""

import codecs
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# A byte order mark says what follows; what has none is UTF-8
_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


def lines_of(path: str | os.PathLike) -> Iterator[tuple[int, str]]:
    """The lines of a text file with their numbers, from 1; UTF-8 with or without byte order mark, or UTF-16 with one.

    Raises:
        ValueError: It is none of these; the message names file, line and remedy.
    """
    encoding = _encoding(Path(path))
    if encoding == "utf-16":
        try:
            with open(path, encoding=encoding, newline="\n") as lines:
                yield from enumerate(lines, start=1)
        except UnicodeError as error:
            raise ValueError(f"{path} is no whole UTF-16 ({error}). Save it as UTF-8.") from error
        return
    with open(path, "rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise ValueError(
                    f"{path}, line {number} is not UTF-8: byte 0x{line[error.start]:02x} at place {error.start}. Save the "
                    "file as UTF-8 (from Windows: iconv -f cp1252 -t utf-8)."
                ) from error
            if "\0" in text:
                raise ValueError(
                    f"{path}, line {number} holds a null character. Save the file as UTF-8, if it is UTF-16; else write "
                    "the line anew."
                )
            yield number, text


def read_text(path: str | os.PathLike) -> str:
    """A text file whole; see `lines_of`."""
    return "".join(line for _, line in lines_of(path))


def read_json(
    path: str | os.PathLike, remedy: str = "Write it anew.", *, hook: Callable[..., Any] | None = None
) -> Any:
    """What a file of JSON holds.

    Args:
        path: Of the file.
        remedy: What an error advises.
        hook: `object_pairs_hook` of `json.loads`, which makes the objects.

    Raises:
        ValueError: It is empty, not JSON, or nested too deeply; the message names file, line and remedy.
    """
    text = read_text(path)
    if not text.strip():
        raise ValueError(f"{path} is not JSON: it is empty. {remedy}")
    return parse_json(text, str(path), remedy, hook)


def parse_json(text: str, name: str, remedy: str, hook: Callable[..., Any] | None = None) -> Any:
    """What a piece of JSON holds.

    Args:
        text: The piece.
        name: What to call it in an error.
        remedy: What the error advises.
        hook: As for `read_json`.

    Raises:
        ValueError: It is not JSON, or nested too deeply for Python to read.
    """
    try:
        return json.loads(text, object_pairs_hook=hook)
    except RecursionError:
        raise ValueError(f"{name} is nested too deeply to be read. {remedy}") from None
    except ValueError as error:  # also a number of thousands of digits
        raise ValueError(f"{name} is not JSON ({error}). {remedy}") from error


def _encoding(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(4)
    return next((encoding for mark, encoding in _MARKS.items() if head.startswith(mark)), "utf-8")
