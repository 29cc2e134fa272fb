"""The words of a text, and those of them that name what it is about: what stays when a question is put in other words."""

import os
import re
from dataclasses import dataclass
from functools import lru_cache

from ...data_generation.languages import has_spaced_words, is_english, shingles, tokens
from ...data_generation.mixing.phrases import rule_phrases

# Endings that words lose before they are compared, where enough of the word is left
_ENDING = re.compile(r"(?<=\w\w\w)(?:ing|ed|es|s)$")
_POSSESSIVE = re.compile(r"['’]s\b")
SHORTEST_STEM, SHARE_OF_STEM = 4, 0.6  # of two words that are one

# What questions are framed by, and verbs whose forms do not show that they are verbs: they name nothing
FRAME = frozenset(
    """number count name reason colour color kind sort type make brand thing object item place spot word text title picture
    image photo photograph drawing figure scene view shape size part piece purpose cause answer question describe state find
    list tell way lot time use point
    large larger largest big bigger biggest small smaller smallest high higher highest tall tallest long old new right left
    lower upper
    be begin began begun become became bear bore borne bring brought build built catch caught choose chose chosen come draw
    drew drawn fall fell fallen feel felt found find give gave given get got gotten grow grew grown hang hung hide hid hidden
    hold held keep kept know knew known lay laid lie lain lead led leave lose lost made mean meant put read ride rode ridden
    say said see saw seen send sent set show shown sit sat stand stood stick stuck take took taken told think thought throw
    thrown tie turn wear wore worn write wrote written""".split()
)


@dataclass(frozen=True)
class Words:
    """A text as it is compared.

    Attributes:
        all: Its different words, without their endings. Where words are not parted by blanks, runs of characters.
        names: Those that name what it is about; all of them where none does, or where the text is not English.
    """

    all: frozenset[str]
    names: frozenset[str]


@lru_cache(maxsize=1 << 15)
def words_of(text: str) -> Words:
    """The words of a text; case, punctuation and endings do not count."""
    text = _POSSESSIVE.sub("", text)
    if not has_spaced_words(text):
        pieces = frozenset(shingles(text)) or frozenset(tokens(text))
        return Words(pieces, pieces)
    every = frozenset(map(_stem, tokens(text)))
    named = {_stem(word) for phrase in rule_phrases(text) for word in tokens(phrase) if len(word) > 1} - _FRAME
    return Words(every, frozenset(named) if named and is_english(text) else every)


def are_one(word: str, other: str) -> bool:
    """Whether two words without endings are forms or parts of each other, as violin and violinist, boat and rowboat."""
    if word == other:
        return True
    short, long = sorted((word, other), key=len)
    if len(short) < SHORTEST_STEM:
        return False
    common = len(os.path.commonprefix([short, long]))
    return short in long or (common >= SHORTEST_STEM and common >= SHARE_OF_STEM * len(long))


def _stem(word: str) -> str:
    return _ENDING.sub("", word)


_FRAME = frozenset(map(_stem, FRAME))
