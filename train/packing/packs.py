"""A data set of packs: each item some rows, which the collator lays end to end."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count, islice
from typing import Any

import numpy as np
import torch
from datasets import Dataset

from ..batching import Sample, supervised_labels
from ..samples import Samples
from .laying_out import groups_of, shared_prefix
from .planning import Unit, fill_of, plan_packs, split_units, units_alone

logger = logging.getLogger(__name__)

ROWS_OF_STREAM_WINDOW = 512


class Packs(torch.utils.data.Dataset):
    """Rows of a data set, some at a time.

    Args:
        rows: Prepared rows.
        packs: Numbers of the rows of each item.
        weights: Shape (packs, 2): tokens of each, and views of images that are encoded for it.
    """

    def __init__(self, rows: Dataset, packs: Sequence[Sequence[int]], weights: np.ndarray) -> None:
        self.rows, self.weights = rows, weights
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


class PackedStream(torch.utils.data.IterableDataset):
    """Packs of a stream of prepared rows, planned window by window: as many rows lie in memory, and no more.

    Every row is in a pack, once an epoch; the same stream gives the same packs, so that a resumed run goes on at the very row.

    Args:
        rows: The stream.
        budget: Most tokens of a pack.
        share_images: Rows about the same pictures, within a window, go into the same pack.
        image_token_id: What stands where an image goes.
        seed: Of the order within a window.
        window: Rows that are planned together.
    """

    def __init__(
        self,
        rows: Any,
        budget: int,
        *,
        share_images: bool,
        image_token_id: int,
        seed: int,
        window: int = ROWS_OF_STREAM_WINDOW,
    ) -> None:
        self.rows, self.budget, self.share_images = rows, budget, share_images
        self.image_token_id, self.seed, self.window = image_token_id, seed, window

    def set_epoch(self, epoch: int) -> None:
        self.rows.set_epoch(epoch)

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        rows = iter(self.rows)
        for number in count():
            waiting = list(islice(rows, self.window))
            if not waiting:
                return
            lengths = [row["length"] for row in waiting]
            units = self._units(waiting, lengths) if self.share_images else None
            names = [f"row {row['row']}" for row in waiting]
            for pack in plan_packs(lengths, self.budget, units=units, seed=self.seed + number, names=names):
                yield [waiting[row] for row in pack]

    def _units(self, rows: list[dict[str, Any]], lengths: list[int]) -> list[Unit]:
        keys = [tuple(row["image_keys"] or ()) for row in rows]
        samples = (_sample_of(row) for row in rows)
        return _units(keys, lengths, dict(enumerate(samples)).__getitem__, self.budget, self.image_token_id)


def packs_of(
    rows: Dataset,
    samples: Samples,
    budget: int | None,
    *,
    share_images: bool,
    image_token_id: int,
    seed: int,
    views_of: Callable[[Sequence[int]], int] = lambda size: 1,
) -> Packs:
    """Plan packs of prepared rows, and say how full they are.

    Args:
        rows: The usable rows, in the order of `samples.usable`.
        samples: What became of all rows.
        budget: Most tokens of a pack. None: those of the longest row.
        share_images: Rows about the same pictures go into the same pack, behind one copy of them.
        image_token_id: What stands where an image goes.
        seed: Of the order.
        views_of: How many views the vision tower encodes of an image of this size.

    Raises:
        ValueError: A row is longer than the budget.
    """
    usable = samples.usable
    lengths = [samples.lengths[row] for row in usable]
    budget = budget or max(lengths)
    units = units_of(samples, budget, image_token_id) if share_images else units_alone(lengths)
    packs = plan_packs(lengths, budget, units=units, seed=seed, names=[f"row {row}" for row in usable])
    taken = sum(unit.tokens for unit in units)
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
    return Packs(rows, packs, weights_of(packs, units, views_of_rows(samples, views_of)))


def weights_of(packs: Sequence[Sequence[int]], units: Sequence[Unit], views: Sequence[int]) -> np.ndarray:
    """Tokens of each pack, and views that are encoded for it, shape (packs, 2). Rows of a unit share their pictures."""
    unit_of = {unit.rows[0]: unit for unit in units}
    firsts = [[row for row in pack if row in unit_of] for pack in packs]
    return np.array(
        [(sum(unit_of[row].tokens for row in rows), sum(views[row] for row in rows)) for rows in firsts]
    ).reshape(-1, 2)


def encoded_views(processor: Any) -> Callable[[Sequence[int]], int]:
    """How much the vision tower encodes of an image of a size: views, or where those have sizes of their own, its tokens."""
    if processor.layout.own_sizes:
        return lambda size: processor.plan(*size).num_tokens
    return lambda size: processor.plan(*size).num_views


def views_of_rows(samples: Samples, views_of: Callable[[Sequence[int]], int]) -> list[int]:
    """How many views of images are encoded for each usable row."""
    known: dict[tuple[int, ...], int] = {}
    usable, found = samples.usable, []
    for sizes, number in zip(samples.image_sizes, samples.num_images, strict=True):
        for size in sizes[:number]:
            if size not in known:
                known[size] = views_of(size)
        found.append(sum(known[size] for size in sizes[:number]))
    return [found[row] for row in usable]


def units_of(samples: Samples, budget: int, image_token_id: int) -> list[Unit]:
    """Usable rows, by their number among them, as units: those about the same pictures together."""
    usable = samples.usable
    keys, lengths = [samples.image_keys[row] for row in usable], [samples.lengths[row] for row in usable]
    return _units(keys, lengths, lambda row: _sample_of(samples.table[usable[row]]), budget, image_token_id)


def _units(
    keys: Sequence[tuple[str, ...]],
    lengths: Sequence[int],
    sample: Callable[[int], Sample],
    budget: int,
    image_token_id: int,
) -> list[Unit]:
    """Rows about the same pictures together, as far as they share a prefix."""
    units: list[Unit] = []
    for group in groups_of(keys):
        prefix = shared_prefix([sample(row) for row in group], image_token_id) if len(group) > 1 else 0
        units += split_units(group, prefix, lengths, budget)
    return units


def _sample_of(entry: Mapping[str, Any]) -> Sample:
    """A prepared row without its pictures."""
    ids = torch.tensor(entry["input_ids"])
    return Sample(ids, supervised_labels(ids, entry["supervised_spans"]))
