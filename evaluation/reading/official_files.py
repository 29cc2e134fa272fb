"""Reading a benchmark's official files when several are named: each is known by what it holds, not by its name."""

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...rows.files import read_rows, replacing
from .answers import files_of, json_content, json_rows

SUFFIXES = (".json", ".jsonl", ".parquet")


def official_contents(
    paths: Sequence[Path], kinds: Mapping[str, Callable[[Any], bool]], suffixes: Sequence[str] = SUFFIXES
) -> dict[str, list[tuple[Path, Any]]]:
    """The contents of official files, sorted by kind.

    Args:
        paths: Files or folders.
        kinds: Name of a kind, and whether some content is of it. JSON lines and parquet are lists of objects here.
        suffixes: Of the files to take from a folder.

    Returns:
        For each kind its files with their contents; a kind without files has none.

    Raises:
        ValueError: A file is of no kind.
        OSError: A file cannot be read.
    """
    found: dict[str, list[tuple[Path, Any]]] = {kind: [] for kind in kinds}
    for path in files_of(paths, suffixes):
        content = _content(path)
        kind = next((kind for kind, fits in kinds.items() if fits(content)), None)
        if kind is None:
            raise ValueError(f"{path} is none of: {'; '.join(kinds)}. Name the official files.")
        found[kind].append((path, content))
    return found


def _content(path: Path) -> Any:
    if path.suffix == ".parquet":
        return list(read_rows(path))
    if path.suffix == ".json":
        with contextlib.suppress(ValueError):  # lines under another name
            return json_content(path)
    return list(json_rows(path))


def has_keys(content: Any, *keys: str) -> bool:
    """Whether content is an object with these keys, or a list whose first element is one."""
    if isinstance(content, list):
        content = content[0] if content else None
    return isinstance(content, dict) and all(key in content for key in keys)


def write_json(content: Any, path: Path) -> None:
    """Write a submission beside `path` first, then rename over it."""
    with replacing(path) as partial:
        partial.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
