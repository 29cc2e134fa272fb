"""Tables in CSV, read strictly: what breaks the table stops the step, and is not cut or swallowed in silence."""

import csv
import os
from collections.abc import Iterator
from typing import TypeVar

from .text_files import lines_of

Row = TypeVar("Row")
LONGEST_FIELD = 131_072  # characters; what is longer is a quote that was never closed


def next_row(table: Iterator[Row], longest_field: int) -> Row | None:
    """The next row of a reader of the csv module; its limit of a field is the process's, so it is set for this row alone."""
    before = csv.field_size_limit(longest_field)
    try:
        return next(table, None)
    finally:
        csv.field_size_limit(before)


def csv_rows(path: str | os.PathLike) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of a table below its line of column names, each with the line that it starts at.

    Raises:
        ValueError: No line of names, two columns of one name, a row of another number of fields, a quote that is never
            closed, or a field longer than `LONGEST_FIELD`; the message names file, line and remedy.
    """
    table = csv.reader((line for _, line in lines_of(path)), strict=True)
    columns: list[str] = []
    while True:
        number = table.line_num + 1
        try:
            fields = next_row(table, LONGEST_FIELD)
        except csv.Error as error:
            raise ValueError(
                f"{path}: the row from line {number} on breaks the table ({error}). Close each quote that opens a field, "
                'double each quote within one ("6"" phone"), and keep texts that long in a .jsonl file.'
            ) from error
        if fields is None:
            break
        if not fields:
            continue
        if not columns:
            columns = fields
            if twice := [name for name in columns if columns.count(name) > 1]:
                raise ValueError(f"{path}, line {number} names two columns {twice[0]!r}. Give each its own name.")
        elif len(fields) != len(columns):
            raise ValueError(
                f"{path}, line {number} has {len(fields)} fields for {len(columns)} columns: {fields!r:.200}. Put a text "
                "that has commas in quotes."
            )
        else:
            yield number, dict(zip(columns, fields, strict=True))
    if not columns:
        raise ValueError(f"{path} is empty. Its first line must name the columns.")
