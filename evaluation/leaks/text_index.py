"""Texts of a benchmark, found again in a training set, also in other words.

A word that n of N texts have tells ln(N / n) (K. Sparck Jones, "A statistical interpretation of term specificity", 1972).
Two texts are alike as far as the names in each, weighed by what they tell, are among the words of the other.

Alike is no leak yet: "What is in the picture?" is asked everywhere. Were words drawn by themselves, a text would have all the
words that two texts share with probability exp(-sum ln(N / n)), so that among N texts and M of a benchmark one pair shares by
chance words that tell ln(N M). Words are not drawn by themselves, so that a text is a leak only where

- what it shares tells that much,
- and the names of both agree, or all but a few do and those that agree tell more than chance,
- and it is not asked everywhere, word for word;

or where it is alike and its picture is found too.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from math import log
from zlib import crc32

import numpy as np

from .text_words import Words, are_one, words_of

ALIKE = 0.8  # least share of the names, on either side
ALIKE_IN_PART, TELLING = 0.5, 1.2  # ... where the shared names tell so many times what chance would
EVERYWHERE = 0.001  # share of all texts above which a text that comes again says nothing
LIKELY = 0.4  # share of a text's names that must be there word for word before it is compared
BUCKETS = 1 << 20  # of hashes; 4 MB a table


@dataclass(frozen=True)
class TextMatch:
    """A text of the index that was found.

    Attributes:
        number: Of the text.
        kind: "exact" for the same words, "near" for the same in other words.
        score: How alike, up to 1.
        tells: Whether it is a leak without its picture too.
    """

    number: int
    kind: str
    score: float
    tells: bool


class TextIndex:
    """Texts to be found again. Each takes some kilobytes, and the tables of counts ten megabytes.

    Args:
        texts: Different ones, numbered by their order.
        others: What they are looked for in. It is read once, for how many texts have each word.
    """

    def __init__(self, texts: Sequence[str], others: Iterable[str]) -> None:
        counts, whole = (np.zeros(BUCKETS, dtype=np.uint32) for _ in range(2))
        self._texts, number = [words_of(text) for text in texts], 0
        for number, words in enumerate(chain(self._texts, map(words_of, others)), start=1):  # noqa: B007
            counts[list({_bucket(word) for word in words.all})] += 1
            whole[_bucket_of_all(words)] += 1
        self._tells = np.log(max(number, 1) / np.maximum(counts, 1)).astype(np.float32)
        self._chance = log(max(number * len(texts), 1))
        often = max(EVERYWHERE * number, 2)
        self._everywhere = [bool(whole[_bucket_of_all(words)] > often) for words in self._texts]
        self._names = [self._told(words.names) for words in self._texts]
        self._with: dict[str, list[int]] = {}
        for place, words in enumerate(self._texts):
            for name in words.names if not self._everywhere[place] else ():
                self._with.setdefault(name, []).append(place)

    def find(self, text: str, pictured: Iterable[int] = ()) -> list[TextMatch]:
        """The texts that a text gives away.

        Args:
            text: Of the training set.
            pictured: Numbers of texts that are asked of a picture that was found beside it.
        """
        words, pictured = words_of(text), set(pictured)
        told: dict[int, float] = {}
        for word in words.all:
            for number in self._with.get(word, ()):
                told[number] = told.get(number, 0.0) + self._tell(word)
        likely = {number for number, value in told.items() if value >= LIKELY * self._names[number]}
        found = [self._match(number, words, number in pictured) for number in sorted(likely | pictured)]
        return [match for match in found if match is not None]

    def _match(self, number: int, words: Words, is_pictured: bool) -> TextMatch | None:
        mine = self._texts[number]
        agreeing = self._told(name for name in mine.names if _among(name, words.all))
        theirs = self._told(name for name in words.names if _among(name, mine.all))
        score = min(agreeing / max(self._names[number], 1e-9), theirs / max(self._told(words.names), 1e-9))
        tells = not self._everywhere[number] and self._told(mine.all & words.all) >= self._chance
        alike = score >= ALIKE or (tells and score >= ALIKE_IN_PART and agreeing >= TELLING * self._chance)
        if not alike or not (tells or is_pictured):
            return None
        return TextMatch(number, "exact" if mine.all == words.all else "near", round(float(score), 3), tells)

    def _told(self, words: Iterable[str]) -> float:
        return sum(map(self._tell, words))

    def _tell(self, word: str) -> float:
        return float(self._tells[_bucket(word)])


def _among(name: str, words: frozenset[str]) -> bool:
    return name in words or any(are_one(name, word) for word in words)


def _bucket(word: str) -> int:
    return crc32(word.encode("utf-8", "replace")) % BUCKETS


def _bucket_of_all(words: Words) -> int:
    return _bucket(" ".join(sorted(words.all)))
