"""In how many pictures each kind of object is, and each two of them together."""

import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

Context = Mapping[str, Any]
# How likely an object that is absent from a picture is named there: from the counts, it, and what is present
Odds = Callable[["ObjectCounts", str, Iterable[str]], float]


def categories_of(context: Context) -> list[str]:
    """The kinds of objects that a picture's boxes name, each once."""
    return list(dict.fromkeys(instance["category"] for instance in context.get("instances") or ()))


class ObjectCounts:
    """Counts over the boxes of all pictures.

    Args:
        contexts (`Iterable[Context]`): Captions and boxes, a picture each.

    Attributes:
        pictures (`Counter[str]`): Of each kind of object, how many pictures have it.
        together (`Counter[tuple[str, str]]`): Of each two kinds, in both orders, how many pictures have both.
    """

    def __init__(self, contexts: Iterable[Context]) -> None:
        self.pictures: Counter[str] = Counter()
        self.together: Counter[tuple[str, str]] = Counter()
        for context in contexts:
            present = categories_of(context)
            self.pictures.update(present)
            self.together.update((one, other) for one in present for other in present if one != other)

    def draw(self, absent: Sequence[str], present: Iterable[str], odds: Odds, rng: random.Random) -> str:
        """One of the absent objects; where the odds of all are 0, each is as likely."""
        weights = [odds(self, one, present) for one in absent]
        return rng.choices(absent, weights if any(weights) else None)[0]
