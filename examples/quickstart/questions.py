"""Questions about a scene with their true answers, in such numbers that guessing without the picture does not pay.

Four kinds: presence, colour, count and spatial relation, each in several forms. An `Examiner` remembers what it has
asked and never lets one answer get ahead of its rivals, so the words of a question do not give its answer away.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

from .world import CELLS, COLOURS, SHAPES, Pair, Scene, Thing

KINDS = ("presence", "colour", "count", "relation")
NUMBERS = ("zero", "one", "two", "three", "four")

# A thing is furthest in a direction when its measure is smaller than that of all others
DIRECTIONS: dict[str, Callable[[Thing], int]] = {
    "left": lambda thing: thing.column,
    "right": lambda thing: -thing.column,
    "up": lambda thing: thing.row,
    "down": lambda thing: -thing.row,
}


@dataclass(frozen=True)
class SceneQuestion:
    """A question and its answer.

    Args:
        kind: One of `KINDS`.
        form: The words of the question but for the names in it: forms are asked equally often.
        text: The question.
        answer: The answer, a word or two.
        rivals: The answers that are kept in balance for this text. Rarer ones ("three") are asked for as they come.
        about: The colour-shape pairs that the question or its answer is about.
    """

    kind: str
    form: str
    text: str
    answer: str
    rivals: tuple[str, ...]
    about: frozenset[Pair] = frozenset()


def with_article(words: str) -> str:
    return f"an {words}" if words[0] in "aeiou" else f"a {words}"


def full_name(thing: Thing) -> str:
    return f"{thing.size} {thing.colour} {thing.shape}"


def enumeration(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


class Examiner:
    """Asks about scenes, and balances the answers over all that it asks.

    Args:
        rng: Source of all chance.
        pairs: The colour-shape pairs that questions may be about.
        lead: How many times more than its rarest rival an answer may have been given.
    """

    def __init__(self, rng: random.Random, pairs: Iterable[Pair], lead: int = 1):
        self.rng = rng
        self.pairs = frozenset(pairs)
        self.lead = lead
        self.asked: Counter[tuple[str, str]] = Counter()
        self._ways: dict[str, Callable[[Scene], Iterator[SceneQuestion]]] = {
            "presence": _presence,
            "colour": partial(_colour, pairs=self.pairs),
            "count": _count,
            "relation": _relation,
        }

    def ask(self, scene: Scene, kind: str) -> SceneQuestion | None:
        """A question of this kind about the scene, or `None` where every answer to be had is ahead of its rivals.

        Raises:
            ValueError: An unknown kind.
        """
        if kind not in self._ways:
            raise ValueError(f"kind={kind!r} is unknown; choose one of {KINDS}.")
        behind = [question for question in self._ways[kind](scene) if self._may_be_asked(question)]
        if not behind:
            return None
        # A form at random first: forms with many ways to ask would drown the others
        form = self.rng.choice(sorted({question.form for question in behind}))
        question = self.rng.choice([question for question in behind if question.form == form])
        self.asked[question.text, question.answer] += 1
        return question

    def _may_be_asked(self, question: SceneQuestion) -> bool:
        rarest = min(self.asked[question.text, rival] for rival in question.rivals)
        return question.about <= self.pairs and self.asked[question.text, question.answer] < rarest + self.lead


def _presence(scene: Scene) -> Iterator[SceneQuestion]:
    here: set[str] = {value for thing in scene.things for value in (thing.shape, thing.colour, thing.place)}
    asked: list[tuple[str, str, str]] = [("a shape", f"Is there {with_article(shape)}?", shape) for shape in SHAPES]
    asked += [("a colour", f"Is anything {colour}?", colour) for colour in COLOURS]
    asked += [("a place", f"Is anything in the {place}?", place) for place in CELLS]
    for form, text, value in asked:
        yield SceneQuestion("presence", form, text, "yes" if value in here else "no", ("yes", "no"))


def _colour(scene: Scene, pairs: frozenset[Pair]) -> Iterator[SceneQuestion]:
    shapes = Counter(thing.shape for thing in scene.things)
    for thing in scene.things:
        ways = [("by place", f"the thing in the {thing.place}", COLOURS)]
        if shapes[thing.shape] == 1:
            possible = tuple(colour for colour in COLOURS if (colour, thing.shape) in pairs)
            ways.append(("by shape", f"the {thing.shape}", possible))
        for form, name, rivals in ways:
            about = frozenset({thing.pair})
            yield SceneQuestion("colour", form, f"What colour is {name}?", thing.colour, rivals, about)


def _count(scene: Scene) -> Iterator[SceneQuestion]:
    yield _how_many("all", "things", len(scene.things), NUMBERS[1:])
    for shape in SHAPES:
        number = sum(thing.shape == shape for thing in scene.things)
        yield _how_many("shapes", f"{shape}s", number, NUMBERS[:3])
    for colour in COLOURS:
        number = sum(thing.colour == colour for thing in scene.things)
        yield _how_many("colours", f"{colour} things", number, NUMBERS[:3])


def _how_many(form: str, noun: str, number: int, rivals: tuple[str, ...]) -> SceneQuestion:
    return SceneQuestion("count", form, f"How many {noun}?", NUMBERS[number], rivals)


def _relation(scene: Scene) -> Iterator[SceneQuestion]:
    if len(scene.things) == 1:
        return
    for direction, measure in DIRECTIONS.items():
        first, second, *_ = sorted(scene.things, key=measure)
        if measure(first) == measure(second):
            continue
        about = frozenset({first.pair})
        yield SceneQuestion("relation", "shape", f"Which shape is furthest {direction}?", first.shape, SHAPES, about)
        yield SceneQuestion(
            "relation", "colour", f"Which colour is furthest {direction}?", first.colour, COLOURS, about
        )
