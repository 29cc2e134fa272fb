"""Features that are kept are those of the encoder, and never another's; what is lost or damaged is made anew."""

import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from llavakit import LlavaSFTConfig, LlavaSFTTrainer, load_conversations
from llavakit.train.step import caching
from llavakit.train.step.caching import settle_feature_cache
from llavakit.train.step.feature_cache import FEATURES, FeatureCache, cache_key, encode_images
from llavakit.train.step.frozen_vision import heard_layers_alone

from ..cpu_training import CPU_SETTINGS


@pytest.fixture
def llava(tiny_llava: str) -> Any:
    return AutoModelForImageTextToText.from_pretrained(tiny_llava, stage="instruct", dtype=torch.float32)


@pytest.fixture(scope="module")
def processor(tiny_llava: str) -> Any:
    return AutoProcessor.from_pretrained(tiny_llava)


def train(model: str, rows: Any, folder: Path, **changes: Any) -> tuple[list[float], LlavaSFTTrainer]:
    settings = {
        "per_device_train_batch_size": 4,
        "num_train_epochs": 2,
        "max_length": 512,
        "learning_rate": 1.0,
        "optim": "sgd",
        "logging_steps": 1,
        "save_strategy": "no",
        "gradient_checkpointing": False,
    }
    trainer = LlavaSFTTrainer(
        model, LlavaSFTConfig(str(folder), **{**settings, **CPU_SETTINGS, **changes}), None, rows
    )
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry], trainer


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.safetensors"))


class Counted:
    """How often each layer of a tower is called."""

    def __init__(self, llava: Any) -> None:
        layers = llava.model.vision_tower.encoder.layers
        self.calls = [0] * len(layers)
        for number, layer in enumerate(layers):
            layer.self_attn.register_forward_hook(lambda *_, number=number: self._count(number))

    def _count(self, number: int) -> None:
        self.calls[number] += 1


@pytest.mark.slow
@pytest.mark.parametrize("padding_free", [None, False])
def test_the_losses_are_those_without(tiny_llava: str, rows_file: Path, tmp_path: Path, padding_free: bool | None):
    rows = load_conversations(rows_file)
    options = {"padding_free": padding_free}
    without, _ = train(tiny_llava, rows, tmp_path / "off", feature_cache="off", **options)
    cached, trainer = train(tiny_llava, rows, tmp_path / "on", feature_cache=str(tmp_path / "kept"), **options)
    assert cached == pytest.approx(without, abs=2e-6)
    assert len(files(tmp_path / "kept")) == 11  # a file a picture; one of twelve rows has none
    batch = next(iter(trainer.get_train_dataloader()))
    assert FEATURES in batch and "pixel_values" not in batch
    again, _ = train(tiny_llava, rows, tmp_path / "again", feature_cache=str(tmp_path / "kept"), **options)
    assert again == cached


@pytest.mark.parametrize("gradient_checkpointing", [False, True])
def test_a_frozen_tower_runs_once_and_as_far_as_it_is_heard(
    llava, processor, rows_file: Path, tmp_path: Path, gradient_checkpointing: bool
):
    counted = Counted(llava)
    args = LlavaSFTConfig(
        str(tmp_path),
        per_device_train_batch_size=4,
        max_steps=1,
        save_strategy="no",
        feature_cache="off",
        gradient_checkpointing=gradient_checkpointing,
        **CPU_SETTINGS,
    )
    trainer = LlavaSFTTrainer(llava, args, None, load_conversations(rows_file), processing_class=processor)
    with heard_layers_alone(trainer.model) as left_out:
        assert left_out == 1
        with heard_layers_alone(trainer.model) as more:  # an evaluation in the middle of a training
            assert more == 0
    counted.calls[:] = [0] * len(counted.calls)
    trainer.train()
    tried = 2  # a blank image, before and after the layers behind are left out
    assert counted.calls == [1 + tried] * (len(counted.calls) - 1) + [1]
    assert "forward" not in vars(llava.model.vision_tower.encoder.layers[-1])


def test_another_encoder_finds_nothing(llava, processor, tmp_path: Path):
    key = cache_key(llava, processor, None)
    assert key == cache_key(llava, processor, None)
    assert key != cache_key(llava, processor, torch.bfloat16)
    with torch.no_grad():
        next(llava.model.vision_tower.parameters()).add_(1e-3)
    changed = cache_key(llava, processor, None)
    assert changed != key
    llava.config.vision_feature_layer = -1
    assert cache_key(llava, processor, None) not in (key, changed)


@pytest.mark.slow
def test_what_is_damaged_is_made_anew(tiny_llava: str, rows_file: Path, tmp_path: Path, processor):
    rows, kept = load_conversations(rows_file), tmp_path / "kept"
    losses, trainer = train(tiny_llava, rows, tmp_path / "first", feature_cache=str(kept))
    first, second, third, *_ = files(kept)
    whole = first.read_bytes()
    first.write_bytes(whole[: len(whole) // 2])
    second.unlink()
    third.write_bytes(b"")
    again, _ = train(tiny_llava, rows, tmp_path / "second", feature_cache=str(kept))
    assert again == pytest.approx(losses, abs=2e-6)
    assert second.exists()


@pytest.mark.slow
def test_a_picture_that_changed_is_another(tiny_llava: str, rows_file: Path, tmp_path: Path):
    rows, kept = load_conversations(rows_file), tmp_path / "kept"
    train(tiny_llava, rows, tmp_path / "first", feature_cache=str(kept))
    before = set(files(kept))
    image = rows_file.parent / json.loads(rows_file.read_text())[1]["image"]
    from PIL import Image

    Image.open(image).rotate(180).save(image)
    changed, _ = train(tiny_llava, rows, tmp_path / "second", feature_cache=str(kept))
    without, _ = train(tiny_llava, rows, tmp_path / "third", feature_cache="off")
    assert changed == pytest.approx(without, abs=2e-6)
    assert len(set(files(kept)) - before) == 1


@pytest.mark.slow
def test_a_folder_that_cannot_be_written_to_is_done_without(
    tiny_llava: str, rows_file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    rows, kept = load_conversations(rows_file), tmp_path / "kept"
    without, _ = train(tiny_llava, rows, tmp_path / "off", feature_cache="off")
    kept.write_text("a file where the folder would be")
    losses, _ = train(tiny_llava, rows, tmp_path / "on", feature_cache=str(kept))
    assert losses == without
    assert sum("features are no longer kept" in record.getMessage() for record in caplog.records) == 1


def test_auto_decides_by_measuring(
    llava, processor, tiny_llava: str, rows_file: Path, tmp_path: Path, monkeypatch, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path))
    _, trainer = train(tiny_llava, load_conversations(rows_file), tmp_path / "out", max_steps=1)
    rows = trainer.train_dataset

    def settled(showings: float, **options: Any) -> FeatureCache | None:
        return settle_feature_cache("auto", llava, processor, rows, showings, **options)

    assert trainer.data_collator.feature_cache is None  # seconds are not to be had here
    assert settled(12) is None  # a single pass
    assert not files(tmp_path)
    cache = settled(1e7)
    assert cache is not None and len(files(tmp_path)) == 11
    assert "feature cache: on" in caplog.text and "images shown 833333.3 times each" in caplog.text
    assert settled(13, goes_on=True) is not None  # as it was decided
    files(tmp_path)[0].unlink()
    assert settled(1e7, goes_on=True) is None
    monkeypatch.setattr(caching, "MOST_OF_DISK", 0.0)
    assert settled(1e7) is None and "are more than half of the disk's room" in caplog.text
    llava.set_stage("joint")
    assert settled(1e7) is None
    with pytest.raises(ValueError, match="--feature_cache here: the vision tower learns"):
        settle_feature_cache("here", llava, processor, rows, 1e7)


def test_a_picture_that_cannot_be_read_is_left_to_its_row(
    tiny_llava: str, rows_file: Path, tmp_path: Path, llava, processor
):
    args = {"feature_cache": str(tmp_path / "kept"), "on_bad_row": "skip"}
    rows = load_conversations(rows_file)
    _, trainer = train(tiny_llava, rows, tmp_path / "out", max_steps=1, feature_cache="off")
    damaged = rows_file.parent / json.loads(rows_file.read_text())[1]["image"]
    damaged.write_bytes(damaged.read_bytes()[:100])
    assert settle_feature_cache("auto", llava, processor, trainer.train_dataset, 1e7) is not None
    losses, _ = train(tiny_llava, rows, tmp_path / "other", **args)
    assert len(losses) == 6 and len(files(tmp_path / "kept")) == 10


def test_what_is_kept_is_what_the_encoder_says(llava, processor, tmp_path: Path):
    from PIL import Image

    picture = Image.effect_noise((40, 30), 60).convert("RGB")
    [entry] = encode_images(llava, [picture], processor)
    cache = FeatureCache(tmp_path, "key")
    assert cache.write(b"picture", entry)
    found = cache.batch([b"picture", b"picture"])
    assert found is not None and torch.equal(found[FEATURES], torch.cat([entry[FEATURES]] * 2))
    assert cache.batch([b"picture", b"other"]) is None
    pixels = processor.process_images([picture])
    with torch.no_grad():
        direct = llava.eval().get_image_features(**pixels, return_dict=True).pooler_output[0]
        connected = llava.model.multi_modal_projector(entry[FEATURES], llava.config.patch_grid)[0]
    assert torch.equal(direct, connected)
    assert not [name for name in os.listdir(tmp_path / "key") if name.endswith(".part")]
