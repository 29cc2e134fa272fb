"""Pictures of every layout lie in packs, alone and behind what rows share; and their features, where they can be kept."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from transformers import set_seed

from llavakit import LlavaCollator, LlavaSFTConfig, LlavaSFTTrainer, load_conversations
from llavakit.checkpoints.building import build_llava, save_llava
from llavakit.rows.loading import without_decoding
from llavakit.train.packing.certificate import certify

from ...cpu_training import CPU_SETTINGS

LAYOUTS: dict[str, dict[str, Any]] = {
    "anyres": {"image_aspect_ratio": "anyres", "projector_type": "mlp2x_gelu"},
    "tiles": {"image_aspect_ratio": "tiles", "projector_type": "pixel_shuffle_mlp"},
    "native": {"image_aspect_ratio": "native", "projector_type": "linear"},
    "pooled": {"projector_type": "linear", "projector_options": {"pooled_tokens": 1}},
}
SIZES = [(28, 28), (90, 30), (30, 75), (60, 60), (28, 150)]


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Two rows about each of five pictures of unlike sizes, and one of text alone."""
    turns = []
    for number, size in enumerate(SIZES):
        Image.effect_noise(size, 90).convert("RGB").save(tmp_path / f"{number}.png")
        turns += [(number, "what is in the picture"), (number, "say it again")]
    talks = [
        {
            "id": str(index),
            "image": f"{number}.png",
            "conversations": [
                {"from": "human", "value": f"<image>\n{question}"},
                {"from": "gpt", "value": "a red cat " * (1 + index % 3)},
            ],
        }
        for index, (number, question) in enumerate(turns)
    ]
    talks.append(
        {"id": "text", "conversations": [{"from": "human", "value": "say"}, {"from": "gpt", "value": "a cat"}]}
    )
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(talks))
    return path


@pytest.fixture(params=LAYOUTS)
def made(request: pytest.FixtureRequest, tiny_backbones: tuple[str, str], tmp_path: Path) -> tuple[Any, Any, str]:
    set_seed(0)
    model, processor = build_llava(*tiny_backbones, **LAYOUTS[request.param])
    save_llava(model, processor, tmp_path / "llava")
    model.set_stage("instruct")
    return model, processor, str(tmp_path / "llava")


def test_they_are_certified(made: tuple[Any, Any, str], rows: Path):
    model, processor, _ = made
    samples = LlavaCollator(processor).samples(without_decoding(load_conversations(rows)))
    certificate = certify(model, processor, samples)
    assert certificate.holds and certificate.shared > 0 and certificate.rows == 11, certificate


@pytest.mark.slow
def test_rows_of_mixed_lengths_train_in_packs(made: tuple[Any, Any, str], rows: Path, tmp_path: Path):
    """In packs and alone, and with features kept where they can be: the same sum of losses before the first step."""
    _, processor, path = made

    def first_loss(name: str, **changes: Any) -> float:
        settings = {"max_steps": 1, "save_strategy": "no", "per_device_train_batch_size": 16, "max_length": 2048}
        args = LlavaSFTConfig(str(tmp_path / name), logging_steps=1, **settings, **CPU_SETTINGS, **changes)
        trainer = LlavaSFTTrainer(path, args, train_dataset=load_conversations(rows))
        for module in trainer.model.modules():
            if hasattr(module, "attention_dropout"):
                module.attention_dropout = 0.0
        trainer.train()
        return trainer.state.log_history[0]["loss"]

    padded = first_loss("padded", padding_free=False)
    longest = max(len(each.input_ids) for each in LlavaCollator(processor).samples(load_conversations(rows)))
    assert first_loss("packed", packing=True, pack_tokens=longest + 40) == pytest.approx(padded, abs=1e-5)
    if not processor.layout.own_sizes:
        kept = str(tmp_path / "kept")
        assert first_loss("kept", packing=True, pack_tokens=longest, feature_cache=kept) == pytest.approx(
            padded, abs=1e-5
        )
        assert len(list((tmp_path / "kept").rglob("*.safetensors"))) == len(SIZES)
