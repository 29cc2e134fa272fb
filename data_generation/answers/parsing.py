"""A teacher's answer to questions and answers, by its type."""

from collections.abc import Mapping
from typing import Any

from ...rows.registry import look_up
from ..prompts import DATA_TYPES
from .forms import Exchange, FormatViolation, check_exchanges


def parse_answer(
    type: str, text: str, question: str | None = None, context: Mapping[str, Any] | None = None
) -> list[Exchange]:
    """Read a teacher's answer.

    Args:
        type: A key of `DATA_TYPES`.
        text: What the teacher wrote.
        question: The question that was drawn for the answer; needed where the answer is a description.
        context: The annotation that the claims of a structured answer are checked against.

    Returns:
        Questions with their answers, in order; exactly one for types other than conversation.

    Raises:
        FormatViolation: Roles are missing, unknown or out of order, a turn is empty or cut off, `===` or a role's name is
            left inside a turn, there are more exchanges than the type has, or a structured answer's claims do not hold.
        ValueError: An unknown `type`, or a description without its question.
    """
    data_type = look_up(DATA_TYPES, type, "type")
    if not text.strip():
        raise FormatViolation("the answer is empty")
    if data_type.draws_question and not question:
        raise ValueError(f"type {type!r} needs the question that was drawn for the answer; the journal keeps it.")
    exchanges = data_type.parse(text, question or "", context)
    check_exchanges(exchanges)
    return exchanges
