"""Packs: where pieces lie, which rows go together, and a training by them."""

import json
import logging
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoProcessor

from llavakit import LlavaCollator, LlavaSFTConfig, LlavaSFTTrainer, load_conversations
from llavakit.train.batching import IGNORE_INDEX, Sample
from llavakit.train.packing.attention import as_on_a_gpu, packed_attention
from llavakit.train.packing.laying_out import order_of, packed_batch, shared_prefix
from llavakit.train.packing.packs import PackedStream, Packs
from llavakit.train.packing.pieces import Pieces
from llavakit.train.packing.planning import Unit, plan_packs, split_units

from ...cpu_training import CPU_SETTINGS

IMAGE = 9


def sample(ids: list[int], supervised: int, keys: tuple[Any, ...] = ()) -> Sample:
    """A sample whose last tokens are supervised, with a picture for each key."""
    tensor = torch.tensor(ids)
    labels = tensor.clone()
    labels[: len(ids) - supervised] = IGNORE_INDEX
    return Sample(tensor, labels, list(keys), keys)


def lay(samples: list[Sample], **options: Any) -> dict[str, Any]:
    return packed_batch(
        samples,
        pad_token_id=0,
        image_token_id=IMAGE,
        process_images=lambda images: {"pixel_values": images},
        **options,
    )


# ---- where pieces lie ----


def test_rows_about_one_picture_stand_behind_one_copy():
    batch = lay([sample([1, 9, 9, 5, 6], 1, ("a",)), sample([3, 4], 1), sample([1, 9, 9, 7, 8, 8], 2, ("a",))])
    pieces = batch["pieces"]
    assert batch["input_ids"].tolist() == [[1, 9, 9, 5, 6, 7, 8, 8, 3, 4]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 4, 3, 4, 5, 0, 1]]
    assert pieces == Pieces((3, 2, 3, 2), (None, 0, 0, None))
    assert batch["pixel_values"] == ["a"]
    assert pieces.tokens_of_rows == 13 and pieces.num_tokens == 10 and pieces.longest == 6
    places, targets = pieces.predictors(batch["labels"][0])
    assert places.tolist() == [3, 5, 6, 8] and targets.tolist() == [6, 8, 8, 4]


def test_a_token_behind_a_shared_prefix_is_predicted_by_its_end():
    batch = lay([sample([1, 9, 5, 6], 2, ("a",)), sample([1, 9, 7], 1, ("a",))])
    places, targets = batch["pieces"].predictors(batch["labels"][0])
    assert list(zip(places.tolist(), targets.tolist(), strict=True)) == [(1, 5), (2, 6), (1, 7)]


@pytest.mark.parametrize(
    ("samples", "shared"),
    [
        ([sample([1, 9, 9, 5, 6], 1, ("a",)), sample([1, 9, 9, 5, 7], 1, ("a",))], 4),
        ([sample([1, 9, 9, 5, 6], 2, ("a",)), sample([1, 9, 9, 5, 7], 1, ("a",))], 3),  # supervised in one
        ([sample([1, 9, 9], 0, ("a",)), sample([1, 9, 9, 5], 1, ("a",))], 0),  # something of each is to stay
        ([sample([2, 9, 9, 5], 1, ("a",)), sample([1, 9, 9, 5], 1, ("a",))], 0),
        ([sample([1, 2, 9, 5], 1, ("a",)), sample([1, 3, 9, 5], 1, ("a",))], 0),  # the question stands first
    ],
)
def test_what_is_shared(samples: list[Sample], shared: int):
    assert shared_prefix(samples, IMAGE) == shared


def test_pictures_are_told_apart_by_their_keys():
    other = lay([sample([1, 9, 5], 1, ("a",)), sample([1, 9, 6], 1, ("b",))])
    assert other["pieces"].prefixes == (None, None) and other["pixel_values"] == ["a", "b"]
    samples = [sample([1, 9, 5], 1, ("a",)), sample([2, 5], 1), sample([1, 9, 6], 1, ("a",))]
    assert order_of(samples) == [0, 2, 1]


def test_the_first_token_of_a_row_has_nobody_to_predict_it():
    batch = lay([sample([5, 6], 2), sample([7, 8], 2)])
    assert batch["labels"].tolist() == [[IGNORE_INDEX, 6, IGNORE_INDEX, 8]]


def test_filled_up_by_a_row_of_its_own():
    batch = lay([sample([5, 6, 7], 1)], pad_to_multiple_of=8)
    assert batch["input_ids"].tolist() == [[5, 6, 7, 0, 0, 0, 0, 0]]
    assert batch["pieces"] == Pieces((3, 5), (None, None), filled_up=True) and batch["pieces"].tokens_of_rows == 3


@pytest.mark.parametrize(
    ("lengths", "prefixes", "said"),
    [
        ((3, 0), (None, None), "piece 1 has 0 tokens"),
        ((3, 2), (None, 1), "piece 1 goes on from piece 1"),
        ((3, 2, 2), (None, 0, 1), "piece 2 goes on from piece 1"),
        ((3, 2), (None,), "2 lengths and 1 prefixes"),
    ],
)
def test_pieces_that_cannot_be(lengths: tuple[int, ...], prefixes: tuple[Any, ...], said: str):
    with pytest.raises(ValueError, match=said):
        Pieces(lengths, prefixes)


def test_masks_and_bounds_say_the_same():
    """The mask of the whole sequence, made another way: by who stands before whom in a row."""
    pieces = Pieces((4, 2, 3, 5), (None, 0, 0, None))
    before = pieces.places_before().tolist()
    for window in (None, 3):
        expected = torch.zeros(14, 14, dtype=torch.bool)
        for token in range(14):
            seen, distance = token, 0
            while seen >= 0 and (window is None or distance < window):
                expected[token, seen] = True
                seen, distance = before[seen], distance + 1
        assert torch.equal(pieces.whole_mask(window, torch.device("cpu"))[0, 0], expected)
    kernels = pieces.for_kernels(torch.device("cpu"))
    assert kernels["key_places"].tolist() == [*range(4), *range(4), 4, 5, *range(4), 6, 7, 8, *range(9, 14)]
    assert kernels["cu_seq_q"].tolist() == [0, 4, 6, 9, 14] and kernels["cu_seq_k"].tolist() == [0, 4, 10, 17, 22]
    assert (kernels["max_q"], kernels["max_k"]) == (5, 7)


# ---- which rows go together ----


@pytest.mark.parametrize("seed", range(20))
def test_every_row_is_in_one_pack_within_its_budget(seed: int):
    chance = random.Random(seed)
    lengths = [chance.randint(1, 100) for _ in range(chance.randint(1, 400))]
    packs = plan_packs(lengths, 100, seed=seed, window=64)
    assert sorted(row for pack in packs for row in pack) == list(range(len(lengths)))
    assert all(0 < sum(lengths[row] for row in pack) <= 100 for pack in packs)
    assert packs == plan_packs(lengths, 100, seed=seed, window=64)
    if len(lengths) > 100:
        assert packs != plan_packs(lengths, 100, seed=seed + 1, window=64)
        assert sum(lengths) / (100 * len(packs)) > 0.85


def test_units_stay_together():
    lengths = [5, 6, 7, 8]
    packs = plan_packs(lengths, 20, units=[Unit((0, 2), 9), Unit((1,), 6), Unit((3,), 8)])
    assert any({0, 2} <= set(pack) for pack in packs)
    assert split_units([0, 1, 2], 4, [6, 7, 8], 10) == [Unit((0, 1), 9), Unit((2,), 8)]
    assert split_units([0, 1], 0, [6, 7], 10) == [Unit((0,), 6), Unit((1,), 7)]


def test_a_row_longer_than_a_pack_is_named():
    with pytest.raises(ValueError, match="row 1 takes 2,000 tokens, and a pack holds 1,024: raise --pack_tokens"):
        plan_packs([10, 2000], 1024)


# ---- a training ----


@pytest.fixture
def paired_rows(rows_file: Path) -> Path:
    """The rows twice, other answers the second time: two about each picture."""
    rows = json.loads(rows_file.read_text())
    again = [json.loads(json.dumps(row)) for row in rows]
    for row in again:
        row["id"] = f"{row.get('id')} again"
        row["conversations"][-1]["value"] = "a blue dog again"
    path = rows_file.with_name("paired.json")
    path.write_text(json.dumps([*rows, *again]))
    return path


def trainer_of(model: str, rows: Path, folder: Path, **changes: Any) -> LlavaSFTTrainer:
    settings = {"per_device_train_batch_size": 1, "num_train_epochs": 2, "save_strategy": "no", "logging_steps": 1}
    settings |= {"max_length": 512, "gradient_checkpointing": False, "learning_rate": 1e-2}
    args = LlavaSFTConfig(str(folder), **{**settings, **CPU_SETTINGS, **changes})
    return LlavaSFTTrainer(model, args, train_dataset=load_conversations(rows))


def test_a_packed_training(tiny_llava: str, paired_rows: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO)
    trainer = trainer_of(tiny_llava, paired_rows, tmp_path / "out", packing=True, pack_tokens=800)
    packs = trainer.train_dataset
    assert isinstance(packs, Packs)
    rows = [row for pack in range(len(packs)) for row in packs.numbers(pack)]
    assert sorted(rows) == list(range(24))
    lengths = trainer.train_screening.lengths
    batches = [trainer.data_collator([packs[pack]]) for pack in range(len(packs))]
    assert all(batch["input_ids"].shape[1] <= 800 for batch in batches)
    assert sum(batch["pieces"].tokens_of_rows for batch in batches) == sum(lengths)
    shared = sum(batch["input_ids"].shape[1] for batch in batches)
    assert f"24 rows in {len(packs)} packs of up to 800 tokens" in caplog.text
    assert f"shared pictures save {1 - shared / sum(lengths):.1%} of all tokens" in caplog.text
    trainer.train()
    assert trainer.state.global_step == 2 * len(packs)
    assert trainer.state.log_history[-2]["loss"] < trainer.state.log_history[0]["loss"]
    supervised = [
        entry["supervised_token_rate"] for entry in trainer.state.log_history if "supervised_token_rate" in entry
    ]
    assert all(0 < rate < 0.2 for rate in supervised)


def test_packs_alone_share_nothing(tiny_llava: str, paired_rows: Path, tmp_path: Path):
    options = {"packing": True, "pack_tokens": 800, "share_images": False}
    trainer = trainer_of(tiny_llava, paired_rows, tmp_path / "out", **options)
    batches = [trainer.data_collator([trainer.train_dataset[pack]]) for pack in range(len(trainer.train_dataset))]
    assert all(set(batch["pieces"].prefixes) == {None} for batch in batches)


@pytest.mark.slow
def test_a_killed_packed_training_ends_as_if_it_had_not(tiny_llava: str, paired_rows: Path, tmp_path: Path):
    options = {"packing": True, "pack_tokens": 600, "max_steps": 6, "save_strategy": "steps", "save_steps": 4}
    whole = trainer_of(tiny_llava, paired_rows, tmp_path / "whole", **options)
    whole.train()
    resumed = trainer_of(tiny_llava, paired_rows, tmp_path / "again", **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-4"))
    ends = resumed.model.state_dict()
    assert all(torch.equal(tensor, ends[name]) for name, tensor in whole.model.state_dict().items())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"pack_tokens": 800}, "does nothing without --packing true"),
        ({"packing": True, "pack_tokens": 0}, "--pack_tokens 0"),
        ({"packing": True, "padding_free": False}, "--padding_free false forbids it"),
        ({"packing": True, "group_by_modality_length": True}, "leaves no padding"),
        ({"packing": True, "label_smoothing_factor": 0.1}, "--packing true: label_smoothing_factor needs"),
        ({"padding_free": True, "neftune_noise_alpha": 5.0}, "--padding_free true: neftune_noise_alpha scales"),
        ({"packing": True, "pack_tokens": 100}, "and a pack holds 100: raise --pack_tokens"),
    ],
)
def test_what_cannot_be_packed_is_refused(tiny_llava: str, rows_file: Path, tmp_path: Path, changes: dict, said: str):
    with pytest.raises(ValueError, match=said):
        trainer_of(tiny_llava, rows_file, tmp_path / "out", **changes)


def test_what_cannot_lie_end_to_end_is_padded(
    tiny_llava: str, rows_file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.INFO)
    trainer = trainer_of(tiny_llava, rows_file, tmp_path / "out", label_smoothing_factor=0.1, max_steps=1)
    assert trainer.padding_free is False and "label_smoothing_factor needs the scores" in caplog.text
    trainer.train()
    own = LlavaSFTTrainer(
        tiny_llava,
        LlavaSFTConfig(str(tmp_path / "own"), max_steps=1, save_strategy="no", **CPU_SETTINGS),
        data_collator=LlavaCollator(AutoProcessor.from_pretrained(tiny_llava)),
        train_dataset=load_conversations(rows_file),
    )
    assert own.padding_free is False
    own.train()


def test_the_model_is_given_back_as_it_was(tiny_llava: str, rows_file: Path, tmp_path: Path):
    trainer = trainer_of(tiny_llava, rows_file, tmp_path / "out", max_steps=1)
    config = trainer.model.model.language_model.config
    before = config._attn_implementation
    trainer.train()
    assert config._attn_implementation == before == "sdpa"
    first = trainer.evaluate(load_conversations(rows_file))["eval_loss"]
    padded = trainer_of(trainer.model, rows_file, tmp_path / "padded", padding_free=False)
    assert padded.evaluate(load_conversations(rows_file))["eval_loss"] == pytest.approx(first, abs=1e-5)


# ---- precision ----


def test_on_a_cpu_attention_is_computed_in_float32_also_under_autocast():
    """There torch's kernel goes back through short sequences of bfloat16 many times as slowly."""
    chance = torch.Generator().manual_seed(0)
    states = [torch.randn(1, 4, 12, 8, generator=chance).bfloat16() for _ in range(3)]
    pieces = Pieces((5, 7), (None, None))
    exact = packed_attention(torch.nn.Identity(), *(each.float() for each in states), None, pieces=pieces)[0]
    halves = packed_attention(torch.nn.Identity(), *states, None, pieces=pieces)[0]
    assert torch.equal(halves, exact.bfloat16())
    with torch.autocast("cpu", torch.bfloat16):
        mixed = packed_attention(torch.nn.Identity(), *(each.float() for each in states), None, pieces=pieces)[0]
        with as_on_a_gpu():
            own = packed_attention(torch.nn.Identity(), *states, None, pieces=pieces)[0]
    assert torch.equal(mixed, exact)
    assert not torch.equal(own, exact.bfloat16()) and torch.allclose(own.float(), exact, atol=3e-2)


# ---- a stream ----


def test_a_packed_stream_holds_every_row_once(tiny_llava: str, paired_rows: Path, tmp_path: Path):
    options = {"packing": True, "pack_tokens": 800, "max_steps": 2}
    whole = trainer_of(tiny_llava, paired_rows, tmp_path / "whole", **options)
    args = LlavaSFTConfig(str(tmp_path / "stream"), save_strategy="no", max_length=512, **CPU_SETTINGS, **options)
    stream = LlavaSFTTrainer(tiny_llava, args, train_dataset=load_conversations(paired_rows, streaming=True))
    packs = list(stream.train_dataset)
    assert sorted(row["row"] for pack in packs for row in pack) == list(range(24))
    assert [[row["row"] for row in pack] for pack in stream.train_dataset] == [
        [row["row"] for row in pack] for pack in packs
    ]
    collated = [stream.data_collator([pack]) for pack in packs]
    assert all(batch["input_ids"].shape[1] <= 800 for batch in collated)
    assert any(None not in batch["pieces"].prefixes[1:2] for batch in collated)  # some share their picture
    assert len(packs) <= len(whole.train_dataset) + 1
    small = PackedStream(stream.train_dataset.rows, 800, share_images=True, image_token_id=0, seed=0, window=5)
    assert sorted(row["row"] for pack in small for row in pack) == list(range(24))
    with pytest.raises(ValueError, match=r"row \d+ takes .* tokens, and a pack holds 100"):
        list(PackedStream(stream.train_dataset.rows, 100, share_images=False, image_token_id=0, seed=0))


@pytest.mark.slow
def test_a_packed_stream_goes_on_at_the_very_row(tiny_llava: str, paired_rows: Path, tmp_path: Path):
    options = {"packing": True, "pack_tokens": 600, "max_steps": 6, "save_strategy": "steps", "save_steps": 4}
    seen: dict[str, list[list[int]]] = {}

    def train(name: str, **changes: Any) -> LlavaSFTTrainer:
        settings = {"max_length": 512, "logging_steps": 1, "gradient_checkpointing": False, "learning_rate": 1e-2}
        settings |= {"per_device_train_batch_size": 1}
        args = LlavaSFTConfig(str(tmp_path / "out"), **settings, **CPU_SETTINGS, **options)
        trainer = LlavaSFTTrainer(tiny_llava, args, train_dataset=load_conversations(paired_rows, streaming=True))
        forward = trainer.compute_loss
        seen[name] = []

        def noting(model: Any, inputs: dict[str, Any], *rest: Any, **kwargs: Any) -> Any:
            seen[name].append(inputs["input_ids"][0].tolist())
            return forward(model, inputs, *rest, **kwargs)

        trainer.compute_loss = noting  # type: ignore[method-assign]
        trainer.train(**changes)
        return trainer

    whole = train("whole").model.state_dict()
    resumed = train("resumed", resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-4")).model.state_dict()
    assert len(seen["whole"]) == 6 and seen["resumed"] == seen["whole"][4:]
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.items())
