"""What may become a row: the answers of a run beside their contexts, or rows made elsewhere."""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...endpoints.journal import read_journal
from ...rows.files import Row, read_rows
from ..teachers.run_folder import RunFolder
from .parsing import PLACEHOLDER, Exchange, FormatViolation, check_exchanges, parse_answer

ROLES = {"human": 0, "user": 0, "gpt": 1, "assistant": 1}


@dataclass(frozen=True)
class Candidate:
    """One thing to be kept or rejected.

    Attributes:
        id: Of the row that it may become.
        type: Kind of data; None for a row that states none.
        image: Path of the image, or None.
        source: What was read: fields that a rejected row keeps, so that a person can see what was rejected.
        context: What the teacher was told; None for a row made elsewhere.
        failure: Why there is no answer at all, or None.
    """

    id: str
    type: str | None
    image: str | None
    source: Mapping[str, Any]
    context: Mapping[str, Any] | None = None
    failure: str | None = None

    def exchanges(self) -> list[Exchange]:
        """Questions with their answers.

        Raises:
            FormatViolation: What was read does not have the form of its type.
        """
        if "conversations" in self.source or "messages" in self.source:
            return _row_exchanges(self.source)
        assert self.type is not None
        return parse_answer(self.type, self.source["text"], self.source.get("question"), self.context)


def candidates_of_run(run: RunFolder) -> Iterator[Candidate]:
    """The answers of a run, in the order of its journal.

    Raises:
        ValueError: An answer about a context that the run does not have.
    """
    places = _places(run.contexts)
    with run.contexts.open("rb") as contexts:
        for line in read_journal(run.path):
            place = places.get(line["id"])
            if place is None:
                raise ValueError(
                    f"{run.path}: the journal has an answer about context {line['id']!r}, which {run.contexts.name} "
                    "does not have. Read the answers into the run that they were made for."
                )
            contexts.seek(place)
            context = json.loads(contexts.readline())
            yield Candidate(
                id=f"{line['id']}-{line['type']}",
                type=line["type"],
                image=context.get("image"),
                source={"question": line.get("question"), "text": line.get("text")},
                context=context,
                failure=_failure(line),
            )


def candidates_of_rows(path: str | os.PathLike) -> Iterator[Candidate]:
    """Rows of either format as candidates without a context.

    Raises:
        ValueError: A row without an id or without turns; the message names it.
    """
    for number, row in enumerate(read_rows(path), start=1):
        if row.get("id") is None:
            raise ValueError(f"{path}, row {number} has no 'id', which a rejected row is known by. Give it one.")
        if not row.get("conversations") and not row.get("messages"):
            raise ValueError(f"{path}, row {row['id']!r} has neither 'conversations' nor 'messages'.")
        yield Candidate(id=str(row["id"]), type=row.get("type"), image=row.get("image"), source=row)


def _failure(line: Mapping[str, Any]) -> str | None:
    if line["status"] != "answered":
        return f"{line['status']}: {line.get('reason') or 'no reason was given'}"
    return None


def _row_exchanges(row: Row | Mapping[str, Any]) -> list[Exchange]:
    """A row's turns as exchanges, without the image placeholder; a system message is none of them."""
    turns = row.get("conversations") or row.get("messages") or []
    spoken = [(turn.get("from", turn.get("role")), turn.get("value", turn.get("content"))) for turn in turns]
    texts: list[str] = []
    for role, value in (turn for turn in spoken if turn[0] != "system"):
        if role not in ROLES:
            raise FormatViolation(f"a turn of the role {role!r}; the roles are {tuple(ROLES)}")
        if ROLES[role] != len(texts) % 2:
            raise FormatViolation(f"roles are out of order: turn {len(texts) + 1} is of {role!r}")
        text = _text(value)
        if len(texts) == 0:  # the image stands in the first turn, and may be all there is of it
            text = text.replace(PLACEHOLDER, "", 1).strip() or "Describe the image."
        texts.append(text)
    if len(texts) % 2:
        raise FormatViolation("the last question has no answer")
    exchanges = list(zip(texts[::2], texts[1::2], strict=True))
    check_exchanges(exchanges)
    return exchanges


def _text(value: Any) -> str:
    if isinstance(value, list):  # content parts, as trl has them
        return "\n".join(str(part.get("text") or "") for part in value if part.get("type") == "text")
    return str(value or "")


def _places(path: Path) -> dict[str, int]:
    """Where the line of each context begins, by its id: all that is held in memory of them."""
    places, place = {}, 0
    with path.open("rb") as lines:
        for line in lines:
            if line.strip():
                places[str(json.loads(line)["id"])] = place
            place += len(line)
    return places
