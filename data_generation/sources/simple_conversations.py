"""Captions and boxes to short conversations by rule: enough to try the chatbot stage on one's own photographs.

What is asked can be read off the annotation with certainty: which kinds of object are there, how many of one kind,
which of two stands further left, and what is going on (the caption). A teacher writes better ones; see the data
engine.
"""

import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

from ...rows.answer_formats import NUMBER_WORDS
from ...rows.schema import make_row
from ..ids import UniqueIds

# A difference of box centres below this share of the width is no clear left or right
CLEAR_SHARE = 0.1


def simple_conversation_rows(
    captions: dict[str, list[str]], instances: dict[str, list[dict[str, Any]]], seed: int = 0
) -> Iterator[dict[str, Any]]:
    """A conversation for each image that has a caption.

    Args:
        captions: File name -> captions, of `read_coco_captions`.
        instances: File name -> objects, of `read_coco_instances`; an image may have none.
        seed: Draws the caption and the kind of object that is counted.

    Yields:
        Rows of the original's format, `<image>` at the head of the first turn, one to four exchanges.
    """
    ids = UniqueIds()
    for name, texts in captions.items():
        if not texts:
            continue
        draw = random.Random(f"{seed}/{name}")
        exchanges = [
            ("What is happening in this photo?", draw.choice(texts)),
            *_about_objects(instances.get(name, []), draw),
        ]
        yield make_row(ids.of_image(name), name, exchanges)


def _about_objects(objects: list[dict[str, Any]], draw: random.Random) -> Iterator[tuple[str, str]]:
    counts = Counter(item["category"] for item in objects)
    if not counts:
        return
    kinds = sorted(counts)
    yield "Which kinds of object can you make out?", f"I can make out these: {', '.join(kinds)}."
    counted = draw.choice(kinds)
    number = counts[counted]
    word = NUMBER_WORDS[number] if number < len(NUMBER_WORDS) else str(number)
    yield f"How many objects of the kind '{counted}' are there?", f"There {'is' if number == 1 else 'are'} {word}."
    singles = [item for item in objects if counts[item["category"]] == 1]
    if len(singles) >= 2:
        left, right = sorted(draw.sample(singles, 2), key=_centre)
        if _centre(right) - _centre(left) >= CLEAR_SHARE:
            first, second = sorted((left["category"], right["category"]))
            yield f"Which is further left, the {first} or the {second}?", f"The {left['category']}."


def _centre(item: dict[str, Any]) -> float:
    x, _, width, _ = item["bbox"]
    return (x + width / 2) / item["size"][0]
