"""Phrases that name some of a thing's attributes, and which pictures they are true of: what CLIP learns from."""

import random
from collections.abc import Sequence

import numpy as np

from .questions import with_article
from .world import CELLS, COLOURS, MAX_THINGS, SHAPES, SIZES, Pair, Scene

# The attributes of a thing as numbers: an index into each of these
VALUES: tuple[Sequence[str], ...] = (SIZES, COLOURS, SHAPES, CELLS)
OPEN = -1  # in a phrase: any value
NO_THING = -2  # in a scene: a place that is not taken

# How often a phrase names each attribute. Shapes are the hardest to see, so they are spoken of most.
NAMED = (0.3, 0.7, 0.85, 0.7)

Phrase = tuple[int, int, int, int]


def attributes(scenes: Sequence[Scene]) -> np.ndarray:
    """What is in each scene, of shape (scenes, things, attributes)."""
    table = np.full((len(scenes), MAX_THINGS, len(VALUES)), NO_THING, dtype=np.int8)
    for number, scene in enumerate(scenes):
        for place, thing in enumerate(scene.things):
            colour, shape = COLOURS.index(thing.colour), SHAPES.index(thing.shape)
            table[number, place] = (SIZES.index(thing.size), colour, shape, thing.cell)
    return table


def phrases_about(things: np.ndarray, rng: random.Random, banned: frozenset[Pair]) -> list[Phrase]:
    """Two phrases that are true of a scene, and one that differs from the truth in a single attribute.

    Args:
        things: What is in the scene, of shape (things, attributes).
        rng: Source of all chance.
        banned: Pairs that no phrase may name.
    """
    here = [tuple(int(value) for value in thing) for thing in things if thing[0] != NO_THING]
    found = [_some_attributes(rng.choice(here), rng) for _ in range(2)]
    nearly = list(_some_attributes(rng.choice(here), rng))
    changed = rng.choice([place for place, value in enumerate(nearly) if value != OPEN])
    # Another thing's value, where there is one: "red circle, blue square" is told from "blue circle, red square"
    value = rng.choice(here)[changed]
    nearly[changed] = value if value != nearly[changed] else rng.randrange(len(VALUES[changed]))
    if _pair(nearly) not in banned:
        found.append((nearly[0], nearly[1], nearly[2], nearly[3]))
    return found


def _some_attributes(thing: tuple[int, ...], rng: random.Random) -> Phrase:
    named = [rng.random() < chance for chance in NAMED]
    named[rng.randrange(len(named))] = True  # one at least
    size, colour, shape, cell = (value if kept else OPEN for value, kept in zip(thing, named, strict=True))
    return size, colour, shape, cell


def _pair(phrase: Sequence[int]) -> Pair | None:
    return None if OPEN in phrase[1:3] else (COLOURS[phrase[1]], SHAPES[phrase[2]])


def phrase_text(phrase: Phrase) -> str:
    """ "a small red circle in the northeast", "a thing in the west", "a red thing"."""
    size, colour, shape, cell = phrase
    words = [SIZES[size]] * (size != OPEN) + [COLOURS[colour]] * (colour != OPEN)
    named = with_article(" ".join([*words, "thing" if shape == OPEN else SHAPES[shape]]))
    return named if cell == OPEN else f"{named} in the {CELLS[cell]}"


def truth(phrases: Sequence[Phrase], things: np.ndarray) -> np.ndarray:
    """Which phrases are true of which scenes.

    Args:
        phrases: The phrases.
        things: What is in the scenes, of shape (scenes, things, attributes).

    Returns:
        Booleans of shape (phrases, scenes).
    """
    wanted = np.array(phrases, dtype=np.int8)[:, None, None, :]
    fits = (wanted == OPEN) | (wanted == things[None])
    return (fits.all(-1) & (things[None, ..., 0] != NO_THING)).any(-1)
