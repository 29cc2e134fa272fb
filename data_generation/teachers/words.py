"""English for sentences made by rule: articles, numbers, lists."""

import re
from collections.abc import Sequence

from ...rows import answer_formats
from ..plurals import plural

NUMBER_WORDS = ("no", *answer_formats.NUMBER_WORDS[1:])  # as they stand before a noun
# What is not counted, so that it takes no "a"
MASS_NOUNS = frozenset(
    "air bread broccoli cheese clothing food furniture grass ground hair luggage meat rice sand sky snow"
    " water wood".split()
)
SMALL_WORDS = frozenset("a an the this these two three four five six seven several some many there one people".split())


def is_countable(noun: str) -> bool:
    """Whether "a" and numbers go with a noun: not with "snow", nor with what is plural already ("skis")."""
    last = noun.split(" ")[-1]
    return last not in MASS_NOUNS and not re.search(r"(?<![suio])s$", last) and last != "skis"


def with_article(noun: str) -> str:
    """The noun with "a" or "an" before it, if it takes one."""
    if not is_countable(noun):
        return noun
    return f"an {noun}" if noun[0].lower() in "aeiou" and not noun.startswith(("uni", "use")) else f"a {noun}"


def counted(number: int, noun: str) -> str:
    """ "a dog", "two dogs"; "skis", however many."""
    if number == 1 or not is_countable(noun):
        return with_article(noun)
    return f"{number_word(number)} {plural(noun)}"


def number_word(number: int) -> str:
    return NUMBER_WORDS[number] if number < len(NUMBER_WORDS) else str(number)


def joined(items: Sequence[str]) -> str:
    """ "a, b and c"."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def sentence(text: str) -> str:
    """Text with a capital at its head and a stop at its end."""
    text = re.sub(r"\s+([.,!?])", r"\1", " ".join(text.split())).rstrip(" ,;:-")
    if not text.endswith((".", "!", "?")):
        text += "."
    return text[0].upper() + text[1:]


def clause(text: str) -> str:
    """Text to go on in the middle of a sentence: no stop; a small word at its head is small, a name stays as it is."""
    text = sentence(text).rstrip(".!?")
    first = text.split(" ")[0].lower()
    return text[0].lower() + text[1:] if first in SMALL_WORDS else text
