"""Scenes to text: captions, descriptions, reasoning and conversations, and the rows of the two stages made of them."""

import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

from ..data_generation.sources.alignment import alignment_rows
from ..rows.schema import IMAGE_PLACEHOLDER, make_row
from .questions import KINDS, NUMBERS, Examiner, enumeration, full_name, with_article
from .world import COLOURS, SHAPES, Scene

TURNS_A_CONVERSATION = 3

Turn = tuple[str, str]  # a question and its answer

DETAIL_QUESTIONS = (
    "Describe the picture in detail.",
    "What do you see? Tell me everything.",
    "Give a full description of the scene.",
)


def caption(scene: Scene) -> str:
    """Everything in a sentence: "in the northwest a small red circle and in the southeast a large blue square"."""
    return enumeration([f"in the {thing.place} {with_article(full_name(thing))}" for thing in scene.things])


def description(scene: Scene) -> str:
    """The detailed description: how many things there are, then a sentence for each."""
    number = len(scene.things)
    opening = "There is one thing." if number == 1 else f"There are {NUMBERS[number]} things."
    sentences = [f"In the {thing.place} is {with_article(full_name(thing))}." for thing in scene.things]
    return " ".join([opening, *sentences])


def detail_turn(scene: Scene, rng: random.Random) -> Turn:
    return rng.choice(DETAIL_QUESTIONS), description(scene)


def reasoning_turn(scene: Scene, rng: random.Random) -> Turn:
    """A question that takes two looks, answered with the reasons first."""
    return rng.choice([_most_of_which, _most_of_which, _what_is_left])(scene, rng)


def _most_of_which(scene: Scene, rng: random.Random) -> Turn:
    """The tally first, then whoever leads it: several where they are level."""
    question, _, reasons, leaders = tally_of(scene, rng)
    return question, f"{reasons}, so {enumeration(leaders)}."


def tally_of(scene: Scene, rng: random.Random) -> tuple[str, Sequence[str], str, list[str]]:
    """Which colour or which shape there is most of: the question, its possible answers, the tally, and who leads it."""
    attribute, values = rng.choice([("colour", COLOURS), ("shape", SHAPES)])
    tally = Counter(getattr(thing, attribute) for thing in scene.things)
    reasons = ", ".join(f"{value} {NUMBERS[tally[value]]}" for value in values).capitalize()
    leaders: list[str] = [value for value in values if tally[value] == max(tally.values())]
    return f"Which {attribute} is most frequent?", values, reasons, leaders


def _what_is_left(scene: Scene, rng: random.Random) -> Turn:
    colour = rng.choice([rng.choice(scene.things).colour, rng.choice(COLOURS)])
    number = len(scene.things)
    taken = sum(thing.colour == colour for thing in scene.things)
    things = "thing" if number == 1 else "things"
    verb = "is" if taken == 1 else "are"
    question = f"If the {colour} things were taken away, how many would be left?"
    answer = (
        f"Of {NUMBERS[number]} {things} {NUMBERS[taken]} {verb} {colour}, so {NUMBERS[number - taken]} would be left."
    )
    return question, answer


def conversation_turns(scene: Scene, examiner: Examiner, turns: int) -> list[Turn]:
    """Short questions and answers, no question twice."""
    found: dict[str, str] = {}
    for _ in range(2 * turns):
        question = examiner.ask(scene, examiner.rng.choice(KINDS))
        if question is not None and len(found) < turns:
            found.setdefault(question.text, question.answer)
    return list(found.items())


def alignment_rows_of(scenes: list[Scene], pictures: list[str], seed: int) -> list[dict[str, Any]]:
    """Stage 1: each picture with its caption."""
    pairs = (
        {"id": f"align-{number}", "image": picture, "caption": caption(scene)}
        for number, (scene, picture) in enumerate(zip(scenes, pictures, strict=True))
    )
    return list(alignment_rows(pairs, seed))


def instruction_rows(scenes: list[Scene], pictures: list[str], examiner: Examiner) -> list[dict[str, Any]]:
    """Stage 2: a conversation about each picture, a detailed description of every 4th, a reasoning about every 8th.

    A description puts each place before what stands there, so that every word of it is an answer to "what is where".
    """
    rng = examiner.rng
    rows = []
    for number, (scene, picture) in enumerate(zip(scenes, pictures, strict=True)):
        told = {"conversation": conversation_turns(scene, examiner, TURNS_A_CONVERSATION)}
        if number % 4 == 0:
            told["detail"] = [detail_turn(scene, rng)]
        if number % 8 == 1:
            told["reasoning"] = [reasoning_turn(scene, rng)]
        rows += [_row(f"{kind}-{number}", picture, turns) for kind, turns in told.items() if turns]
    return rows


def _row(row_id: str, picture: str, turns: list[Turn]) -> dict[str, Any]:
    # Equation 2 of the paper draws the order; here stage 1 does, and stage 2 has the one that is asked in
    return make_row(row_id, picture, turns)


def without_image(row: dict[str, Any]) -> dict[str, Any]:
    """The same row for a model that is to stay blind."""
    first, *rest = row["conversations"]
    blind = {**first, "value": first["value"].replace(IMAGE_PLACEHOLDER, "").strip()}
    return {**row, "image": None, "conversations": [blind, *rest]}
