"""A training set with planted leaks, and the two benchmarks' files that they come from.

Three rows in five ask what any row asks; of the others most are of the same grammar as the benchmarks' questions, so that
they share words with them. Of the pictures, some are of a benchmark's very place, and show something else.
"""

import itertools
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .planted_pictures import LEAKS, drawn_picture, leaked_picture, photographs, saved, sibling
from .planted_texts import GENERIC, Asked, answer, asked_by_grammar, asked_for_object, by_hand, other_question

POPE_PICTURES, VQA_PICTURES = 250, 350
PICTURE_LEAKS = 300  # rows; half of them with the benchmark's question too
TEXT_LEAKS = 300  # rows with a question reworded and a picture of their own


@dataclass
class Planted:
    """Where the set lies, and the ids of the rows that leak.

    Attributes:
        rows, images: The training set.
        pope, vqa: Folders of the benchmarks' files with their pictures.
        pictures, texts: Row id -> in what way it leaks.
    """

    rows: Path
    images: Path
    pope: Path
    vqa: Path
    pictures: dict[str, str] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)


@dataclass
class _Tested:
    """A picture of a benchmark with its questions."""

    picture: Image.Image
    asked: list[Asked]


def write_planted(folder: Path, seed: int, shared: Path, num_rows: int = 5000) -> Planted:
    """Write a set. The same seed writes the same."""
    draw = np.random.default_rng([seed, 12])
    planted = Planted(folder / "rows.jsonl", folder / "images", folder / "pope", folder / "vqa")
    for place in (planted.images, planted.pope, planted.vqa):
        place.mkdir(parents=True)
    photos = iter(photographs(shared, seed))
    hand = list(by_hand(seed))
    tested = _write_pope(planted.pope, draw, photos) + _write_vqa(
        planted.vqa, draw, photos, [each for each, _ in hand]
    )
    rows = _leaking_rows(planted, tested, len(hand), draw)
    others = [(Path(path).read_bytes()) for path in photos]
    near = [question for _, question in hand]
    rows += _other_rows(planted, tested, others, near, num_rows - len(rows), draw)
    lines = [json.dumps(rows[place]) + "\n" for place in draw.permutation(len(rows))]
    planted.rows.write_text("".join(lines), encoding="utf-8")
    return planted


def _picture(draw: np.random.Generator, photos: Any, share: float) -> Image.Image:
    if draw.random() < share and (path := next(photos, None)) is not None:
        return Image.open(path).convert("RGB")
    return drawn_picture(draw)


def _write_pope(folder: Path, draw: np.random.Generator, photos: Any) -> list[_Tested]:
    tested, lines = [], []
    for number in range(POPE_PICTURES):
        picture, name = _picture(draw, photos, 0.3), f"COCO_val2014_{number:012d}.jpg"
        (folder / name).write_bytes(saved(picture))
        questions = [asked_for_object(draw) for _ in range(2)]
        for question in questions:
            label = "yes" if draw.random() < 0.5 else "no"
            lines.append({"question_id": len(lines) + 1, "image": name, "text": question, "label": label})
        tested.append(_Tested(_read(folder / name), [Asked(question, [question]) for question in questions]))
    (folder / "coco_pope_random.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tested


def _write_vqa(folder: Path, draw: np.random.Generator, photos: Any, hand: list[Asked]) -> list[_Tested]:
    tested, questions, annotations = [], [], []
    waiting = iter(hand)
    for number in range(VQA_PICTURES):
        picture, name = _picture(draw, photos, 0.3), f"COCO_val2014_{number:012d}.jpg"
        (folder / name).write_bytes(saved(picture))
        asked = [next(waiting, None) or asked_by_grammar(draw), asked_by_grammar(draw)]
        generic = GENERIC[draw.integers(len(GENERIC))]
        for each in [*asked, Asked(generic, [generic])]:
            key = {"question_id": len(questions) + 1, "image_id": number}
            questions.append({**key, "question": each.question})
            annotations.append({**key, "answers": [{"answer": "yes"}] * 10})
        tested.append(_Tested(_read(folder / name), asked))
    (folder / "questions.json").write_text(json.dumps({"questions": questions}))
    (folder / "annotations.json").write_text(json.dumps({"annotations": annotations}))
    return tested


def _read(path: Path) -> Image.Image:
    return Image.open(path).convert("RGB")


def _leaking_rows(planted: Planted, tested: list[_Tested], num_by_hand: int, draw: np.random.Generator) -> list[dict]:
    rows = []
    of_pictures = [tested[place] for place in draw.permutation(len(tested))[:PICTURE_LEAKS]]
    for number, (leak, how) in enumerate(zip(of_pictures, itertools.cycle(LEAKS), strict=False)):
        row, name = f"picture{number}", f"p{number}.img"
        (planted.images / name).write_bytes(leaked_picture(leak.picture, how, draw))
        planted.pictures[row] = how
        question = other_question(draw)
        if number % 2:
            asked = leak.asked[draw.integers(len(leak.asked))]
            question = asked.rewordings[draw.integers(len(asked.rewordings))]
            planted.texts[row] = "with its picture"
        rows.append(_row(row, name, [question], draw))
    # POPE's questions say nothing without their pictures
    of_vqa = tested[POPE_PICTURES:]
    asked = [each for one in of_vqa for each in one.asked]
    by_hand = [one.asked[0] for one in of_vqa[:num_by_hand]]
    chosen = [(each, wording) for each in by_hand for wording in each.rewordings]
    others = [each for each in asked if each not in by_hand]
    for place in draw.permutation(len(others))[: TEXT_LEAKS - len(chosen)]:
        each = others[place]
        chosen.append((each, [each.question, *each.rewordings][draw.integers(1 + len(each.rewordings))]))
    for number, (each, wording) in enumerate(chosen):
        row, name = f"text{number}", f"t{number}.jpg"
        (planted.images / name).write_bytes(saved(drawn_picture(draw)))
        planted.texts[row] = "by hand" if each in by_hand else "same" if wording == each.question else "by grammar"
        extra = [GENERIC[draw.integers(len(GENERIC))]] if draw.random() < 0.5 else []
        rows.append(_row(row, name, [*extra, wording], draw))
    return rows


def _other_rows(
    planted: Planted,
    tested: list[_Tested],
    photos: list[bytes],
    near: list[str],
    number: int,
    draw: np.random.Generator,
) -> list[dict]:
    """Rows that leak nothing, two on a picture."""
    rows: list[dict] = []
    waiting, unused = iter(near), iter(photos)
    for place in range(number):
        name = f"{place // 2}.jpg"
        if place % 2 == 0:
            content = next(unused, None)
            if content is None:
                content = saved(drawn_picture(draw))
                if draw.random() < 0.1:
                    content = saved(sibling(tested[draw.integers(len(tested))].picture, draw))
            (planted.images / name).write_bytes(content)
        if (question := next(waiting, None)) is None:
            kind = draw.random()
            question = asked_for_object(draw) if kind < 0.3 else GENERIC[draw.integers(len(GENERIC))]
            question = question if kind < 0.6 else other_question(draw)
        second = [GENERIC[draw.integers(len(GENERIC))]] if draw.random() < 0.3 else []
        rows.append(_row(f"other{place}", name, [question, *second], draw))
    return rows


def _row(name: str, image: str, questions: list[str], draw: np.random.Generator) -> dict:
    turns = []
    for question in questions:
        prefix = "" if turns else "<image>\n"
        turns += [{"from": "human", "value": prefix + question}, {"from": "gpt", "value": answer(draw)}]
    return {"id": name, "image": image, "conversations": turns}
