"""Samples to one batch of tensors: the one place where sequences are laid side by side."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

IGNORE_INDEX = -100


@dataclass
class Sample:
    """One sequence and its pictures.

    Args:
        input_ids: Shape (length,), image tokens in their places.
        labels: Shape (length,): the ids where they are supervised, else `IGNORE_INDEX`.
        images: Open pictures, upright RGB, in the order of their places.
        image_keys: What tells these pictures from others; none where that is not known.
    """

    input_ids: torch.Tensor
    labels: torch.Tensor
    images: list[Any] = field(default_factory=list)
    image_keys: tuple[Hashable, ...] = ()


def supervised_labels(input_ids: torch.Tensor, spans: Sequence[int]) -> torch.Tensor:
    """Labels of shape (length,): the ids inside the spans, `IGNORE_INDEX` outside.

    Args:
        input_ids: Shape (length,).
        spans: Where spans start and end, by turns: [start, end, start, end, ...].
    """
    labels = torch.full_like(input_ids, IGNORE_INDEX)
    for start, end in zip(spans[::2], spans[1::2], strict=True):
        labels[start:end] = input_ids[start:end]
    return labels


def padded_batch(
    samples: Sequence[Sample],
    *,
    pad_token_id: int,
    process_images: Callable[[list[Any]], Mapping[str, Any]],
    pad_to_multiple_of: int | None = None,
) -> dict[str, Any]:
    """One sample a row, padded on the right.

    Args:
        samples: At least one.
        pad_token_id: What `input_ids` are padded with.
        process_images: Pictures to what the model takes of them, by name; all of it goes into the batch.
        pad_to_multiple_of: Pad the length of the batch up to a multiple of this.

    Returns:
        `input_ids`, `attention_mask`, `labels` of shape (rows, length); and, when the batch has a picture, what
        `process_images` makes of all of them, in the order of the rows.
    """

    def padded(sequences: list[torch.Tensor], value: int) -> torch.Tensor:
        rows = pad_sequence(sequences, batch_first=True, padding_value=value)
        short_of = -rows.shape[1] % pad_to_multiple_of if pad_to_multiple_of else 0
        return pad(rows, (0, short_of), value=value)

    batch: dict[str, Any] = {
        "input_ids": padded([sample.input_ids for sample in samples], pad_token_id),
        "attention_mask": padded([torch.ones_like(sample.input_ids) for sample in samples], 0),
        "labels": padded([sample.labels for sample in samples], IGNORE_INDEX),
    }
    if images := [image for sample in samples for image in sample.images]:
        batch |= process_images(images)
    return batch
