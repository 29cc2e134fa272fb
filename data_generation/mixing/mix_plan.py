"""How many rows each part of a mix gives, which ones, and in what order; and the report of it."""

import random
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...reports.tables import show, table


@dataclass
class Pool:
    """Rows that are drawn from together: those of a source, or in the default mix those of a kind.

    Args:
        name: The source's path, or the kind.
        ratio: Share asked for, or None when rows are counted.
        starts: Where its rows start in the scratch file.
        taken: How many are drawn.
    """

    name: str
    ratio: float | None = None
    starts: array = field(default_factory=lambda: array("q"))
    taken: int = 0


def plan(pools: list[Pool], num_rows: int | None, notes: list[str]) -> None:
    """Set how many rows each pool gives, when ratios were asked for.

    Args:
        pools: Of which some may be without rows; those leave the list.
        num_rows: Of the set. Default: as many as the ratios allow without any row coming twice.
        notes: Told what was changed of what was asked for.

    Raises:
        ValueError: No pool has rows.
    """
    if pools[0].ratio is None:
        return
    empty = [pool.name for pool in pools if not pool.starts]
    if empty:
        notes.append(f"no rows of {', '.join(empty)}: the others share the set")
        pools[:] = [pool for pool in pools if pool.starts]
    if not pools:
        raise ValueError("the sources have no rows.")
    total = sum(pool.ratio or 0 for pool in pools)
    if abs(total - 1) > 1e-6:
        notes.append(f"ratios sum to {total:g}, so each is divided by that")
    shares = [(pool.ratio or 0) / total for pool in pools]
    if num_rows is None:
        num_rows = int(min(len(pool.starts) / share for pool, share in zip(pools, shares, strict=True)) + 1e-6)
    taken = [int(num_rows * share + 1e-6) for share in shares]
    # What rounding down leaves over goes to the largest remainders
    by_remainder = sorted(range(len(pools)), key=lambda each: taken[each] - num_rows * shares[each])
    for each in by_remainder[: num_rows - sum(taken)]:
        taken[each] += 1
    for pool, count in zip(pools, taken, strict=True):
        pool.taken = count


def draw_order(pools: Iterable[Pool], seed: int) -> array:
    """Where the drawn rows start in the scratch file, in the order of the set."""
    order = array("q")
    for pool in pools:
        draw = random.Random(f"{seed}/{pool.name}")
        whole, rest = divmod(pool.taken, len(pool.starts))
        # A row comes again only after all others of its pool have come as often
        order += pool.starts * whole + array("q", draw.sample(pool.starts, rest))
    random.Random(seed).shuffle(order)
    return order


def mix_report(
    pools: list[Pool], counts: Counter[tuple[str, str | None]], total: int, notes: list[str]
) -> dict[str, Any]:
    """Rows available, taken, repeated and left out of each pool; rows by source and type; notes."""
    lines = []
    for pool in pools:
        available = len(pool.starts)
        repeats = max(pool.taken - available, 0)
        if repeats:
            notes.append(f"{Path(pool.name).name}: each row comes {pool.taken / available:.2f} times on average")
        line = {"pool": pool.name, "asked": pool.ratio, "share": pool.taken / total if total else 0.0}
        line |= {"available": available, "taken": pool.taken, "repeats": repeats}
        lines.append(line | {"left_out": max(available - pool.taken, 0)})
    by_type = [
        {"source": source, "type": kind, "rows": number} for (source, kind), number in sorted(counts.items(), key=str)
    ]
    return {"rows": total, "pools": lines, "by_source_and_type": by_type, "notes": notes}


def print_mix_report(report: Mapping[str, Any]) -> None:
    """Print the report as a table."""
    columns = ("source", "share", "asked", "available", "taken", "repeats", "left out")
    rows = [
        (
            line["pool"],
            f"{line['share']:.1%}",
            None if line["asked"] is None else f"{line['asked']:g}",
            *(line[name] for name in ("available", "taken", "repeats", "left_out")),
        )
        for line in report["pools"]
    ]
    show(table(columns, rows))
    for note in report["notes"]:
        print(f"note: {note}")
    print(f"{report['rows']:,} rows -> {report['output']}")
