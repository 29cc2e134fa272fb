"""Captions to stage-1 rows by the paper's naive expansion (arXiv:2304.08485, section 4.2 and equation 2).

Each image-caption pair becomes one turn: a question that asks for a brief description, drawn from a list, and the
caption as its answer. The first turn is [question, image] or [image, question], by a fair coin.
"""

import random
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ...rows.bad_rows import BadAnnotation, BadAnnotations
from ...rows.schema import make_row

# Ways to ask for what a caption says: briefly, and of the picture alone
BRIEF_QUESTIONS = (
    "Say in a sentence what this picture shows.",
    "What can be seen here, in short?",
    "Sum up the image in a few words.",
    "Write a short caption for this photo.",
    "What is the main content of this image? Be brief.",
    "Put the scene into one sentence.",
    "Give a compact account of what is pictured.",
    "How would you caption this image?",
    "Tell me briefly what is going on in the picture.",
    "Name what this image is about, in a line.",
    "Offer a terse description of the photograph.",
)


def alignment_rows(
    pairs: Iterable[Mapping[str, Any]], seed: int = 0, bad: BadAnnotations | None = None
) -> Iterator[dict[str, Any]]:
    """Expand image-caption pairs to rows.

    Args:
        pairs: `{"id", "image", "caption"}`, one a row to be made.
        seed: Draws the question and the order. The draw of a row depends on the seed, its id and its caption alone,
            so a subset or another order of the pairs gives the same rows.
        bad: What to do with a pair that cannot be used. Default: stop.

    Yields:
        `{"id", "image", "conversations"}`, with `<image>` before or after the question.

    Raises:
        BadAnnotation: A pair that lacks a field or has an empty caption; the message names it.
    """
    bad = bad or BadAnnotations()
    yield from bad.map(lambda numbered: _row(*numbered, seed), enumerate(pairs))


def _row(number: int, pair: Mapping[str, Any], seed: int) -> dict[str, Any]:
    lacking = [name for name in ("id", "image", "caption") if pair.get(name) is None]
    if lacking:
        raise BadAnnotation(
            f"pair {number} ({dict(pair)!r:.200}) lacks {lacking}. Add what is missing, or drop the pair."
        )
    caption = str(pair["caption"]).strip()
    if not caption:
        raise BadAnnotation(f"the pair of id {pair['id']!r} has an empty caption. Write one, or drop the pair.")
    draw = random.Random(f"{seed}/{pair['id']}/{caption}")
    question = draw.choice(BRIEF_QUESTIONS)
    return make_row(str(pair["id"]), pair["image"], [(question, caption)], image_first=draw.random() < 0.5)
