"""Large pictures with small things: what one view of the encoder's size shows too small to tell apart."""

import random
from collections.abc import Sequence
from dataclasses import replace

from ..quickstart.evaluate import Item
from ..quickstart.world import CELL_SIDE, COLUMNS, IMAGE_SIDE, MAX_SWAY, SIDES, Scene, Thing

VIEW_SIDE = IMAGE_SIDE  # pixels of a side of a view
LARGE_SIDE = COLUMNS * VIEW_SIDE  # of a large picture: each quarter is a view


def enlarge(scene: Scene, rng: random.Random) -> Scene:
    """The scene on a picture twice as wide and high, its things small, each in a cell of its own quarter."""
    return replace(scene, side=LARGE_SIDE, things=tuple(_moved(thing, rng) for thing in scene.things))


def _moved(thing: Thing, rng: random.Random) -> Thing:
    side = rng.choice(SIDES["small"])
    middle = (CELL_SIDE - side) // 2
    row, column = rng.randrange(COLUMNS), rng.randrange(COLUMNS)  # of the cell within the quarter
    left = thing.column * VIEW_SIDE + column * CELL_SIDE + middle + rng.randint(-MAX_SWAY, MAX_SWAY)
    top = thing.row * VIEW_SIDE + row * CELL_SIDE + middle + rng.randint(-MAX_SWAY, MAX_SWAY)
    return replace(thing, size="small", box=(left, top, left + side, top + side))


def enlarged_exam(exam: Sequence[Item], seed: int) -> list[Item]:
    """The same questions about the same scenes, on large pictures."""
    return [
        replace(item, scene=enlarge(item.scene, random.Random(f"large exam {seed} {place}")))
        for place, item in enumerate(exam)
    ]
