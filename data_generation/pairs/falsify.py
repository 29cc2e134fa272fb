"""The same answer with an object in it that is not there."""

import functools
import random
import re
from typing import NamedTuple

from ..filters.object_words import ObjectWords, tokens_of
from ..plurals import plural
from ..teachers.words import with_article
from .object_counts import Context, ObjectCounts, Odds, categories_of

# Answers that are a word, which the other word contradicts
OPPOSITES = {"yes": "no", "no": "yes"}
_ONE_WORD = re.compile(r"(\w+)(\W*)")


class Falsified(NamedTuple):
    """An answer that is not true.

    Attributes:
        text (`str`): The answer.
        instead_of (`str`): What it names or says no more.
        named (`str`): What it names or says in its place.
    """

    text: str
    instead_of: str
    named: str


def contradicted(answer: str) -> Falsified | None:
    """A yes for a no, and a no for a yes; None of any other answer."""
    word = _ONE_WORD.fullmatch(answer.strip())
    opposite = OPPOSITES.get(word[1].lower()) if word else None
    if word is None or opposite is None:
        return None
    return Falsified(_in_case_of(word[1], opposite) + word[2], word[1].lower(), opposite)


class Falsifier:
    """Replaces what an answer names.

    Args:
        words (`ObjectWords`): Which words name the same thing.
        counts (`ObjectCounts`): Of every kind of object that the boxes of any picture name.
        odds (`Odds`): How likely each is drawn, one of `NEGATIVES`.
    """

    def __init__(self, words: ObjectWords, counts: ObjectCounts, odds: Odds) -> None:
        self._words, self._counts, self._odds = words, counts, odds
        self._names = {category: self._names_of(category) for category in counts.pictures}
        # Answers about one picture come one after another
        self._absent = functools.lru_cache(maxsize=8)(self._absent_from)

    def __call__(self, answer: str, context: Context, rng: random.Random) -> Falsified | None:
        """The answer with one of the objects that it names replaced, wherever it names it, by one that is not there.

        Args:
            answer (`str`): A true one.
            context (`Context`): Captions and boxes of its picture.
            rng (`random.Random`): Draws which object is replaced, and by which.

        Returns:
            `Falsified`; None where the answer names nothing that has a box, or nothing is absent.
        """
        present = categories_of(context)
        named = [category for category in present if self._names[category].search(answer)]
        absent = self._absent(tuple(present), tuple(context.get("captions") or ()))
        if not named or not absent:
            return None
        old = rng.choice(named)
        new = self._counts.draw(absent, present, self._odds, rng)
        return Falsified(self._names[old].sub(lambda match: _replaced(match, new), answer), old, new)

    def _absent_from(self, present: tuple[str, ...], captions: tuple[str, ...]) -> list[str]:
        """The kinds that are neither present, under whichever name, nor told of in a caption."""
        told = [" ".join(tokens_of(text)) for text in captions]
        there = self._words.supported({*present, *(mention for text in told for mention in self._mentions(text))})
        return [
            category
            for category, names in self._names.items()
            if category not in present
            and not self._words.is_supported(category, there)
            and not any(names.search(text) for text in told)
        ]

    def _mentions(self, text: str) -> list[str]:
        return [mention.term for mention in self._words.mentions(text.split(" "))]

    def _names_of(self, category: str) -> re.Pattern[str]:
        """What a category is called: it, and its synonyms, one or several of it; after the article that goes with them."""
        groups = self._words.groups
        same = [term for term in groups if set(groups[term]) & {category, *groups.get(category, ())}]
        terms = {category.lower(), *(term for term in same if term not in self._words.ambiguous)}
        forms = {form for term in terms for form in (term, plural(term))}
        several = {plural(term) for term in terms} - terms
        either = "|".join(re.escape(form) for form in sorted(forms, key=len, reverse=True))
        many = "|".join(re.escape(form) for form in sorted(several, key=len, reverse=True)) or "(?!)"
        return re.compile(rf"(?<!\w)(?P<article>an?\s+)?(?P<name>(?P<several>{many})(?!\w)|{either})(?!\w)", re.I)


def _replaced(match: re.Match[str], new: str) -> str:
    name = plural(new) if match["several"] else new
    if match["article"]:
        name = with_article(name)
    return _in_case_of(match[0], name)


def _in_case_of(model: str, text: str) -> str:
    """A text with a capital at its head where the model has one."""
    return text[0].upper() + text[1:] if model[:1].isupper() else text
