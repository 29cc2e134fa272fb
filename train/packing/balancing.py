"""Which process takes which packs of an optimizer step: each about as many tokens, and as many views of images to encode.

sampler: packs in their order ──cut into steps──> swapped between processes ──> the same packs in each step
"""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
from accelerate.data_loader import SeedableRandomSampler
from torch.utils.data import RandomSampler, Sampler

from .packs import Packs

LEAST = 1e-9  # gain of a swap that is one


def balanced_sampler(order: Any, dataset: Any, args: Any) -> Any:
    """The sampler of a run, its steps shared out evenly where several processes take several packs each.

    Args:
        order: The sampler of the run.
        dataset: What it draws from.
        args: A `LlavaSFTConfig`.

    Returns:
        `order` itself where there is nothing to choose.
    """
    packs_of_process = args.train_batch_size * args.gradient_accumulation_steps
    if not isinstance(dataset, Packs) or args.world_size == 1 or packs_of_process == 1:
        return order
    if isinstance(order, RandomSampler):
        if not args.accelerator_config.use_seedable_sampler:
            return order  # drawn anew in each process, until accelerate has them agree
        # As accelerate would make of it, so that steps have the packs that they would have
        order = SeedableRandomSampler(order.data_source, data_seed=args.data_seed)
    return BalancedShares(order, dataset.weights, args.world_size, args.train_batch_size, packs_of_process)


class BalancedShares(Sampler[int]):
    """Packs in an order in which accelerate deals them out evenly: batches in turn, one to each process.

    Each step has the packs that it would have, and only who takes which differs. The last of an epoch, if it is not whole,
    is left as it is. (accelerate fills it up from the beginning of the epoch.)

    Args:
        order: A sampler of all packs.
        weights: Shape (packs, 2): tokens, and views to encode.
        processes: How many.
        packs_of_batch: That a process takes at once.
        packs_of_process: That it takes in a step.
    """

    def __init__(
        self, order: Sampler[int], weights: np.ndarray, processes: int, packs_of_batch: int, packs_of_process: int
    ) -> None:
        self.order, self.weights = order, weights
        self.processes, self.packs_of_batch, self.packs_of_process = processes, packs_of_batch, packs_of_process

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of an epoch; accelerate's data loader calls this."""
        if hasattr(self.order, "set_epoch"):
            self.order.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.order)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[int]:
        order = iter(self.order)
        while step := list(islice(order, self.processes * self.packs_of_process)):
            if len(step) < self.processes * self.packs_of_process:
                yield from step
                return
            shares = even_shares(self.weights[step], self.processes, self.packs_of_batch)
            for turn in range(0, self.packs_of_process, self.packs_of_batch):
                for share in shares:
                    yield from (step[pack] for pack in share[turn : turn + self.packs_of_batch])


def even_shares(weights: np.ndarray, processes: int, packs_of_batch: int = 1) -> list[list[int]]:
    """Share out the packs of a step, as many to each process.

    From the order as it is, the two packs are swapped that even out most, until no swap does: what is lessened is the sum of
    squares of each process's tokens and views, each by its mean. So shares are never less even than they were.

    Args:
        weights: Shape (packs, 2), packs a multiple of `processes * packs_of_batch`.
        processes: How many.
        packs_of_batch: That a process takes at once.

    Returns:
        For each process the numbers of its packs, heaviest first, so that those of one turn are about alike too.
    """
    owner = np.arange(len(weights)) // packs_of_batch % processes
    means = weights.sum(0) / processes
    parts = weights / np.where(means > 0, means, 1)
    loads = np.stack([parts[owner == process].sum(0) for process in range(processes)])
    while True:
        given = parts[None, :] - parts[:, None]  # (packs, packs, 2): what the owner of one gains by taking the other
        change = 2 * (given * (loads[owner][:, None] - loads[owner][None, :]) + given**2).sum(2)
        one, other = np.unravel_index(change.argmin(), change.shape)
        if change[one, other] > -LEAST:
            break
        loads[owner[one]] += given[one, other]
        loads[owner[other]] -= given[one, other]
        owner[[one, other]] = owner[[other, one]]
    heaviest_first = np.argsort(-parts.sum(1), kind="stable")
    return [[int(pack) for pack in heaviest_first if owner[pack] == process] for process in range(processes)]


def imbalance(weights: np.ndarray, shares: Sequence[Sequence[int]]) -> np.ndarray:
    """How much more than the mean the fullest process has, shape (2,): of tokens, and of views; 0: all have the same."""
    loads = np.stack([weights[list(share)].sum(0) for share in shares])
    means = loads.mean(0)
    return np.where(means > 0, loads.max(0) / np.where(means > 0, means, 1) - 1, 0.0)
