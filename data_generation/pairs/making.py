"""From rows, contexts and rejected answers to pairs, in the form of trl's preference data.

A pair is a line::

    {"id": "000000296284-detail-0", "type": "object", "images": ["000000296284.jpg"],
     "prompt": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is there?"}]}],
     "chosen": [{"role": "assistant", "content": "A donut ..."}], "rejected": [{"role": "assistant", "content": "A cake ..."}],
     "instead_of": "donut", "named": "cake"}
"""

import itertools
import os
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ...rows.files import Row, read_rows, write_object, write_rows
from ...rows.images import resolve_images
from ...rows.registry import look_up
from ...rows.schema import make_row, normalize_row, row_name
from ..contexts.schema import read_contexts
from ..filters import object_words
from ..filters.hallucination import Hallucination
from ..filters.object_words import ObjectWords
from . import NEGATIVES
from .falsify import Falsified, Falsifier, contradicted
from .mending import mended, read_rejected
from .object_counts import Context, ObjectCounts

OBJECT, YES_NO, INVENTED = "object", "yes_no", "invented"  # the types of pairs
HALLUCINATION = "hallucination"  # the filter whose rejects are mended


def write_pairs(
    output: str | os.PathLike,
    rows: str | os.PathLike | None = None,
    contexts: str | os.PathLike | None = None,
    rejected: str | os.PathLike | None = None,
    *,
    negatives: str = "adversarial",
    image_folder: str | os.PathLike | None = None,
    words: str | os.PathLike | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Write pairs, and beside them a report (`<name>.report.json`).

    Args:
        output: File of pairs (.jsonl, .json or .parquet).
        rows: File of rows whose answers are true. An answer that is "yes" or "no" is contradicted; in any other that names
            an object of the picture, one that is not there takes its place.
        contexts: Captions and boxes of the rows' pictures. Without them only yes and no are contradicted.
        rejected: The `.rejected.jsonl` that `llavakit data filter` left. Of what its hallucination filter rejected, an
            answer is rejected as it is, and chosen without the sentences that invent.
        negatives: How the object that is not there is drawn, a key of `NEGATIVES`.
        image_folder: Where image paths start; they are written whole then. Default: they are written as they stand.
        words: An English vocabulary like `object_words.json`. Default: the shipped one.
        seed: Draws which object of an answer is replaced, and by which.

    Returns:
        The report: `pairs`; `pairs_by_type`, of `object`, `yes_no` and `invented`; `named`, of each object how often it is
        in the answer that is rejected; and `left_out`, why answers made no pair.

    Raises:
        ValueError: Neither rows nor rejected ones, an unknown `negatives`, a file that is not of its form, an output that
            would overwrite one of them, or no pair at all.
    """
    if rows is None and rejected is None:
        raise ValueError("there is nothing to make pairs of: give a file of rows, --rejected, or both.")
    if Path(output).resolve() in [Path(read).resolve() for read in (rows, contexts, rejected) if read is not None]:
        raise ValueError(f"{output} would overwrite what pairs are made of. Name another file with -o.")
    odds = look_up(NEGATIVES, negatives, "--negatives")
    left_out: Counter[str] = Counter()
    made: list[Iterator[Row]] = []
    if rows is not None:
        told = {} if contexts is None else {context["image"]: context for context in read_contexts(contexts)}
        falsifier = Falsifier(ObjectWords(words or object_words.SHIPPED), ObjectCounts(told.values()), odds)
        made.append(_pairs_of_rows(read_rows(rows), told, falsifier, left_out, seed))
    if rejected is not None:
        made.append(_pairs_of_rejected(read_rows(rejected), Hallucination(words), left_out, seed))

    by_type: Counter[str] = Counter()
    named: Counter[str] = Counter()

    def counted() -> Iterator[Row]:
        for pair in itertools.chain.from_iterable(made):
            by_type[pair["type"]] += 1
            named.update([pair["named"]] if pair["type"] == OBJECT else [])
            if image_folder is not None:
                pair["images"] = resolve_images(pair["images"], Path(image_folder).resolve(), row_name(pair))
            yield pair
        if not by_type:
            why = ", ".join(f"{count:,} {reason}" for reason, count in left_out.items()) or "the file has none"
            raise ValueError(f"{output} would be empty: no answer made a pair ({why}).")

    count = write_rows(counted(), output)
    report = {
        "pairs": count,
        "pairs_by_type": dict(by_type),
        "named": dict(named.most_common()),
        "left_out": dict(left_out),
    }
    write_object(report, Path(output).with_suffix(".report.json"))
    return report


def _pairs_of_rows(
    rows: Iterable[Mapping[str, Any]],
    told: Mapping[str, Context],
    falsifier: Falsifier,
    left_out: Counter[str],
    seed: int,
) -> Iterator[Row]:
    """A pair for each answer of each row that can be made untrue."""
    for row in rows:
        read = normalize_row(row)
        image = read["images"][0] if len(read["images"]) == 1 else None  # a context is of one
        context = told.get(image) if isinstance(image, str) else None
        for place, message in enumerate(read["messages"]):
            if message["role"] != "assistant":
                continue
            answer = "".join(block["text"] for block in message["content"])
            untrue = contradicted(answer)
            kind = OBJECT if untrue is None else YES_NO
            if not read["images"]:
                left_out["about no picture"] += 1
                continue
            if untrue is None and context is None:
                left_out["about a picture without a context"] += 1
                continue
            if untrue is None and context is not None:
                untrue = falsifier(answer, context, random.Random(f"{seed}/{read['id']}/{place}"))
            if untrue is None:
                left_out["without an object that could be replaced"] += 1
                continue
            yield _pair(f"{read['id']}-{place // 2}", kind, read, place, answer, untrue)


def _pairs_of_rejected(
    rows: Iterable[Mapping[str, Any]], check: Hallucination, left_out: Counter[str], seed: int
) -> Iterator[Row]:
    """A pair for each hallucinating answer that can be mended."""
    for row in rows:
        if row.get("filter") != HALLUCINATION:
            left_out["rejected by another filter"] += 1
            continue
        sample = read_rejected(row)
        found = mended(sample, check)
        if found is None:
            left_out["of which nothing true would be left"] += 1
            continue
        exchanges, kept = found
        image_first = random.Random(f"{seed}/{sample.id}").random() < 0.5  # as the rows that are kept
        read = normalize_row(make_row(sample.id, sample.image, exchanges, image_first=image_first))
        untrue = Falsified(exchanges[-1][1], "", "")
        yield _pair(sample.id, INVENTED, read, len(read["messages"]) - 1, kept, untrue)


def _pair(row_id: str, kind: str, read: Row, place: int, chosen: str, untrue: Falsified) -> Row:
    """A pair about the answer at a place of a conversation, with what comes before it as its prompt."""
    prompt = read["messages"][:place]
    num_images = sum(block["type"] == "image" for message in prompt for block in message["content"])
    return {
        "id": row_id,
        "type": kind,
        "images": read["images"][:num_images],
        "prompt": prompt,
        "chosen": [{"role": "assistant", "content": chosen}],
        "rejected": [{"role": "assistant", "content": untrue.text}],
        "instead_of": untrue.instead_of,
        "named": untrue.named,
    }
