"""ShareGPT's conversations, text only: what is malformed is dropped, what is long is split or cut."""

import logging
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ...rows.files import read_rows
from ...rows.schema import Row, make_row
from ..ids import UniqueIds
from ..option_flags import option
from .academic_rows import Exchange, without_placeholders

logger = logging.getLogger(__name__)

ROLES = {"human": "human", "user": "human", "gpt": "gpt", "chatgpt": "gpt", "assistant": "gpt"}
LONG = ("split", "cut")


@dataclass
class ShareGPTRows:
    """Rows of a ShareGPT file. How many conversations were dropped, and why, is logged at the end.

    Yields:
        `{"id", "type": "sharegpt", "image": None, "conversations"}`.

    Raises:
        ValueError: An unknown `long`, `max_characters` below 1, or a file that is no list of objects.
    """

    conversations: str | os.PathLike = option(
        'the JSON list of `{"id", "conversations": [{"from": "human"|"gpt", "value"}]}`',
    )
    max_characters: int = option("longest row; four characters are about a token of English", 8000)
    long: str = option(
        '"split" makes several rows of a longer conversation, between exchanges (Vicuna); "cut" keeps its '
        "first exchanges (LLaVA-1.5, arXiv:2310.03744, appendix A). An exchange too long by itself is dropped",
        "split",
    )

    def __iter__(self) -> Iterator[Row]:
        if self.long not in LONG:
            raise ValueError(f"long={self.long!r} is unknown; choose one of {LONG}.")
        if self.max_characters < 1:
            raise ValueError(f"max_characters={self.max_characters} must be at least 1.")
        return _rows(self.conversations, self.max_characters, self.long)


def _rows(conversations: str | os.PathLike, max_characters: int, long: str) -> Iterator[Row]:
    dropped: Counter[str] = Counter()
    ids = UniqueIds()
    for number, entry in enumerate(read_rows(conversations)):
        try:
            exchanges = _exchanges(entry.get("conversations"))
        except _Malformed as error:
            dropped[str(error)] += 1
            continue
        parts = _parts(exchanges, max_characters)
        if not parts:
            dropped["every exchange too long"] += 1
        for part, some in enumerate(parts if long == "split" else parts[:1]):
            name = f"sharegpt-{entry.get('id', number)}" + (f"-{part}" if part else "")
            yield make_row(ids.take(name), None, without_placeholders(some), type="sharegpt")
    for reason, count in dropped.most_common():
        logger.warning("%d conversation(s) dropped: %s", count, reason)


class _Malformed(Exception):
    """Why a conversation is dropped."""


def _exchanges(conversation: Any) -> list[Exchange]:
    if not isinstance(conversation, list) or not all(isinstance(turn, dict) for turn in conversation):
        raise _Malformed("no list of turns")
    speakers: list[str] = []
    texts: list[str] = []
    for turn in conversation:
        speaker, text = ROLES.get(turn.get("from", "")), turn.get("value")
        if speaker is None:
            raise _Malformed("an unknown role")
        if not isinstance(text, str) or not text.strip():
            raise _Malformed("an empty turn")
        if speakers or speaker == "human":  # a page may have been saved from an answer on: nothing precedes that one
            speakers.append(speaker)
            texts.append(text)
    if any(one == other for one, other in zip(speakers, speakers[1:], strict=False)):
        raise _Malformed("two turns of one speaker in a row")
    exchanges = list(zip(texts[::2], texts[1::2], strict=False))  # a last question without an answer falls away
    if not exchanges:
        raise _Malformed("no question with an answer")
    return exchanges


def _parts(exchanges: list[Exchange], max_characters: int) -> list[list[Exchange]]:
    """Runs of consecutive exchanges, each as long as fits."""
    parts: list[list[Exchange]] = [[]]
    length = 0
    for exchange in exchanges:
        size = sum(map(len, exchange))
        if length + size > max_characters:
            parts.append([])
            length = 0
        if size <= max_characters:
            parts[-1].append(exchange)
            length += size
    return [part for part in parts if part]
