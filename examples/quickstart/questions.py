"""Questions about a scene with their true answers, in such numbers that guessing without the picture does not pay.

Five kinds: presence, colour, place, count and relation. The last two take more than one look, and their answers say
what was seen before they conclude: "northwest and south, so two". An `Examiner` remembers what it has asked and never
lets one conclusion get ahead of its rivals, so the words of a question do not give its answer away.
"""

import random
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import permutations

from .world import CELLS, COLOURS, SHAPES, Pair, Scene, Thing

KINDS = ("presence", "colour", "place", "count", "relation")
DIRECTIONS = ("left", "right", "above", "below")
NUMBERS = ("zero", "one", "two", "three", "four")


@dataclass(frozen=True)
class Question:
    """A question and its answer.

    Args:
        kind: One of `KINDS`.
        form: The words of the question as far as they could hint at the answer; conclusions are balanced within it.
        text: The question.
        answer: The answer, a few words; where it gives reasons, they come first.
        rivals: The conclusions that this form may have, this one's among them.
        about: The colour-shape pairs that the question or its answer is about.
    """

    kind: str
    form: str
    text: str
    answer: str
    rivals: tuple[str, ...]
    about: frozenset[Pair] = frozenset()

    @property
    def conclusion(self) -> str:
        return conclusion(self.answer)


def conclusion(answer: str) -> str:
    """What an answer comes to, its reasons left out: "two" of "northwest and south, so two"."""
    return answer.rpartition(", so ")[2].strip()


def plural(shape: str) -> str:
    return f"{shape}es" if shape == "cross" else f"{shape}s"


def name_of(pair: Pair) -> str:
    return f"{pair[0]} {pair[1]}"


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
        pairs: The colour-shape pairs that questions may name.
        lead: How many times more than its rarest rival a conclusion may have been asked for.
    """

    def __init__(self, rng: random.Random, pairs: Iterable[Pair], lead: int = 1):
        self.rng = rng
        self.pairs = sorted(pairs)
        self.lead = lead
        self.asked: Counter[tuple[str, str]] = Counter()
        self._ways = {
            "presence": self._presence,
            "colour": self._colour,
            "place": self._place,
            "count": self._count,
            "relation": self._relation,
        }

    def ask(self, scene: Scene, kind: str) -> Question | None:
        """A question of this kind about the scene, or `None` where every conclusion to be had is ahead of its rivals.

        Raises:
            ValueError: An unknown kind.
        """
        if kind not in self._ways:
            raise ValueError(f"kind={kind!r} is unknown; choose one of {KINDS}.")
        behind = [question for question in self._ways[kind](scene) if self._is_behind(question)]
        if not behind:
            return None
        # A form at random first: forms with many ways to ask would drown the others
        form = self.rng.choice(sorted({question.form for question in behind}))
        question = self.rng.choice([question for question in behind if question.form == form])
        self.asked[question.form, question.conclusion] += 1
        return question

    def _is_behind(self, question: Question) -> bool:
        rarest = min(self.asked[question.form, rival] for rival in question.rivals)
        return self.asked[question.form, question.conclusion] < rarest + self.lead

    def _presence(self, scene: Scene) -> Iterator[Question]:
        present = sorted(scene.pairs & set(self.pairs))
        absent = [pair for pair in self.pairs if pair not in scene.pairs]
        # The colour and the shape are there, though not together: these cannot be answered by colour or shape alone
        colours, shapes = {pair[0] for pair in scene.pairs}, {pair[1] for pair in scene.pairs}
        tempting = [pair for pair in absent if pair[0] in colours and pair[1] in shapes]
        lure = self.rng.choice(tempting or absent)
        shown = self.rng.choice(present)
        for pair, answer in ((shown, "yes"), (lure, "no")):
            text = f"Is there {with_article(name_of(pair))}?"
            yield Question("presence", "is there", text, answer, ("yes", "no"), frozenset({pair}))
        for _ in range(2):
            choices = [shown, *self.rng.sample(absent, 2)]
            if lure not in choices:
                choices[1] = lure
            self.rng.shuffle(choices)
            first, second, third = (with_article(name_of(pair)) for pair in choices)
            answer = with_article(name_of(shown))
            text = f"Which is in the picture: {first}, {second} or {third}?"
            yield Question("presence", f"which {_}", text, answer, (answer,), frozenset({shown}))

    def _colour(self, scene: Scene) -> Iterator[Question]:
        for thing in scene.things:
            if [other.shape for other in scene.things].count(thing.shape) == 1:
                possible = tuple(colour for colour, shape in self.pairs if shape == thing.shape)
                form = f"colour of the {thing.shape}"
                text = f"What colour is the {thing.shape}?"
                yield Question("colour", form, text, thing.colour, possible, frozenset({thing.pair}))

    def _place(self, scene: Scene) -> Iterator[Question]:
        for thing in scene.things:
            what = with_article(full_name(thing))
            yield Question(
                "place", "what is in", f"What is in the {thing.place}?", what, (what,), frozenset({thing.pair})
            )
        for thing in named_by_pair(scene):
            text = f"Where is the {name_of(thing.pair)}?"
            yield Question("place", "where is", text, thing.place, CELLS, frozenset({thing.pair}))
        free = self.rng.choice([cell for cell in CELLS if all(thing.place != cell for thing in scene.things)])
        yield Question("place", "what is in", f"What is in the {free}?", "nothing", ("nothing",))

    def _count(self, scene: Scene) -> Iterator[Question]:
        yield self._how_many("things", list(scene.things), "things", NUMBERS[1:])
        for shape in SHAPES:
            found = [thing for thing in scene.things if thing.shape == shape]
            yield self._how_many(plural(shape), found, "shapes", NUMBERS[:4])
        for colour in COLOURS:
            found = [thing for thing in scene.things if thing.colour == colour]
            yield self._how_many(f"{colour} things", found, "colours", NUMBERS[:4])

    def _how_many(self, noun: str, found: list[Thing], form: str, rivals: tuple[str, ...]) -> Question:
        places = enumeration([thing.place for thing in found]) if found else "nowhere"
        answer = f"{places}, so {NUMBERS[len(found)]}"
        return Question("count", form, f"How many {noun} are there?", answer, rivals)

    def _relation(self, scene: Scene) -> Iterator[Question]:
        for one, other in permutations(named_by_pair(scene), 2):
            direction = direction_from(one, other)
            if direction is not None:
                text = f"Where is the {name_of(one.pair)}, seen from the {name_of(other.pair)}?"
                answer = f"from {other.place} to {one.place}, so {direction}"
                yield Question("relation", "seen from", text, answer, DIRECTIONS, frozenset({one.pair, other.pair}))


def named_by_pair(scene: Scene) -> list[Thing]:
    """The things that their colour and shape tell from all others of the scene."""
    counts = Counter(thing.pair for thing in scene.things)
    return [thing for thing in scene.things if counts[thing.pair] == 1]


def direction_from(one: Thing, other: Thing) -> str | None:
    """Where the one is, seen from the other: only for things of one row or one column, so that no answer is arguable."""
    if one.row == other.row and one.column != other.column:
        return "left" if one.column < other.column else "right"
    if one.column == other.column and one.row != other.row:
        return "above" if one.row < other.row else "below"
    return None
