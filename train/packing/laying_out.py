"""Samples laid end to end in one sequence, those about the same picture behind one copy of it."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..batching import IGNORE_INDEX, Sample
from .pieces import Pieces


def packed_batch(
    samples: Sequence[Sample],
    *,
    pad_token_id: int,
    image_token_id: int,
    process_images: Callable[[list[Any]], Mapping[str, Any]],
    pad_to_multiple_of: int | None = None,
) -> dict[str, Any]:
    """One sequence of all samples, none of which sees another.

    Samples of the same `image_keys` share what they begin with: the ids that are the same, up to the first supervised
    one. That is read once, with its pictures, and each sample goes on from there. Where a picture stands behind it, as
    after a question of one's own, nothing is shared.

    Args:
        samples: At least one.
        pad_token_id: What a length is filled up with, as a row of its own.
        image_token_id: What stands where an image goes.
        process_images: Pictures to what the model takes of them, by name.
        pad_to_multiple_of: Fill the sequence up to a multiple of this.

    Returns:
        `input_ids`, `position_ids`, `labels` of shape (1, tokens); `pieces`, a `Pieces`; and, when there is a picture, what
        `process_images` makes of them, in the order in which they stand. A first token of a row is never supervised, since
        none stands before it.
    """
    laid: list[_Piece] = []
    for numbers in groups_of([sample.image_keys for sample in samples]):
        group = [samples[number] for number in numbers]
        shared = shared_prefix(group, image_token_id) if len(group) > 1 else 0
        laid += _laid_out(group, shared, first=len(laid))
    tokens = sum(len(piece.input_ids) for piece in laid)
    short_of = -tokens % pad_to_multiple_of if pad_to_multiple_of else 0
    if short_of:
        filler = torch.full((short_of,), pad_token_id)
        laid.append(_Piece(filler, torch.full_like(filler, IGNORE_INDEX), [], None))
    lengths = tuple(len(piece.input_ids) for piece in laid)
    pieces = Pieces(lengths, tuple(piece.prefix for piece in laid), filled_up=short_of > 0)
    batch: dict[str, Any] = {
        "input_ids": torch.cat([piece.input_ids for piece in laid])[None],
        "position_ids": pieces.position_ids()[None],
        "labels": torch.cat([piece.labels for piece in laid])[None],
        "pieces": pieces,
    }
    if images := [image for piece in laid for image in piece.images]:
        batch |= process_images(images)
    return batch


@dataclass
class _Piece:
    input_ids: torch.Tensor
    labels: torch.Tensor
    images: list[Any]
    prefix: int | None


def order_of(samples: Sequence[Sample]) -> list[int]:
    """Numbers of samples in the order in which `packed_batch` lays them."""
    return [number for group in groups_of([sample.image_keys for sample in samples]) for number in group]


def groups_of(image_keys: Sequence[tuple[Hashable, ...]]) -> list[list[int]]:
    """Numbers of rows about the same pictures together, in the order of their firsts; one without keys is alone."""
    groups: dict[Hashable, list[int]] = {}
    for number, keys in enumerate(image_keys):
        groups.setdefault(keys or number, []).append(number)
    return list(groups.values())


def shared_prefix(samples: Sequence[Sample], image_token_id: int) -> int:
    """How many tokens all of them begin with and may share; 0 where some picture stands behind those."""
    first = samples[0]
    length = min(len(sample.input_ids) for sample in samples) - 1  # of each something stays
    for sample in samples:
        ends = (first.input_ids[:length] != sample.input_ids[:length]) | (sample.labels[:length] != IGNORE_INDEX)
        if ends.any():
            length = int(ends.int().argmax())
    return 0 if any((sample.input_ids[length:] == image_token_id).any() for sample in samples) else length


def _laid_out(samples: Sequence[Sample], shared: int, first: int) -> list[_Piece]:
    """The pieces of a group: each sample alone, or what they share and how each goes on."""
    if not shared:
        return [_Piece(each.input_ids, _without_first(each.labels), each.images, None) for each in samples]
    start = samples[0]
    prefix = _Piece(start.input_ids[:shared], start.labels[:shared], start.images, None)
    return [prefix, *(_Piece(each.input_ids[shared:], each.labels[shared:], [], first) for each in samples)]


def _without_first(labels: torch.Tensor) -> torch.Tensor:
    if labels[0] == IGNORE_INDEX:
        return labels
    labels = labels.clone()
    labels[0] = IGNORE_INDEX
    return labels
