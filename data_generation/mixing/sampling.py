"""Sampling the kinds of instruction data for the chatbot stage (arXiv:2304.08485, section 4.2)."""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

SAMPLING = ("rows", "types")


def sample_uniformly(
    rows_by_type: Mapping[str, Sequence[dict[str, Any]]],
    num_rows: int | None = None,
    over: str = "rows",
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Draw a training set from rows of several types.

    Args:
        rows_by_type: For example conversation, detailed description and complex reasoning -> their rows.
        num_rows: How many to draw. Default: as many as there are.
        over: "rows" gives every row the same chance, so larger types weigh more; "types" gives every type the same
            share, so a smaller type's rows come back more often.
        seed: Seed of the draw.

    Returns:
        Rows in random order. A row comes again only after all others of its pool (of its type, or of all) have come
        as often.

    Raises:
        ValueError: An unknown `over`, a negative `num_rows`, or a type without rows.
    """
    if over not in SAMPLING:
        raise ValueError(f"over={over!r} is unknown; choose one of {SAMPLING}.")
    empty = [name for name, rows in rows_by_type.items() if not rows]
    if empty or not rows_by_type:
        raise ValueError(f"rows_by_type has no rows for {empty or 'any type'}. Leave empty types out.")
    total = sum(len(rows) for rows in rows_by_type.values())
    num_rows = total if num_rows is None else num_rows
    if num_rows < 0:
        raise ValueError(f"num_rows={num_rows} must not be negative.")
    draw = random.Random(seed)
    if over == "rows":
        pools = [[row for rows in rows_by_type.values() for row in rows]]
        shares = [num_rows]
    else:
        pools = [list(rows) for rows in rows_by_type.values()]
        # What does not divide evenly goes to types drawn at random
        extra = Counter(draw.sample(range(len(pools)), num_rows % len(pools)))
        shares = [num_rows // len(pools) + extra[position] for position in range(len(pools))]
    drawn = [row for pool, share in zip(pools, shares, strict=True) for row in _rounds(pool, share, draw)]
    draw.shuffle(drawn)
    return drawn


def _rounds(pool: list[dict[str, Any]], count: int, draw: random.Random) -> list[dict[str, Any]]:
    whole, rest = divmod(count, len(pool))
    return pool * whole + draw.sample(pool, rest)
