"""Reading and writing rows: JSON lists, JSON lines and parquet, by the file's suffix; never a half-written file."""

import contextlib
import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

Row = dict[str, Any]

SUFFIXES = (".json", ".jsonl", ".parquet")
PARQUET_ROWS = 1000  # rows a group: what is held in memory at once


def read_rows(path: str | os.PathLike) -> Iterator[Row]:
    """Read rows one by one; JSON lines and parquet are never held whole in memory.

    Yields:
        The rows as dicts, in the file's order. An empty line of a `.jsonl` is no row.

    Raises:
        ValueError: An unknown suffix, or a line or element that is no JSON object; the message names it.
        OSError: The file cannot be read.
    """
    path = Path(path)
    match check_suffix(path):
        case ".jsonl":
            yield from _json_lines(path)
        case ".json":
            yield from _json_list(path)
        case ".parquet":
            import pyarrow.parquet as pq

            with pq.ParquetFile(path) as file:
                for group in file.iter_batches(PARQUET_ROWS):
                    yield from group.to_pylist()


def _json_lines(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(
                    f"{path}, line {number}: not JSON ({error}). Correct the line or delete it."
                ) from error
            yield _object(row, f"{path}, line {number}")


def _json_list(path: Path) -> Iterator[Row]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON ({error}).") from error
    if not isinstance(rows, list):
        raise ValueError(f"{path} holds a JSON {type(rows).__name__}; it must be a list of objects.")
    for number, row in enumerate(rows):
        yield _object(row, f"{path}, element {number}")


def _object(row: Any, name: str) -> Row:
    if not isinstance(row, dict):
        raise ValueError(f"{name}: a JSON {type(row).__name__} where an object is expected.")
    return row


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
    with replacing(path) as beside:
        return write(rows, beside)


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """A path beside `path` to write to; renamed over `path` at the end, or removed when the body fails."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.part")
    try:
        yield beside
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def _write_json(rows: Iterable[Mapping[str, Any]], path: Path) -> int:
    content = list(rows)
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")
    return len(content)


def _write_lines(rows: Iterable[Mapping[str, Any]], path: Path) -> int:
    count = 0
    with path.open("w", encoding="utf-8") as lines:
        for row in rows:
            lines.write(json.dumps(row, ensure_ascii=False) + "\n")
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

    rows = _json_lines(path)
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
