"""Writing rows to a file that is never half written."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def write_rows(rows: Iterable[dict[str, Any]], path: str | os.PathLike) -> int:
    """Write rows as one JSON list, beside `path` first and then renamed over it.

    Returns:
        How many rows.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = list(rows)
    beside = path.with_name(f".{path.name}.part")
    try:
        beside.write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    return len(content)
