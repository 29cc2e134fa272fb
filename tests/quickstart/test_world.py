"""The quickstart's world: exact boxes and captions, questions that do not answer themselves, pairs held out for good."""

import random
from collections import Counter

import numpy as np
import pytest

from llavakit.quickstart.evaluate import accuracy, best_guess, make_exam
from llavakit.quickstart.questions import KINDS, Examiner
from llavakit.quickstart.rows import alignment_rows_of, caption, instruction_rows, without_image
from llavakit.quickstart.world import COLOURS, SHAPES, draw_scene, held_out_pairs, sample_scene
from llavakit.rows.schema import normalize_row

PAIRS = frozenset((colour, shape) for colour in COLOURS for shape in SHAPES)


def test_boxes_are_exact():
    rng = random.Random(0)
    for _ in range(200):
        scene = sample_scene(rng)
        picture = np.asarray(draw_scene(scene)).astype(int)
        for thing in scene.things:
            drawn = (np.abs(picture - np.array(thing.rgb)).max(-1) == 0).nonzero()
            left, top, right, bottom = thing.box
            inside = (drawn[0] >= top) & (drawn[0] < bottom) & (drawn[1] >= left) & (drawn[1] < right)
            rows, columns = drawn[0][inside], drawn[1][inside]
            assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == thing.box


def test_a_scene_is_drawn_the_same_each_time_and_by_its_seed():
    first, again, other = (sample_scene(random.Random(seed)) for seed in (1, 1, 2))
    assert first == again != other
    assert draw_scene(first).tobytes() == draw_scene(again).tobytes() != draw_scene(other).tobytes()


def test_captions_name_every_thing():
    rng = random.Random(0)
    for _ in range(100):
        scene = sample_scene(rng)
        words = caption(scene)
        assert all(f"{thing.size} {thing.colour} {thing.shape}" in words for thing in scene.things)
        assert all(thing.place in words for thing in scene.things)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_held_out_pairs_are_in_no_training_row(seed: int):
    held_out = held_out_pairs(seed)
    assert len(held_out) == len({colour for colour, _ in held_out}) == len({shape for _, shape in held_out}) == 2
    rng = random.Random(seed)
    scenes = [sample_scene(rng, held_out) for _ in range(600)]
    assert not any(scene.pairs & held_out for scene in scenes)
    pictures = [f"{number}.png" for number in range(len(scenes))]
    rows = [
        *alignment_rows_of(scenes, pictures, seed),
        *instruction_rows(scenes, pictures, Examiner(rng, PAIRS - held_out, lead=20)),
    ]
    text = " ".join(turn["value"].lower() for row in rows for turn in row["conversations"])
    assert not any(f"{colour} {shape}" in text for colour, shape in held_out)
    kinds = Counter(row["id"].split("-")[0] for row in rows)
    assert set(kinds) == {"align", "conversation", "detail", "reasoning"}
    for row in rows:
        assert len(normalize_row(row)["images"]) == 1
        assert normalize_row(without_image(row))["images"] == []


def test_guessing_blind_stays_under_one_half():
    exam = make_exam(0, PAIRS, held_out_pairs(0), 200)
    scores = accuracy(exam, best_guess(exam))
    assert Counter(item.question.kind for item in exam) == dict.fromkeys(KINDS, 200)
    assert scores["all"] < 0.5
    assert 100 < sum(item.held_out_pair for item in exam) < 400
    assert accuracy(exam, [item.question.answer for item in exam])["all"] == 1
