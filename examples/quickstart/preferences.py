"""New scenes for who goes on from the quickstart's model by preferences or rewards, and POPE's questions about others.

    OUT/rows.jsonl, contexts.jsonl   true answers, and what is in each picture: for `llavakit data pairs`
    OUT/questions.jsonl              short questions with their answers: for a reward
    OUT/pope/                        questions about scenes that none of these show, in POPE's files: for `llavakit eval`

A kind of thing is a colour and a shape, "red circle". Of the pairs that the quickstart holds out there is nothing here.
"""

import json
import os
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..data_generation.pairs import NEGATIVES
from ..data_generation.pairs.object_counts import ObjectCounts, categories_of
from ..rows.files import write_rows
from ..rows.schema import make_row
from .questions import KINDS, Examiner, with_article
from .rows import Turn, detail_turn
from .world import COLOURS, SHAPES, Scene, held_out_pairs, sample_scene, save_scenes

MOST_OF_A_PICTURE = 3  # things that are there and are asked about, and as many that are not (arXiv:2305.10355)


def write_scenes(output_dir: str | os.PathLike, seed: int = 0, scenes: int = 1200, exam_scenes: int = 60) -> None:
    """Draw scenes, and write what there is to learn from them, and to be asked.

    Args:
        output_dir: A folder, new or of an earlier call.
        seed: Of the quickstart whose model is to go on.
        scenes: How many to learn from.
        exam_scenes: How many others POPE's questions are about.
    """
    folder = Path(output_dir)
    held_out = held_out_pairs(seed)
    rng = random.Random(f"preferences {seed}")
    shown = [sample_scene(rng, held_out) for _ in range(scenes)]
    pictures = save_scenes(shown, folder, "pictures")
    contexts = [context_of(scene, picture) for scene, picture in zip(shown, pictures, strict=True)]
    write_rows(contexts, folder / "contexts.jsonl")
    write_rows(_rows(shown, contexts, rng), folder / "rows.jsonl")
    pairs = frozenset((colour, shape) for colour in COLOURS for shape in SHAPES) - held_out
    questions = _questions(shown, contexts, Examiner(rng, pairs), random.Random(f"presence {seed}"))
    write_rows((_prompt(*asked, folder.resolve()) for asked in questions), folder / "questions.jsonl")

    rng = random.Random(f"POPE {seed}")
    asked = [sample_scene(rng, held_out) for _ in range(exam_scenes)]
    (folder / "pope").mkdir(exist_ok=True)
    pictures = save_scenes(asked, folder, "exam")
    _write_pope([context_of(*one) for one in zip(asked, pictures, strict=True)], folder / "pope", rng)


def context_of(scene: Scene, picture: str) -> dict[str, Any]:
    """What is in a scene, as `llavakit data contexts` has it: a box for each thing, and no captions."""
    width, height = scene.picture_size
    instances = [
        {
            "category": f"{thing.colour} {thing.shape}",
            "bbox": [round(edge / side, 3) for edge, side in zip(thing.box, (width, height) * 2, strict=True)],
        }
        for thing in scene.things
    ]
    return {"id": Path(picture).stem, "image": picture, "captions": [], "instances": instances}


def presence_question(category: str) -> str:
    return f"Is there {with_article(category)}?"


def absent_by_rank(context: dict[str, Any], counts: ObjectCounts, negatives: str, rng: random.Random) -> list[str]:
    """The kinds of things that are not in a picture, as POPE ranks them; what ranks the same in an order that is drawn."""
    present = categories_of(context)
    absent = sorted(set(counts.pictures) - set(present))
    rng.shuffle(absent)
    return sorted(absent, key=lambda category: -NEGATIVES[negatives](counts, category, present))


def _rows(scenes: Sequence[Scene], contexts: list[dict[str, Any]], rng: random.Random) -> list[dict[str, Any]]:
    """Whether things are in a scene, of which half are and half are not; and of every 4th scene a description.

    Each kind is absent where it is asked about as often as it is there: POPE's own ranking, which asks about some far more
    often than about others, teaches their names.
    """
    ahead: Counter[str] = Counter()  # of each kind, how many more questions have a yes
    kinds = sorted(ObjectCounts(contexts).pictures)
    rows = []
    for number, (scene, context) in enumerate(zip(scenes, contexts, strict=True)):
        name, picture, present = context["id"], context["image"], categories_of(context)
        if number % 4 == 0:
            rows.append(make_row(f"{name}-detail", picture, [detail_turn(scene, rng)]))
        absent = rng.sample([one for one in kinds if one not in present], len(kinds) - len(present))
        ahead.update(present)
        absent = sorted(absent, key=lambda one: -ahead[one])[: len(present)]
        ahead.subtract(absent)
        for category, answer in [*((one, "yes") for one in present), *((one, "no") for one in absent)]:
            turn: Turn = (presence_question(category), answer)
            rows.append(make_row(f"{name}-{category.replace(' ', '-')}", picture, [turn]))
    return rows


def _questions(
    scenes: Sequence[Scene], contexts: list[dict[str, Any]], examiner: Examiner, rng: random.Random
) -> Iterator[tuple[str, str, str]]:
    """Of each scene the picture, a question and its answer, twice: a question of the exam's kinds, and one of POPE's.

    The latter is about a thing that is there, or, of every second scene, about one that is not.
    """
    kinds = sorted(ObjectCounts(contexts).pictures)
    for number, (scene, context) in enumerate(zip(scenes, contexts, strict=True)):
        question, present = examiner.ask(scene, KINDS[number % len(KINDS)]), categories_of(context)
        if question is not None:
            yield context["image"], question.text, question.answer
        if number % 2 == 0:
            yield context["image"], presence_question(rng.choice(sorted(present))), "yes"
        else:
            yield context["image"], presence_question(rng.choice([one for one in kinds if one not in present])), "no"


def _prompt(picture: str, question: str, answer: str, folder: Path) -> dict[str, Any]:
    """A question as trl has prompts, its answer beside it."""
    prompt = [{"role": "user", "content": question}]
    return {"images": [str(folder / picture)], "prompt": prompt, "answer": answer}


def _write_pope(contexts: list[dict[str, Any]], folder: Path, rng: random.Random) -> None:
    """POPE's three files of labels, and LLaVA's one of questions, which says how each is put."""
    counts, asked = ObjectCounts(contexts), []
    for negatives in NEGATIVES:
        labelled: list[dict[str, Any]] = []
        for context in contexts:
            present = categories_of(context)[:MOST_OF_A_PICTURE]
            absent = absent_by_rank(context, counts, negatives, rng)[: len(present)]
            for category, label in [*((one, "yes") for one in present), *((one, "no") for one in absent)]:
                number = len(labelled) + 1
                text = presence_question(category)
                row = {"question_id": number, "image": context["image"], "text": text}
                labelled.append({**row, "label": label})
                asked.append({**row, "question_id": f"{negatives}-{number}", "category": negatives})
        lines = "".join(json.dumps(row) + "\n" for row in labelled)
        (folder / f"coco_pope_{negatives}.json").write_text(lines, encoding="utf-8")
    write_rows(asked, folder / "llava_pope_test.jsonl")
