"""Reading and writing rows: JSON lists, JSON lines, parquet, and tables in CSV, by the file's suffix; never a half-written
file."""

import contextlib
import hashlib
import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from .csv_files import csv_rows
from .text_files import lines_of, parse_json, read_json

Row = dict[str, Any]

SUFFIXES = (".json", ".jsonl", ".parquet")
PARQUET_ROWS = 1000  # rows a group: what is held in memory at once


def read_rows(path: str | os.PathLike) -> Iterator[Row]:
    """Read rows one by one; JSON lines and parquet are never held whole in memory.

    Yields:
        The rows as dicts, in the file's order. An empty line of a `.jsonl` is no row.

    Raises:
        ValueError: An unknown suffix, a damaged file, or a line or element that is no JSON object; the message names
            file, line and remedy.
        OSError: The file cannot be read.
    """
    for name, row in named_values(path):
        if not isinstance(row, dict):
            raise ValueError(f"{name}: a JSON {type(row).__name__} where an object is expected.")
        yield row


def read_table(path: str | os.PathLike) -> Iterator[tuple[str, Row]]:
    """As `read_rows`, of CSV files too (where every value is text), each row with a name for it.

    Raises:
        ValueError: As `read_rows`, or a table that is broken; see `csv_rows`.
    """
    path = Path(path)
    if path.suffix == ".csv":
        yield from ((f"{path}, line {number}", row) for number, row in csv_rows(path))
    elif path.suffix in SUFFIXES:
        yield from ((f"{path}, row {number}", row) for number, row in enumerate(read_rows(path), start=1))
    else:
        raise ValueError(f"{str(path)!r} ends in {path.suffix!r}; it must end in one of {('.csv', *SUFFIXES)}.")


def named_values(path: str | os.PathLike) -> Iterator[tuple[str, Any]]:
    """Whatever stands where a file of rows has rows, each with a name for it.

    Raises:
        ValueError: An unknown suffix or a damaged file; the message names file, line and remedy.
    """
    path = Path(path)
    match check_suffix(path):
        case ".jsonl":
            yield from _json_lines(path)
        case ".json":
            rows = read_json(path, "Complete it; one object a line is a .jsonl file.")
            if not isinstance(rows, list):
                raise ValueError(f"{path} holds a JSON {type(rows).__name__}; it must be a list of rows (objects).")
            yield from ((f"{path}, element {number}", row) for number, row in enumerate(rows))
        case ".parquet":
            yield from ((f"{path}, row {number}", row) for number, row in enumerate(_parquet(path)))


def _json_lines(path: Path) -> Iterator[tuple[str, Any]]:
    for number, line in lines_of(path):
        if line.strip():
            name = f"{path}, line {number}"
            yield name, parse_json(line, name, "Correct the line or delete it.")


def _parquet(path: Path) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            for group in file.iter_batches(PARQUET_ROWS):
                yield from group.to_pylist()
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{path} is no whole parquet file ({reason}). Write or download it anew.") from error


def write_rows(rows: Iterable[Mapping[str, Any]], path: str | os.PathLike) -> int:
    """Write rows beside `path` first, then rename over it. JSON lines and parquet are written as the rows come.

    Returns:
        How many rows.

    Raises:
        ValueError: An unknown suffix.
    """
    path = Path(path)
    writers: dict[str, Callable[[Iterable[Mapping[str, Any]], Path], int]] = {
        ".json": _write_json,
        ".jsonl": _write_lines,
        ".parquet": _write_parquet,
    }
    write = writers[check_suffix(path)]
    with replacing(path) as partial:
        return write(rows, partial)


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """A path beside `path` to write to; renamed over `path` at the end, or removed when the body fails."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.part")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_object(content: Mapping[str, Any], path: str | os.PathLike) -> None:
    """Write a JSON object as people read it: a report, settings, a record."""
    with replacing(path) as partial:
        partial.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def file_fingerprint(path: str | os.PathLike) -> str:
    """What a file is known by, whatever it is called: the first half of its SHA-256."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:32]


def _write_json(rows: Iterable[Mapping[str, Any]], path: Path) -> int:
    texts = [_text(row, f"row {number}") for number, row in enumerate(rows)]
    path.write_text("[\n" + ",\n".join(texts) + "\n]\n", encoding="utf-8")
    return len(texts)


def _text(row: Mapping[str, Any], name: str) -> str:
    """A row as JSON.

    Raises:
        ValueError: It holds half a character, which no text file can.
    """
    text = json.dumps(row, ensure_ascii=False)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{name} (id {row.get('id')!r}) holds {text[error.start]!r}, half of a character. Write its text anew, or drop "
            "the row."
        ) from error
    return text


def _write_lines(rows: Iterable[Mapping[str, Any]], path: Path) -> int:
    count = 0
    with path.open("w", encoding="utf-8") as lines:
        for row in rows:
            lines.write(_text(row, f"row {count}") + "\n")
            count += 1
    return count


def _write_parquet(rows: Iterable[Mapping[str, Any]], path: Path) -> int:
    """Rows need not agree on their columns: what one lacks is null. Hence two passes over a copy on disk."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    copy = path.with_name(f"{path.name}.jsonl")
    try:
        count = _write_lines(rows, copy)
        schema = pa.schema([])
        for group in _groups(copy):
            schema = pa.unify_schemas([schema, group.schema], promote_options="permissive")
        with pq.ParquetWriter(path, schema) as file:
            for group in _groups(copy):
                file.write_table(pa.Table.from_pylist(group.to_pylist(), schema=schema))
    finally:
        copy.unlink(missing_ok=True)
    return count


def _groups(path: Path) -> Iterator[Any]:
    import pyarrow as pa

    rows = (row for _, row in _json_lines(path))
    while group := list(itertools.islice(rows, PARQUET_ROWS)):
        columns = list(dict.fromkeys(name for row in group for name in row))
        yield pa.table({name: [row.get(name) for row in group] for name in columns})


def check_suffix(path: str | os.PathLike) -> str:
    """The suffix of a file of rows.

    Raises:
        ValueError: It is none of `SUFFIXES`.
    """
    suffix = Path(path).suffix
    if suffix not in SUFFIXES:
        raise ValueError(f"{str(path)!r} ends in {suffix!r}; it must end in one of {SUFFIXES}.")
    return suffix
