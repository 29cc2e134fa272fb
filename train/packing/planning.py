"""Which rows go into a pack together: by their exact lengths, so that none is cut or left out."""

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

ROWS_OF_WINDOW = 2048  # packed together: more fill packs better, and leave less to chance


@dataclass(frozen=True)
class Unit:
    """Rows that stay together.

    Args:
        rows: Their numbers.
        tokens: What they take in a pack.
    """

    rows: tuple[int, ...]
    tokens: int


def plan_packs(
    lengths: Sequence[int],
    budget: int,
    *,
    units: Sequence[Unit] | None = None,
    seed: int = 0,
    window: int = ROWS_OF_WINDOW,
    names: Sequence[str] | None = None,
) -> list[list[int]]:
    """Packs of rows, each row in one of them.

    Rows are shuffled, cut into windows, and within a window laid into packs, longest first, each into the fullest pack that
    still has room for it (best-fit decreasing: 11/9 of the fewest packs at worst). So a row meets rows of its window alone;
    the packs stand in an order of chance again.

    Args:
        lengths: Tokens of each row.
        budget: Most tokens of a pack.
        units: Rows that stay together. Default: each row is one.
        seed: Of the order.
        window: Units that are laid out together.
        names: What to call each row in an error.

    Raises:
        ValueError: A row, or a unit, is longer than the budget, naming the row and the remedy.
    """
    if units is None:
        units = units_alone(lengths)
    for unit in units:
        if unit.tokens > budget:
            name = names[unit.rows[0]] if names is not None else f"row {unit.rows[0]}"
            raise ValueError(
                f"{name} takes {unit.tokens:,} tokens, and a pack holds {budget:,}: raise --pack_tokens, or cut "
                f"rows with --max_length {budget}."
            )
    order = np.random.default_rng(seed)
    shuffled = order.permutation(len(units))
    packs: list[list[int]] = []
    for start in range(0, len(units), window):
        packs += _fill([units[index] for index in shuffled[start : start + window]], budget)
    return [packs[index] for index in order.permutation(len(packs))]


def units_alone(lengths: Sequence[int]) -> list[Unit]:
    """Each row a unit of its own."""
    return [Unit((row,), length) for row, length in enumerate(lengths)]


def _fill(units: Sequence[Unit], budget: int) -> list[list[int]]:
    packs: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (what is left, number of the pack), least first
    for unit in sorted(units, key=lambda unit: -unit.tokens):
        found = bisect_left(room, (unit.tokens, -1))
        if found < len(room):
            left, pack = room.pop(found)
        else:
            left, pack = budget, len(packs)
            packs.append([])
        packs[pack] += unit.rows
        insort(room, (left - unit.tokens, pack))
    return packs


def split_units(rows: Sequence[int], prefix: int, lengths: Sequence[int], budget: int) -> list[Unit]:
    """Rows that share a prefix as units that fit into a pack: one, or several with the prefix in each.

    Args:
        rows: Their numbers.
        prefix: Tokens that they share; 0 for none.
        lengths: Tokens of each row of the data, the prefix included.
        budget: Most tokens of a pack.
    """
    if not prefix:
        return [Unit((row,), lengths[row]) for row in rows]
    units: list[Unit] = []
    taken, tokens = [rows[0]], lengths[rows[0]]
    for row in rows[1:]:
        rest = lengths[row] - prefix
        if tokens + rest > budget:
            units.append(Unit(tuple(taken), tokens))
            taken, tokens = [row], lengths[row]
        else:
            taken.append(row)
            tokens += rest
    return [*units, Unit(tuple(taken), tokens)]


def fill_of(packs: Sequence[Sequence[int]], tokens: int, budget: int) -> float:
    """Share of the packs' room that is taken: 0 to 1."""
    return tokens / (len(packs) * budget) if packs else 1.0
