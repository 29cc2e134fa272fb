"""A small world of scenes that can be drawn, and of which everything is known.

A scene holds one to four things on a light, slightly noisy ground. A thing has a shape, a colour, a size and a cell of
a 2 x 2 layout; within its cell it stands a little off the middle. Boxes are exact: `(left, top, right, bottom)` in
pixels, half open.

Some colour-shape pairs are held out: no scene for training shows them and no text for training names them, so
whoever answers a question about them has put together what it knows of the colour and of the shape.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from PIL import Image, ImageDraw

Shape = Literal["circle", "square", "triangle"]
Colour = Literal["red", "green", "blue", "yellow"]
Size = Literal["small", "large"]

SHAPES: tuple[Shape, ...] = get_args(Shape)
COLOURS: tuple[Colour, ...] = get_args(Colour)
SIZES: tuple[Size, ...] = get_args(Size)
CELLS = ("northwest", "northeast", "southwest", "southeast")  # as on a map

COLUMNS = 2
CELL_SIDE = 24  # pixels
IMAGE_SIDE = COLUMNS * CELL_SIDE
MAX_THINGS = 4
HELD_OUT = 2  # pairs
MAX_SWAY = 2  # pixels that a thing may stand off the middle of its cell
# Odd sides have a middle pixel, so that triangles are symmetric and fill their box exactly.
SIDES: dict[Size, tuple[int, ...]] = {"small": (11, 13), "large": (19, 21)}
RGB: dict[Colour, tuple[int, int, int]] = {
    "red": (214, 39, 40),
    "green": (44, 160, 44),
    "blue": (31, 98, 200),
    "yellow": (235, 205, 20),
}

Pair = tuple[Colour, Shape]


@dataclass(frozen=True)
class Thing:
    """One drawn thing: what it is, its cell (0 to 3, row by row), its box in pixels and its exact colour."""

    shape: Shape
    colour: Colour
    size: Size
    cell: int
    box: tuple[int, int, int, int]
    rgb: tuple[int, int, int]

    @property
    def pair(self) -> Pair:
        return (self.colour, self.shape)

    @property
    def row(self) -> int:
        return self.cell // COLUMNS

    @property
    def column(self) -> int:
        return self.cell % COLUMNS

    @property
    def place(self) -> str:
        return CELLS[self.cell]


@dataclass(frozen=True)
class Scene:
    """One to four things, in reading order of their cells, on a ground of one colour and its noise.

    `picture_size` is width and height in pixels.
    """

    things: tuple[Thing, ...]
    ground: tuple[int, int, int]
    noise_seed: int
    picture_size: tuple[int, int] = (IMAGE_SIDE, IMAGE_SIDE)

    @property
    def pairs(self) -> set[Pair]:
        return {thing.pair for thing in self.things}


def held_out_pairs(seed: int) -> frozenset[Pair]:
    """Two colour-shape pairs, no shape and no colour twice: each of them stays well known in other pairs."""
    rng = random.Random(f"held-out pairs {seed}")
    return frozenset(zip(rng.sample(COLOURS, HELD_OUT), rng.sample(SHAPES, HELD_OUT), strict=True))


def sample_scene(rng: random.Random, banned: frozenset[Pair] = frozenset(), wanted: frozenset[Pair] = frozenset()):
    """Draws the plan of a scene.

    Args:
        rng: source of all chance.
        banned: pairs that must not appear.
        wanted: when given, at least one of these pairs appears.

    Returns:
        A `Scene`. Every second one repeats a colour or a shape on purpose: counting things of a kind needs kinds with
        more than one thing.
    """
    pairs = [(colour, shape) for colour in COLOURS for shape in SHAPES if (colour, shape) not in banned]
    theme = rng.choice([None, None, rng.choice(COLOURS), rng.choice(SHAPES)])
    number = rng.randint(1, MAX_THINGS)
    chosen = [rng.choice(sorted(wanted))] if wanted else []
    while len(chosen) < number:
        themed = [pair for pair in pairs if theme in pair] if rng.random() < 0.8 else []
        chosen.append(rng.choice(themed or pairs))
    rng.shuffle(chosen)
    cells = sorted(rng.sample(range(len(CELLS)), number))
    things = tuple(_place(rng, pair, cell) for pair, cell in zip(chosen, cells, strict=True))
    level = rng.randint(200, 240)
    red, green, blue = (level + rng.randint(-8, 8) for _ in range(3))
    return Scene(things, (red, green, blue), noise_seed=rng.getrandbits(32))


def _place(rng: random.Random, pair: Pair, cell: int) -> Thing:
    """Gives the pair a size, a spot in its cell (never touching its edge) and a shade of its colour."""
    size = rng.choice(SIZES)
    side = rng.choice(SIDES[size])
    middle = (CELL_SIDE - side) // 2
    sway = min(MAX_SWAY, middle - 1)
    left = cell % COLUMNS * CELL_SIDE + middle + rng.randint(-sway, sway)
    top = cell // COLUMNS * CELL_SIDE + middle + rng.randint(-sway, sway)
    red, green, blue = (min(255, max(0, level + rng.randint(-12, 12))) for level in RGB[pair[0]])
    return Thing(pair[1], pair[0], size, cell, (left, top, left + side, top + side), (red, green, blue))


def draw_scene(scene: Scene) -> Image.Image:
    """Draws a scene as an RGB picture, of 48 x 48 pixels by default. Outside the shapes are ground and noise alone."""
    width, height = scene.picture_size
    noise = np.random.default_rng(scene.noise_seed).integers(-6, 7, (height, width, 3))
    ground = np.clip(np.array(scene.ground) + noise, 0, 255).astype(np.uint8)
    picture = Image.fromarray(ground)
    pen = ImageDraw.Draw(picture)
    for thing in scene.things:
        _draw_thing(pen, thing)
    return picture


def save_scenes(scenes: Sequence[Scene], folder: Path, name: str) -> list[str]:
    """Draw scenes and write them to a folder below another; returns their paths from that."""
    (folder / name).mkdir(parents=True, exist_ok=True)
    paths = scene_paths(name, len(scenes))
    for scene, path in zip(scenes, paths, strict=True):
        draw_scene(scene).save(folder / path, compress_level=1)
    return paths


def scene_paths(name: str, number: int) -> list[str]:
    """Where `save_scenes` writes so many."""
    return [f"{name}/{place:05}.png" for place in range(number)]


def _draw_thing(pen: ImageDraw.ImageDraw, thing: Thing) -> None:
    left, top, right, bottom = thing.box
    right, bottom = right - 1, bottom - 1  # PIL counts the last pixel in
    match thing.shape:
        case "circle":
            pen.ellipse((left, top, right, bottom), fill=thing.rgb)
        case "square":
            pen.rectangle((left, top, right, bottom), fill=thing.rgb)
        case "triangle":
            pen.polygon(((left, bottom), ((left + right) // 2, top), (right, bottom)), fill=thing.rgb)
