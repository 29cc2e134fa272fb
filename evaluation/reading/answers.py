"""Answers from files: our predictions, LLaVA's JSON lines, and the plain JSON forms of the benchmarks.

Our predictions, a line each::

    {"id": "17", "text": "Yes", "finish_reason": "stop"}
    {"id": "18", "error": "the image 'a.jpg' is damaged"}

LLaVA's `model_vqa*.py` writes `{"question_id": 17, "prompt": "...", "text": "Yes", ...}`.
"""

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...endpoints.reasoning import split_reasoning
from ...rows.text_files import parse_json, read_json, read_text


@dataclass(frozen=True)
class Reviewed:
    """What a file has of an answer that a judge has looked at; a task's own kind adds what the judge said.

    Args:
        text: As the report shows it: the answer, or the judge's words on it.
    """

    text: str


# By example id: a text; what a task's own reader makes of a review, a `Reviewed`; or None, the generation failed
Answers = dict[str, Any]


def plain_text(answer: Any) -> str | None:
    """The text of an entry of `Answers`."""
    return answer.text if isinstance(answer, Reviewed) else answer


SHOWN = 5  # ids that an error lists


def read_answers(
    paths: Sequence[Path], answer_id: Callable[[Mapping[str, Any]], str], text_fields: Sequence[str]
) -> Answers:
    """Answers by example id.

    Args:
        paths: Files (`.jsonl`, or `.json`: a list of rows or an object of id -> text), or folders of such.
        answer_id: Gives the id of the example that a row answers.
        text_fields: Where a row has the answer, the first that is there.

    Raises:
        ValueError: A row without id or text, or two answers to one example. A line of an answer that follows lines
            of failures of the same example is no duplicate: it was asked again.
    """

    def read(row: Mapping[str, Any]) -> tuple[str, str | None]:
        return answer_id(row), None if row.get("error") else answer_text(row, text_fields)

    return collect_answers(paths, lambda path: answer_rows(path, text_fields), read)


def collect_answers(
    paths: Sequence[Path],
    rows_of: Callable[[Path], Iterable[Mapping[str, Any]]],
    read: Callable[[Mapping[str, Any]], tuple[str, Any]],
) -> Answers:
    """Answers by example id, of rows that each have their own.

    Args:
        paths: Files (`.jsonl` or `.json`), or folders of such.
        rows_of: The rows of a file.
        read: The id of the example that a row answers, and the answer; None for a failure.

    Raises:
        ValueError: As for `read_answers`; the message names the file and the row.
    """
    answers: Answers = {}
    duplicates: list[str] = []
    for path in files_of(paths, (".jsonl", ".json")):
        for number, row in enumerate(rows_of(path), start=1):
            try:
                key, answer = read(row)
            except ValueError as error:
                raise ValueError(f"{path}, answer {number}: {error}") from error
            if answers.get(key) is not None:
                duplicates.append(key)
            answers[key] = answer
    refuse_duplicates(duplicates)
    return answers


def answer_rows(path: Path, text_fields: Sequence[str]) -> list[Mapping[str, Any]]:
    """The rows of a file; a `.json` that is a single object of id -> text is turned into rows.

    Args:
        path: The file.
        text_fields: What marks an object as a row rather than as texts by id.

    Raises:
        ValueError: The file is of another form.
    """
    rows = list(json_rows(path))
    if path.suffix != ".json" or len(rows) != 1 or {"question_id", "id", *text_fields} & set(rows[0]):
        return rows
    if not all(map(_is_text, rows[0].values())):
        return rows
    return [{"id": key, text_fields[0]: text} for key, text in rows[0].items()]


def json_rows(path: Path) -> Iterator[Mapping[str, Any]]:
    """The objects of a JSON list, of JSON lines, or the single object of a file. Official files are not always called
    by what they are, so the content decides.

    Raises:
        ValueError: The file is none of these; the message names the line or element.
    """
    text = read_text(path)
    if text.lstrip().startswith("["):
        rows = list(enumerate(json_content(path), start=1))
    else:
        try:
            rows = [(1, json.loads(text))]
        except (ValueError, RecursionError):  # more than one object, or broken: the line will say
            rows = list(_lines(text, path))
    for number, row in rows:
        if not isinstance(row, dict):
            raise ValueError(f"{path}, row {number}: a JSON {type(row).__name__} where an object is expected.")
        yield row


def _lines(text: str, path: Path) -> Iterator[tuple[int, Any]]:
    # Not splitlines: that also cuts at characters that JSON leaves as they are inside a string
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, parse_json(line, f"{path}, line {number}", "Correct the line or delete it.")


def _is_text(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float)


def json_content(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        ValueError: It is not JSON.
    """
    return read_json(path, "Is the file complete? Write or download it again.")


def files_of(paths: Sequence[Path], suffixes: Sequence[str]) -> list[Path]:
    """Files as named, and for folders the files of these suffixes in them, by name.

    Raises:
        ValueError: A folder without any.
        FileNotFoundError: A path that is not there.
    """
    files: list[Path] = []
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist.")
        if path.is_dir():
            found = sorted(file for file in path.iterdir() if file.suffix in suffixes)
            if not found:
                raise ValueError(f"the folder {path} holds no file that ends in {' or '.join(suffixes)}.")
            files += found
        else:
            files.append(path)
    return files


def first_field(row: Mapping[str, Any], names: Sequence[str]) -> str:
    """The first of these fields that a row has, as text.

    Raises:
        ValueError: It has none.
    """
    for name in names:
        if row.get(name) is not None:
            return str(row[name])
    raise ValueError(f"a row needs one of the fields {list(names)}; it has {sorted(row)}.")


def answer_text(row: Mapping[str, Any], text_fields: Sequence[str]) -> str | None:
    """The answer in a row, without the model's reasoning; None where the row holds nothing but reasoning.

    Raises:
        ValueError: The row has no answer.
    """
    reasoning, answer = split_reasoning(first_field(row, text_fields))
    return None if reasoning and not answer else answer


def first_id(row: Mapping[str, Any], names: Sequence[str]) -> str:
    """The first of these fields that a row has, as an id; errors as for `first_field`."""
    first_field(row, names)
    return id_text(next(row[name] for name in names if row.get(name) is not None))


def id_text(value: Any) -> str:
    """An id as text. A whole number may have become 7.0 on its way through a table with gaps, and is 7."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def whole_number(value: Any) -> int:
    """A number that a file has as one or as text.

    Raises:
        ValueError: It is none.
    """
    if isinstance(value, str | int) and not isinstance(value, bool):
        with contextlib.suppress(ValueError):
            return int(value)
    with contextlib.suppress(ValueError, TypeError):
        if float(value).is_integer():  # "7.0", of a table that had a gap in the column
            return int(float(value))
    raise ValueError(f"{value!r}, which is no whole number.")


def yes_or_no(value: Any, name: str) -> bool:
    """Whether a label says yes; "Yes" and "yes" are one label.

    Args:
        value: As the file has it.
        name: Of the file and the question, for the error.

    Raises:
        ValueError: It is neither yes nor no.
    """
    said = value.strip().lower() if isinstance(value, str) else value
    if said not in ("yes", "no"):
        raise ValueError(f"{name}: the label is {value!r}; it must be yes or no. Correct it, or drop the question.")
    return said == "yes"


def refuse_duplicates(duplicates: Sequence[str]) -> None:
    """Raise for ids that were answered more than once.

    Raises:
        ValueError: There are any; the message names them.
    """
    if duplicates:
        raise ValueError(
            f"{len(duplicates):,} example(s) have more than one answer: {some(duplicates)}. Leave one for each."
        )


def some(ids: Sequence[str]) -> str:
    """A few ids for a message."""
    listed = ", ".join(repr(key) for key in ids[:SHOWN])
    return f"{listed}, ..." if len(ids) > SHOWN else listed
