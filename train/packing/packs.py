"""A data set of packs: each item some rows, which the collator lays end to end."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset

from ..batching import Sample, supervised_labels
from ..samples import Samples
from .laying_out import shared_prefix
from .planning import Unit, fill_of, plan_packs, split_units

logger = logging.getLogger(__name__)


class Packs(torch.utils.data.Dataset):
    """Rows of a data set, some at a time.

    Args:
        rows: Prepared rows.
        packs: Numbers of the rows of each item.
    """

    def __init__(self, rows: Dataset, packs: Sequence[Sequence[int]]) -> None:
        self.rows = rows
        self._rows_of_packs = np.concatenate([np.asarray(pack) for pack in packs]) if packs else np.array([], int)
        self._ends = np.cumsum([len(pack) for pack in packs])

    def __len__(self) -> int:
        return len(self._ends)

    def numbers(self, pack: int) -> list[int]:
        """Which rows a pack is of."""
        start = self._ends[pack - 1] if pack else 0
        return self._rows_of_packs[start : self._ends[pack]].tolist()

    def __getitem__(self, pack: int) -> list[dict[str, Any]]:
        if not 0 <= pack < len(self):
            raise IndexError(f"pack {pack} of {len(self)}")
        return [self.rows[number] for number in self.numbers(pack)]


def packs_of(
    rows: Dataset, samples: Samples, budget: int | None, *, share_images: bool, image_token_id: int, seed: int
) -> Packs:
    """Plan packs of prepared rows, and say how full they are.

    Args:
        rows: The usable rows, in the order of `samples.usable`.
        samples: What became of all rows.
        budget: Most tokens of a pack. None: those of the longest row.
        share_images: Rows about the same pictures go into the same pack, behind one copy of them.
        image_token_id: What stands where an image goes.
        seed: Of the order.

    Raises:
        ValueError: A row is longer than the budget.
    """
    usable = samples.usable
    lengths = [samples.lengths[row] for row in usable]
    budget = budget or max(lengths)
    units = _units(samples, usable, lengths, budget, image_token_id) if share_images else None
    packs = plan_packs(lengths, budget, units=units, seed=seed)
    taken = sum(lengths) if units is None else sum(unit.tokens for unit in units)
    saved = f"; shared pictures save {1 - taken / sum(lengths):.1%} of all tokens" if taken < sum(lengths) else ""
    logger.info(
        "%s rows in %s packs of up to %s tokens, %.1f rows and %.1f %% of its room each%s.",
        f"{len(lengths):,}",
        f"{len(packs):,}",
        f"{budget:,}",
        len(lengths) / len(packs),
        100 * fill_of(packs, taken, budget),
        saved,
    )
    return Packs(rows, packs)


def _units(samples: Samples, usable: list[int], lengths: list[int], budget: int, image_token_id: int) -> list[Unit]:
    """Rows about the same pictures together, as far as they share a prefix."""
    groups: dict[Any, list[int]] = {}
    for number, row in enumerate(usable):
        groups.setdefault(samples.image_keys[row] or number, []).append(number)
    units: list[Unit] = []
    for group in groups.values():
        prefix = 0
        if len(group) > 1:
            prefix = shared_prefix([_ids_and_labels(samples, usable[number]) for number in group], image_token_id)
        units += split_units(group, prefix, lengths, budget)
    return units


def _ids_and_labels(samples: Samples, row: int) -> Sample:
    entry = samples.table[row]
    ids = torch.tensor(entry["input_ids"])
    return Sample(ids, supervised_labels(ids, entry["supervised_spans"]))
