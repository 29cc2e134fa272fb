"""The kinds of data, and what a teacher is asked for each, from files that a user can edit.

To add a kind, write its folder of prompts beside this file, and one entry here.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..answers.forms import Exchange, parse_conversation, parse_description, parse_exchange, parse_grounded


@dataclass(frozen=True)
class DataType:
    """A kind of data. What a teacher is told and asked stands in the folder of its name.

    Args:
        parse: Reads an answer: its text, the question that was drawn (or ""), and the context if it is known.
        lengths: Fewest words of all answers of a sample together, most words of any one. A turn of a conversation may be
            a single word ("Two."); a description may not. The upper bounds are some three times what the prompts ask for.
        specific_words: So many words of an answer must not fit any picture.
        group: Its share of the default mix.
        draws_question: The question is drawn from `questions.txt`; else the teacher writes all of them.
        writes_questions: The teacher writes questions, all or some.
        sees_picture: The teacher was shown the picture, so that annotations are no measure of what it says.
        infers: Answers go beyond what is to be seen.
        by_default: It is asked for where nobody names types: the paper's three.
    """

    parse: Callable[[str, str, Mapping[str, Any] | None], list[Exchange]]
    lengths: tuple[int, int]
    specific_words: int
    group: str = "conversation"
    draws_question: bool = False
    writes_questions: bool = False
    sees_picture: bool = False
    infers: bool = False
    by_default: bool = False


DATA_TYPES: dict[str, DataType] = {
    "conversation": DataType(
        parse_conversation, lengths=(3, 200), specific_words=1, writes_questions=True, by_default=True
    ),
    "detail": DataType(parse_description, lengths=(10, 400), specific_words=3, draws_question=True, by_default=True),
    "reasoning": DataType(
        parse_exchange,
        lengths=(8, 400),
        specific_words=3,
        group="reasoning",
        writes_questions=True,
        infers=True,
        by_default=True,
    ),
    # A teacher that sees the picture (ShareGPT4V)
    "vision_detail": DataType(
        parse_description, lengths=(20, 600), specific_words=4, draws_question=True, sees_picture=True
    ),
    # Answers whose claims are checked (ALLaVA)
    "structured": DataType(
        parse_grounded, lengths=(10, 600), specific_words=3, draws_question=True, writes_questions=True
    ),
}
# Asked for by default
TYPES = tuple(name for name, data_type in DATA_TYPES.items() if data_type.by_default)
