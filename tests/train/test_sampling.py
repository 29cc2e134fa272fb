"""Batches of one modality and length: every row once, also where there is one modality only."""

import pytest

from llavakit.train.sampling import ModalityLengthSampler


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("size", [0, 1, 7, 64, 203])
def test_every_row_once_and_batches_of_one_modality(size: int, share: float):
    lengths = [(row * 37) % 101 for row in range(size)]
    has_image = [row % 10 < share * 10 for row in range(size)]
    sampler = ModalityLengthSampler(lengths, has_image, batch_size=8, seed=3)
    order = list(sampler)
    assert sorted(order) == list(range(size)) and len(sampler) == size
    full = sum(has_image) // 8 + (size - sum(has_image)) // 8
    for batch in range(full):
        assert len({has_image[row] for row in order[batch * 8 : batch * 8 + 8]}) == 1


def test_batches_hold_similar_lengths():
    lengths = [(row * 7919) % 1000 for row in range(400)]
    order = list(ModalityLengthSampler(lengths, [True] * 400, batch_size=8))
    spread = [
        max(lengths[row] for row in order[i : i + 8]) - min(lengths[row] for row in order[i : i + 8])
        for i in range(0, 400, 8)
    ]
    assert max(spread) < 60


def test_the_order_depends_on_seed_and_epoch_alone():
    def order(seed: int, epoch: int) -> list[int]:
        sampler = ModalityLengthSampler(list(range(100)), [True] * 100, batch_size=4, seed=seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert order(0, 1) == order(0, 1)
    assert order(0, 1) != order(0, 2)
    assert order(0, 1) != order(1, 1)


def test_arguments_are_checked():
    with pytest.raises(ValueError, match="has 2 entries and has_image 1"):
        ModalityLengthSampler([1, 2], [True], batch_size=1)
    with pytest.raises(ValueError, match="batch_size=0"):
        ModalityLengthSampler([1], [True], batch_size=0)
