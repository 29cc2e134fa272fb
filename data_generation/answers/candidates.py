"""What may become a row: the answers of a run beside their contexts, or rows made elsewhere."""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...endpoints.journal import read_journal
from ...rows.files import read_rows
from ...rows.schema import BadRow, normalize_row
from ..teachers.run_folder import RunFolder
from .forms import Exchange, FormatViolation, check_exchanges
from .parsing import parse_answer

IMAGE_ALONE = "Describe the image."  # what a turn without words asks


@dataclass(frozen=True)
class Candidate:
    """One thing to be kept or rejected.

    Attributes:
        id: Of the row that it may become.
        type: Kind of data; None for a row that states none.
        image: Path of the image, or of the images; None for a row of text.
        source: What was read: fields that a rejected row keeps, so that a person can see what was rejected.
        context: What the teacher was told; None for a row made elsewhere.
        failure: Why there is no answer at all, or None.
    """

    id: str
    type: str | None
    image: str | list[Any] | None
    source: Mapping[str, Any]
    context: Mapping[str, Any] | None = None
    failure: str | None = None

    def exchanges(self) -> list[Exchange]:
        """Questions with their answers.

        Raises:
            FormatViolation: What was read does not have the form of its type.
        """
        if "conversations" in self.source or "messages" in self.source:
            return row_exchanges(self.source)
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
        yield Candidate(id=str(row["id"]), type=row.get("type"), image=row.get("image", row.get("images")), source=row)


def _failure(line: Mapping[str, Any]) -> str | None:
    if line["status"] != "answered":
        return f"{line['status']}: {line.get('reason') or 'no reason was given'}"
    return None


def row_exchanges(row: Mapping[str, Any]) -> list[Exchange]:
    """A row's questions with their answers, read as training reads them; images and a system message are none of them.

    Raises:
        FormatViolation: The row cannot be trained on, or an answer is cut off or holds what belongs to a format.
    """
    try:
        messages = [message for message in normalize_row(row)["messages"] if message["role"] != "system"]
    except BadRow as error:
        raise FormatViolation(str(error)) from error
    texts = [
        "\n".join(block["text"] for block in message["content"] if block["type"] == "text") for message in messages
    ]
    pairs = zip(texts[::2], texts[1::2], strict=True)
    # A turn may be an image alone
    exchanges = [(question.strip() or IMAGE_ALONE, answer) for question, answer in pairs]
    check_exchanges(exchanges)
    return exchanges


def _places(path: Path) -> dict[str, int]:
    """Where the line of each context begins, by its id: all that is held in memory of them."""
    places, place = {}, 0
    with path.open("rb") as lines:
        for line in lines:
            if line.strip():
                places[str(json.loads(line)["id"])] = place
            place += len(line)
    return places
