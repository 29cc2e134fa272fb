"""What a check of a file of rows against benchmarks found: kept beside the rows, and remembered by what is trained on them.

`train.leaks.json` lies beside `train.jsonl`, is written by `llavakit data check-leaks`, and holds only of the rows that were
checked: a record of other rows is no record.
"""

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .files import file_fingerprint, write_object
from .text_files import read_json

logger = logging.getLogger(__name__)

REMEMBERED = ("benchmark", "fingerprint", "questions", "leaked_questions")


def record_path(rows: str | os.PathLike) -> Path:
    """Where the record of a file of rows lies."""
    return Path(rows).with_suffix(".leaks.json")


def write_leak_record(record: Mapping[str, Any], rows: str | os.PathLike) -> Path:
    """Write a record beside its rows, with their fingerprint."""
    path = record_path(rows)
    write_object({"rows_fingerprint": file_fingerprint(rows), **record}, path)
    return path


def read_leak_record(rows: str | os.PathLike) -> dict[str, Any] | None:
    """The record of a file of rows; None where nobody has checked them.

    Raises:
        ValueError: The record is of other rows than the file has now, or no record.
    """
    path = record_path(rows)
    if not path.is_file():
        return None
    record = read_json(path)
    if not isinstance(record, dict) or "benchmarks" not in record:
        raise ValueError(f"{path} is no record of `llavakit data check-leaks`. Check the rows again, or move it.")
    if record.get("rows_fingerprint") != file_fingerprint(rows):
        raise ValueError(f"{path} is of other rows than {rows} has now. Run `llavakit data check-leaks` again.")
    return record


def remembered_leaks(dataset: str | os.PathLike | None) -> list[dict[str, Any]] | None:
    """What a training remembers of the check of its data, a line a benchmark; None where there is none that holds.

    Args:
        dataset: What the training was given: only a file of rows has a record.
    """
    if dataset is None or not Path(dataset).is_file():
        return None
    try:
        record = read_leak_record(dataset)
    except ValueError as error:
        logger.warning("%s The training does not count as checked.", error)
        return None
    if record is None:
        return None
    return [{name: line[name] for name in REMEMBERED} for line in record["benchmarks"]]


def leaks_in_words(benchmarks: Sequence[Mapping[str, Any]]) -> str:
    """How many questions of each benchmark leaked, in a line."""
    lines = (f"{line['leaked_questions']:,} of {line['questions']:,} of {line['benchmark']}" for line in benchmarks)
    return f"questions of benchmarks found in it: {'; '.join(lines)}"
