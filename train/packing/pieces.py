"""Where the rows of a pack lie: pieces end to end, some of which go on from another.

    alone                   [system, image, question, answer]  [system, image, question, answer]
    with a shared prefix    [system, image]  [question, answer]  [question, answer]

Shapes: T tokens of the pack, K of them to be predicted.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import torch

from ..batching import IGNORE_INDEX


@dataclass(frozen=True)
class Pieces:
    """Pieces that fill a sequence, one after the other.

    Args:
        lengths: Tokens of each.
        prefixes: For each the number of an earlier piece that it goes on from, or None. That one goes on from none.
        filled_up: The last piece is no row, but what a length is filled up with.

    Raises:
        ValueError: A piece is empty, or goes on from one that is not there or goes on from another itself.
    """

    lengths: tuple[int, ...]
    prefixes: tuple[int | None, ...]
    filled_up: bool = False
    _made: dict[Any, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if len(self.lengths) != len(self.prefixes):
            raise ValueError(f"{len(self.lengths)} lengths and {len(self.prefixes)} prefixes: each piece needs both.")
        for piece, (length, prefix) in enumerate(zip(self.lengths, self.prefixes, strict=True)):
            if length < 1:
                raise ValueError(f"piece {piece} has {length} tokens.")
            if prefix is not None and (not 0 <= prefix < piece or self.prefixes[prefix] is not None):
                raise ValueError(f"piece {piece} goes on from piece {prefix}, which is no earlier piece on its own.")

    def __reduce__(self) -> Any:
        return Pieces, (self.lengths, self.prefixes, self.filled_up)

    @property
    def starts(self) -> list[int]:
        """Where each piece begins."""
        return [0, *accumulate(self.lengths)][:-1]

    @property
    def num_tokens(self) -> int:
        return sum(self.lengths)

    @property
    def rows(self) -> list[int]:
        """Numbers of the pieces that a row ends with: all but shared prefixes and what a length is filled up with."""
        shared = {prefix for prefix in self.prefixes if prefix is not None}
        return [piece for piece in range(len(self.lengths) - self.filled_up) if piece not in shared]

    @property
    def tokens_of_rows(self) -> int:
        """Tokens of all rows, each as if it stood alone."""
        return sum(self.lengths[piece] + self.before(piece) for piece in self.rows)

    @property
    def longest(self) -> int:
        """Tokens of the longest row, its prefix included."""
        return max(length + self.before(piece) for piece, length in enumerate(self.lengths))

    def before(self, piece: int) -> int:
        """Tokens that a piece goes on from."""
        prefix = self.prefixes[piece]
        return 0 if prefix is None else self.lengths[prefix]

    @property
    def shares(self) -> bool:
        """Whether a piece goes on from another."""
        return any(prefix is not None for prefix in self.prefixes)

    def products(self) -> tuple[list[slice], list[tuple[slice, slice]]]:
        """Of which tokens queries meet which keys, each pair once.

        Returns:
            Texts, in which each token sees those up to itself: a piece, or a prefix and the row that lies next to it. All
            tokens are in one of them. And for what else goes on from a prefix, its tokens and those of the prefix, all of
            which each sees; rows that lie side by side are taken together.
        """
        if "products" not in self._made:
            texts: list[slice] = []
            onward: list[tuple[slice, slice]] = []
            starts = self.starts
            for piece, (start, length, prefix) in enumerate(zip(starts, self.lengths, self.prefixes, strict=True)):
                own = slice(start, start + length)
                if prefix is not None and prefix == piece - 1:
                    texts[-1] = slice(texts[-1].start, own.stop)
                    continue
                texts.append(own)
                if prefix is None:
                    continue
                seen = slice(starts[prefix], starts[prefix] + self.lengths[prefix])
                if onward and onward[-1] == (slice(onward[-1][0].start, start), seen):
                    own = slice(onward.pop()[0].start, own.stop)
                onward.append((own, seen))
            self._made["products"] = texts, onward
        return self._made["products"]

    def position_ids(self) -> torch.Tensor:
        """Shape (T,): positions as if each row stood alone."""
        ranges = (
            torch.arange(self.before(piece), self.before(piece) + length) for piece, length in enumerate(self.lengths)
        )
        return torch.cat(list(ranges))

    def predictors(self, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Which token predicts each supervised one: the one before it in its row.

        Args:
            labels: Shape (T,): the id of each supervised token in its own place, else `IGNORE_INDEX`. The first token of a
                row has none before it.

        Returns:
            Two of shape (K,): places in the sequence, and the ids to be predicted there.
        """
        places = torch.nonzero(labels != IGNORE_INDEX).flatten()
        return self.places_before().to(labels.device)[places], labels[places]

    def places_before(self) -> torch.Tensor:
        """Shape (T,): the place of the token before each in its row; -1 for the first of a row."""
        if "before" not in self._made:
            before = torch.arange(-1, self.num_tokens - 1)
            starts = self.starts
            for start, prefix in zip(starts, self.prefixes, strict=True):
                before[start] = -1 if prefix is None else starts[prefix] + self.lengths[prefix] - 1
            self._made["before"] = before
        return self._made["before"]

    def mask(self, piece: int, window: int | None, device: torch.device) -> torch.Tensor | None:
        """What a piece sees: shape (its tokens, those before it and its own), true where it does.

        Args:
            piece: Its number.
            window: How far back a token sees, itself included; None: all the way.
            device: Where to put it.

        Returns:
            None where that is all before, and the piece goes on from none: plain causal attention.
        """
        length, before = self.lengths[piece], self.before(piece)
        if window is not None and window >= length + before:
            window = None
        if window is None and not before:
            return None
        key = length, before, window, device
        if key not in self._made:
            sees = torch.ones(length, before + length, dtype=torch.bool, device=device).tril(before)
            self._made[key] = sees if window is None else sees.triu(before - window + 1)
        return self._made[key]

    def whole_mask(self, window: int | None, device: torch.device) -> torch.Tensor:
        """What each token of the sequence sees, shape (1, 1, T, T), for implementations that take a mask."""
        key = "whole", window, device
        if key not in self._made:
            sees = torch.zeros(self.num_tokens, self.num_tokens, dtype=torch.bool, device=device)
            starts = self.starts
            for piece, (start, length) in enumerate(zip(starts, self.lengths, strict=True)):
                mask = self.mask(piece, window, device)
                if mask is None:
                    mask = torch.ones(length, length, dtype=torch.bool, device=device).tril()
                before = self.before(piece)
                sees[start : start + length, start : start + length] = mask[:, before:]
                if (prefix := self.prefixes[piece]) is not None:
                    sees[start : start + length, starts[prefix] : starts[prefix] + before] = mask[:, :before]
            self._made[key] = sees[None, None]
        return self._made[key]

    def for_kernels(self, device: torch.device) -> dict[str, Any]:
        """What kernels for sequences of many lengths ask for: bounds of queries and keys, the longest of each.

        Returns:
            `key_places`, shape (keys,): places of the keys, piece by piece, those before it first; None where each is there
            once and in order. `cu_seq_q`, `cu_seq_k`, shape (pieces + 1,), int32; `max_q` and `max_k`.
        """
        if device not in self._made:
            starts = self.starts
            of_keys = [length + self.before(piece) for piece, length in enumerate(self.lengths)]
            places = []
            for start, length, prefix in zip(starts, self.lengths, self.prefixes, strict=True):
                if prefix is not None:
                    places.append(torch.arange(starts[prefix], starts[prefix] + self.lengths[prefix]))
                places.append(torch.arange(start, start + length))
            self._made[device] = {
                "key_places": torch.cat(places).to(device) if self.shares else None,
                "cu_seq_q": _bounds(self.lengths, device),
                "cu_seq_k": _bounds(of_keys, device),
                "max_q": max(self.lengths),
                "max_k": max(of_keys),
            }
        return self._made[device]


def _bounds(lengths: Sequence[int], device: torch.device) -> torch.Tensor:
    return torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device)
