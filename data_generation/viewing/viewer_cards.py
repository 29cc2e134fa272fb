"""What the viewer's page shows of one row: its pictures, boxes, captions, words, and what became of it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...reports.pictures import DrawnBox, NoPicture, Picture, draw_boxes, embed
from ...rows.schema import images_of

Row = dict[str, Any]
Group = tuple[str, str]  # type and verdict

KEPT = "kept"
ROLES = {"human": "question", "user": "question", "gpt": "answer", "assistant": "answer", "system": "system"}
_BOX = re.compile(r"\[\s*(-?[\d.]+)\s*,\s*(-?[\d.]+)\s*,\s*(-?[\d.]+)\s*,\s*(-?[\d.]+)\s*\]")


@dataclass
class Card:
    """A row as the page shows it.

    Args:
        verdict: "kept", the filter that rejected the row, or how the call to the teacher ended; "" for a context.
        reason: Why it was rejected, in words.
        missing: Why there is no picture.
        turns: (role, text) of the conversation, or of the answer as the teacher wrote it.
    """

    id: str
    type: str
    verdict: str
    reason: str
    pictures: list[Picture]
    missing: str
    boxes: list[DrawnBox]
    captions: list[str]
    turns: list[tuple[str, str]]


def group_of(row: Row) -> Group:
    if "conversations" not in row and "messages" not in row and "text" not in row:
        if "captions" in row:
            return "", ""
        raise ValueError(
            f"row {row.get('id')!r} has none of 'conversations', 'messages', 'text' or 'captions' (it has "
            f"{', '.join(map(repr, row)) or 'nothing'}); give a file of rows or contexts, or the folder of a run."
        )
    verdict = row.get("filter") or row.get("status") or ("rejected" if row.get("reason") else KEPT)
    return str(row.get("type") or ""), str(verdict)


def context_names(row: Row) -> tuple[str, ...]:
    """What the context of a row may be called, the likeliest first: a row's id ends in its type, a journal line's does
    not."""
    row_id = str(row.get("id"))
    return (row_id,) if "status" in row else (row_id.removesuffix(f"-{row.get('type')}"), row_id)


def make_card(row: Row, known: Mapping[str, Row], image_folder: Path) -> Card:
    own = row if "captions" in row or "instances" in row else None
    context = row.get("context") or own or next((known[name] for name in context_names(row) if name in known), {})
    type_, verdict = group_of(row)
    pictures, missing = _pictures(row, context, image_folder)
    turns = _turns(row)
    named = [_BOX.findall(text) for role, text in turns if role == "answer"]
    answer_boxes = [[float(corner) for corner in box] for found in named for box in found if _are_shares(box)]
    return Card(
        id=str(row.get("id", "")),
        type=type_,
        verdict=verdict,
        reason=str(row.get("reason") or ""),
        pictures=pictures,
        missing=missing,
        boxes=draw_boxes(context.get("instances") or [], answer_boxes, pictures[0] if pictures else None),
        captions=[str(caption) for caption in context.get("captions") or []],
        turns=turns,
    )


def _pictures(row: Row, context: Row, image_folder: Path) -> tuple[list[Picture], str]:
    try:
        return [embed(image, image_folder) for image in images_of(row) or images_of(context)], ""
    except NoPicture as error:
        return [], str(error)


def _turns(row: Row) -> list[tuple[str, str]]:
    talk = row.get("conversations") or row.get("messages")
    if talk:
        named = [(turn.get("from", turn.get("role")), turn.get("value", turn.get("content"))) for turn in talk]
        return [(ROLES.get(role, str(role)), _words(content)) for role, content in named]
    asked = [("question", str(row["question"]))] if row.get("question") else []
    return asked + ([("answer", str(row["text"]))] if row.get("text") else [])


def _words(content: Any) -> str:
    if not isinstance(content, list):
        return str(content)
    return "\n".join(str(block.get("text") or f"<{block.get('type')}>") for block in content)


def _are_shares(box: Sequence[str]) -> bool:
    try:
        left, top, right, bottom = map(float, box)
    except ValueError:
        return False
    return 0 <= left < right <= 1 and 0 <= top < bottom <= 1
