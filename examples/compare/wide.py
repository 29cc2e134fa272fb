"""Wide pictures with small things: what one view of the encoder's size shows too small to tell apart."""

import random
from collections.abc import Sequence
from dataclasses import replace

from ..quickstart.evaluate import Item
from ..quickstart.world import CELL_SIDE, COLUMNS, IMAGE_SIDE, MAX_SWAY, SIDES, Scene, Thing

VIEW_SIDE = IMAGE_SIDE  # pixels of a side of a view
VIEWS = 3  # side by side
WIDE_SIZE = (VIEWS * VIEW_SIDE, VIEW_SIDE)  # width and height
CELLS_A_COLUMN = WIDE_SIZE[0] // COLUMNS // CELL_SIDE  # side by side in a half of the picture


def widen(scene: Scene, rng: random.Random) -> Scene:
    """The scene on a picture as wide as three views, its things small; each keeps its row and stands anywhere in its half."""
    return replace(scene, picture_size=WIDE_SIZE, things=tuple(_moved(thing, rng) for thing in scene.things))


def _moved(thing: Thing, rng: random.Random) -> Thing:
    side = rng.choice(SIDES["small"])
    middle = (CELL_SIDE - side) // 2
    cell = thing.column * CELLS_A_COLUMN + rng.randrange(CELLS_A_COLUMN)  # no cell lies on the edge of two views
    left = cell * CELL_SIDE + middle + rng.randint(-MAX_SWAY, MAX_SWAY)
    top = thing.row * CELL_SIDE + middle + rng.randint(-MAX_SWAY, MAX_SWAY)
    return replace(thing, size="small", box=(left, top, left + side, top + side))


def widened_exam(exam: Sequence[Item], seed: int) -> list[Item]:
    """The same questions about the same scenes, on wide pictures."""
    return [
        replace(item, scene=widen(item.scene, random.Random(f"wide exam {seed} {place}")))
        for place, item in enumerate(exam)
    ]
