"""Fields of official annotation files, read so that what is missing is named."""

import os
from typing import Any

from .bad_rows import BadAnnotation


def field(entry: Any, key: str, path: str | os.PathLike, name: Any) -> Any:
    """`entry[key]`.

    Raises:
        BadAnnotation: The entry is no object or lacks the key; the message names the file and the entry.
    """
    if not isinstance(entry, dict) or key not in entry:
        there = sorted(entry) if isinstance(entry, dict) else f"a {type(entry).__name__}"
        raise BadAnnotation(f"{path}, entry {name!r}: {key!r} is missing ({there}). Correct the entry or drop it.")
    return entry[key]
