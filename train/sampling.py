"""Batches of like rows: one modality and about one length each, so that little is spent on padding."""

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler


class ModalityLengthSampler(Sampler[int]):
    """Visit every row once, batch by batch of one modality and of similar length (LLaVA-1.5, arXiv:2310.03744).

    Rows are shuffled, cut into pools of `pool_batches` batches, sorted by length within a pool, and the batches are
    shuffled. Rows that fill no batch of their modality stand together at the end. A data set of one modality is the
    plain case of this. The order depends on `seed` and the epoch alone, so a resumed run sees the same one.

    Args:
        lengths: Tokens of each row, image tokens included.
        has_image: Whether each row has an image.
        batch_size: Rows of one optimizer step over all devices.
        seed: Seed of the order.
        pool_batches: How many batches are sorted together: more means less padding and less chance.

    Raises:
        ValueError: The two sequences differ in length, or `batch_size` is not positive.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        has_image: Sequence[bool],
        batch_size: int,
        seed: int = 0,
        pool_batches: int = 50,
    ) -> None:
        if len(lengths) != len(has_image):
            raise ValueError(
                f"lengths has {len(lengths)} entries and has_image {len(has_image)}; each needs one a row."
            )
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size} must be at least 1.")
        self.lengths = torch.tensor(lengths)
        self.has_image = torch.tensor(has_image, dtype=torch.bool)
        self.batch_size = batch_size
        self.seed = seed
        self.pool_batches = pool_batches
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of an epoch; accelerate's data loader calls this."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        full: list[torch.Tensor] = []
        rest: list[torch.Tensor] = []
        for modality in (True, False):
            rows = torch.nonzero(self.has_image == modality).flatten()
            rows = rows[torch.randperm(len(rows), generator=generator)]
            for pool in rows.split(self.batch_size * self.pool_batches):
                longest_first = pool[self.lengths[pool].argsort(descending=True, stable=True)]
                for batch in longest_first.split(self.batch_size):
                    (full if len(batch) == self.batch_size else rest).append(batch)
        order = torch.randperm(len(full), generator=generator).tolist()
        batches = [full[position] for position in order] + rest
        return iter(torch.cat(batches).tolist() if batches else [])
