"""Packs shared out evenly among processes: the same ones in each step, and about as much for each."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from accelerate.data_loader import BatchSamplerShard, SeedableRandomSampler
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import BatchSampler, RandomSampler, SequentialSampler

from llavakit import LlavaSFTConfig, LlavaSFTTrainer, load_conversations
from llavakit.train.packing.balancing import BalancedShares, balanced_sampler, even_shares, imbalance
from llavakit.train.packing.packs import Packs, weights_of
from llavakit.train.packing.planning import Unit, plan_packs

from ...cpu_training import CPU_SETTINGS


@st.composite
def runs(draw: st.DrawFn) -> tuple[np.ndarray, int, int, int]:
    """Weights of packs, processes, packs of a batch, packs of a process in a step."""
    processes, batch, turns = draw(st.integers(2, 5)), draw(st.integers(1, 3)), draw(st.integers(1, 4))
    number = draw(st.integers(0, 3 * processes * batch * turns))
    tokens = draw(st.lists(st.integers(1, 4096), min_size=number, max_size=number))
    views = draw(st.lists(st.integers(0, draw(st.sampled_from([0, 1, 30]))), min_size=number, max_size=number))
    return np.array([*zip(tokens, views, strict=True)], float).reshape(-1, 2), processes, batch, batch * turns


def unevenness(weights: np.ndarray, shares: list[list[int]]) -> float:
    loads = np.stack([weights[share].sum(0) for share in shares])
    means = loads.mean(0)
    return float(((loads - means)[:, means > 0] ** 2 / means[means > 0] ** 2).sum())


@settings(max_examples=150, deadline=None)
@given(runs(), st.integers(0, 3))
def test_each_step_has_the_same_packs_dealt_out_more_evenly(run: tuple[np.ndarray, int, int, int], epoch: int):
    """As accelerate deals them out: every pack once, none in another step, no step less even than it was."""
    weights, processes, batch, of_process = run
    order = SeedableRandomSampler(range(len(weights)), data_seed=3) if len(weights) else SequentialSampler([])
    sampler = BalancedShares(order, weights, processes, batch, of_process)
    sampler.set_epoch(epoch)
    found = list(sampler)
    sampler.set_epoch(epoch)
    assert found == list(sampler) and len(sampler) == len(found)  # a run that goes on finds them where they were
    sampler.set_epoch(epoch)
    before, of_step = list(order), processes * of_process
    dealt = [
        list(BatchSamplerShard(BatchSampler(each, batch, False), processes, process, even_batches=False))
        for process in range(processes)
        for each in (before, found)
    ]
    old, new, turns = dealt[::2], dealt[1::2], of_process // batch
    for step in range(len(weights) // of_step):
        assert sorted(before[step * of_step :][:of_step]) == sorted(found[step * of_step :][:of_step])
        shares = [
            [[pack for part in own[step * turns :][:turns] for pack in part] for own in each] for each in (old, new)
        ]
        assert all(len(share) == of_process for share in shares[1])
        assert unevenness(weights, shares[1]) <= unevenness(weights, shares[0]) + 1e-9
    assert found[len(weights) // of_step * of_step :] == before[len(weights) // of_step * of_step :]


def test_shares_that_can_be_alike_are():
    weights = np.array([[10, 3], [10, 3], [6, 1], [6, 1]])
    assert imbalance(weights, [[0, 1], [2, 3]]) == pytest.approx([0.25, 0.5])
    shares = even_shares(weights[[0, 2, 1, 3]], 2)  # dealt out in turn: both heavy ones to the first
    assert sorted(weights[[0, 2, 1, 3]][share].sum(0).tolist() for share in shares) == [[16, 4], [16, 4]]
    assert imbalance(np.array([[5.0, 0], [5, 0]]), [[0], [1]]) == pytest.approx([0, 0])


def llava_mix(number: int, chance: np.random.Generator) -> tuple[list[int], list[int]]:
    """Tokens and images of rows as LLaVA-1.5's 665K have them: questions about 576 tokens of a picture, and text alone."""
    kinds = chance.choice(["short", "talk", "region", "text"], number, p=[0.55, 0.24, 0.15, 0.06])
    text = {"short": (90, 0.6), "talk": (230, 0.5), "region": (500, 0.5), "text": (500, 0.8)}
    tokens = [min(1400, int(chance.lognormal(np.log(text[kind][0]), text[kind][1])) + 20) for kind in kinds]
    images = [int(kind != "text") for kind in kinds]
    return [each + 576 * image for each, image in zip(tokens, images, strict=True)], images


def mean_imbalance(processes: int, of_process: int, balanced: bool) -> np.ndarray:
    lengths, images = llava_mix(40_000, np.random.default_rng(0))
    units = [Unit((row,), length) for row, length in enumerate(lengths)]
    weights = weights_of(plan_packs(lengths, 4096, units=units), units, images)
    found = []
    for start in range(0, len(weights) - processes * of_process + 1, processes * of_process):
        step = weights[start : start + processes * of_process]
        dealt = [list(range(process, len(step), processes)) for process in range(processes)]
        found.append(imbalance(step, even_shares(step, processes) if balanced else dealt))
    return np.mean(found, axis=0)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [4, 8])
def test_a_mix_like_llava_s(processes: int):
    """The figures of docs/speed.md, with four packs of 4,096 tokens a process and step."""
    before, after = (mean_imbalance(processes, 4, balanced) for balanced in (False, True))
    assert before[1] > 0.05 and after[1] < 0.03
    assert after[0] < 0.01 and after[0] <= before[0]


def test_weights_count_a_shared_picture_once():
    units = [Unit((0, 2), 9), Unit((1,), 6), Unit((3,), 8)]
    assert weights_of([[0, 2, 3], [1]], units, [2, 1, 2, 0]).tolist() == [[17, 2], [6, 1]]
    assert weights_of([], [], []).shape == (0, 2)


def test_nothing_is_chosen_where_nothing_can_be():
    packs = Packs(None, [[0], [1]], np.ones((2, 2)))  # type: ignore[arg-type]

    def chosen(dataset: Any = packs, order: Any = None, **given: Any) -> bool:
        args = {"train_batch_size": 2, "gradient_accumulation_steps": 1, "world_size": 2, "data_seed": 0, **given}
        args["accelerator_config"] = SimpleNamespace(use_seedable_sampler=given.get("seedable", True))
        order = SequentialSampler(packs) if order is None else order
        return balanced_sampler(order, dataset, SimpleNamespace(**args)) is not order

    assert chosen() and chosen(order=RandomSampler(packs))
    assert not chosen(world_size=1) and not chosen(train_batch_size=1) and not chosen(dataset=[1, 2])
    assert not chosen(order=RandomSampler(packs), seedable=False)
    assert chosen(train_batch_size=1, gradient_accumulation_steps=2)


def test_a_run_knows_the_weights_of_its_packs(
    tiny_llava: str, rows_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Tokens that the collator lays, and views that the model is given; and its sampler deals by them."""
    args = LlavaSFTConfig(str(tmp_path), packing=True, pack_tokens=700, save_strategy="no", **CPU_SETTINGS)
    trainer = LlavaSFTTrainer(tiny_llava, args, train_dataset=load_conversations(rows_file))
    packs: Any = trainer.train_dataset
    batches = [trainer.data_collator([packs[pack]]) for pack in range(len(packs))]
    found = [(batch["input_ids"].numel(), len(batch.get("pixel_values", ()))) for batch in batches]
    assert [tuple(each) for each in packs.weights] == found and len(found) > 1
    assert type(trainer._get_train_sampler()) is RandomSampler
    monkeypatch.setattr(LlavaSFTConfig, "world_size", 2)
    trainer.args.gradient_accumulation_steps = 2
    sampler: Any = trainer._get_train_sampler()
    assert isinstance(sampler, BalancedShares) and sampler.weights is packs.weights
