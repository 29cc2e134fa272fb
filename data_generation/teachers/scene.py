"""What a context says for certain about its image, put into words: counts, places, and how objects stand to each other."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from ..plurals import plural
from .words import NUMBER_WORDS, is_countable

MOST_COUNTED = 9  # beyond that, annotators tend to stop or to draw one box around a crowd
# Objects whose boxes overlap by more than this share of the image's side do not stand clearly beside one another
MOST_SHARED = 0.02
MUCH_LARGER = 2.0
# Captions that speak of themselves
ABOUT_ITSELF = re.compile(r"\b(?:caption|image|picture|photo|photograph|photos|pictures|images)\b", re.IGNORECASE)
MANY = r"(?:some|several|many|few|multiple|various|lots of|group of|bunch of|row of|assortment of)"
TWO = r"(?:pair of|couple of|couple)"
CROWD = re.compile(r"\b(?:crowd|crowds|crowded|audience|spectators|busy)\b")
NUMBERS = "|".join([r"\d+", *NUMBER_WORDS])

Box = list[float]


class Scene:
    """A context, ready to be spoken about.

    Attributes:
        captions: Without those that speak of the picture as such, if others are left; each once.
        counts: Category -> number of boxes, the most numerous first.
        boxes: Category -> its boxes from left to right.
        singles: Categories that are there once.
    """

    def __init__(self, context: Mapping[str, Any]):
        every = list(dict.fromkeys(context["captions"]))
        self.captions = [caption for caption in every if not ABOUT_ITSELF.search(caption)] or every
        self.counts = Counter(item["category"] for item in context["instances"])
        self.counts = Counter(dict(self.counts.most_common()))
        self.boxes: dict[str, list[Box]] = {category: [] for category in self.counts}
        for item in sorted(context["instances"], key=lambda item: item["bbox"][0] + item["bbox"][2]):
            self.boxes[item["category"]].append(item["bbox"])
        self.singles = [category for category, count in self.counts.items() if self._is_single(category, count)]

    def countable(self) -> list[str]:
        """Categories whose number can be stated: few, and no caption says otherwise."""
        return [
            category
            for category, count in self.counts.items()
            if count <= MOST_COUNTED and is_countable(category) and not self._contradicted(category, count)
        ]

    def _is_single(self, category: str, count: int) -> bool:
        return count == 1 and (not is_countable(category) or not self._contradicted(category, count))

    def _contradicted(self, category: str, count: int) -> bool:
        """Whether a caption has another number of it, or many where a few are boxed."""
        many = re.escape(plural(category))
        noun = rf"(?: \w+){{0,2}} (?:{many}|{re.escape(category)})\b"
        for caption in (caption.lower() for caption in self.captions):
            numbers = [_number(word) for word in re.findall(rf"\b({NUMBERS}){noun}", caption)]
            if any(number not in (1, count) for number in numbers):
                return True
            if count == 1 and plural(category) != category and re.search(rf"\b{many}\b", caption):
                return True
            if count <= 2 and re.search(rf"\b{MANY}{noun}", caption):
                return True
            if count != 2 and re.search(rf"\b{TWO}{noun}", caption):
                return True
            if category == "person" and CROWD.search(caption):
                return True
        return False

    def pairs_beside(self) -> Iterator[tuple[str, str]]:
        """Single objects, the first clearly to the left of the second."""
        yield from ((a, b) for a, b in self._pairs() if self.boxes[a][0][2] <= self.boxes[b][0][0] + MOST_SHARED)

    def pairs_above(self) -> Iterator[tuple[str, str]]:
        """Single objects, the first clearly above the second."""
        yield from ((a, b) for a, b in self._pairs() if self.boxes[a][0][3] <= self.boxes[b][0][1] + MOST_SHARED)

    def pairs_larger(self) -> Iterator[tuple[str, str]]:
        """Single objects, the first with a much larger box than the second."""
        pairs = ((a, b) for a, b in self._pairs())
        yield from ((a, b) for a, b in pairs if area(self.boxes[a][0]) >= MUCH_LARGER * area(self.boxes[b][0]))

    def _pairs(self) -> Iterator[tuple[str, str]]:
        yield from ((a, b) for a in self.singles for b in self.singles if a != b)


def _number(word: str) -> int:
    return NUMBER_WORDS.index(word) if word in NUMBER_WORDS else int(word)


def area(box: Box) -> float:
    """Share of the image that a box covers."""
    return (box[2] - box[0]) * (box[3] - box[1])


def place(box: Box) -> str:
    """Where the middle of a box lies, in thirds of the image: "on the left side of the picture"."""
    across, down = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    side = "left" if across < 0.36 else "right" if across > 0.64 else ""
    height = "upper" if down < 0.36 else "lower" if down > 0.64 else ""
    if side and height:
        return f"in the {height} {side} part of the picture"
    if height:
        return f"in the {height} part of the picture"
    return f"on the {side} side of the picture" if side else "in the middle of the picture"


def share(box: Box) -> str | None:
    """How much of the image a box stretches over, or None if that is no large part of it."""
    covered = area(box)
    for least, words in ((0.6, "most"), (0.5, "more than half"), (0.36, "well over a third"), (0.3, "about a third")):
        if covered >= least:
            return words
    return "about a quarter" if covered >= 0.22 else None
