"""Two runs with one --output_dir: what is loaded from the folder is what was saved last, and nothing of the run before."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from llavakit.checkpoints.building import build_llava, save_llava
from llavakit.checkpoints.loading import load_model, load_processor
from llavakit.train import LlavaSFTTrainer, sft

SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
LORA = ["--use_peft", "--lora_target_modules", ".*language_model.*(q|v)_proj"]
IDS = torch.arange(3, 30)[None]


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory, write_backbones: Callable[..., tuple[str, str]]) -> Path:
    folder = tmp_path_factory.mktemp("desk")
    vision, language = write_backbones(
        folder, ["what is it a cat"], 300, {**SIZES, "image_size": 28, "patch_size": 14}, SIZES
    )
    save_llava(*build_llava(vision, language), folder / "llava")
    turns = [{"from": "human", "value": "what is it"}, {"from": "gpt", "value": "a cat"}]
    (folder / "rows.json").write_text(json.dumps([{"id": str(i), "conversations": turns} for i in range(4)]))
    return folder


@pytest.fixture
def train(desk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., torch.Tensor]:
    """Trains into one folder, and gives the scores of the model as it was when it was saved."""
    scores: list[torch.Tensor] = []
    save = LlavaSFTTrainer.save_model

    def noting(trainer: LlavaSFTTrainer, *args: object, **kwargs: object) -> None:
        with torch.no_grad():
            scores.append(trainer.model.eval()(input_ids=IDS).logits)
        save(trainer, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(LlavaSFTTrainer, "save_model", noting)

    def run(*flags: str) -> torch.Tensor:
        paths = [
            "--model_name_or_path",
            desk / "llava",
            "--dataset_name",
            desk / "rows.json",
            "--output_dir",
            tmp_path,
        ]
        few = "--max_steps 2 --learning_rate 3e-2 --save_strategy no --use_cpu --bf16 false --report_to none".split()
        sft._run([*map(str, paths), *few, *flags])
        return scores[-1]

    return run


@pytest.mark.slow
@pytest.mark.parametrize("first", ["adapter", "whole"])
def test_an_adapter_and_a_whole_model_are_not_mixed(
    train: Callable[..., torch.Tensor], tmp_path: Path, first: str
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    flags = (LORA, []) if first == "adapter" else ([], LORA)
    train(*flags[0])
    expected = train(*flags[1], "--seed", "7")
    with torch.no_grad():
        assert torch.allclose(load_model(tmp_path)(input_ids=IDS).logits, expected, atol=1e-5)
    assert load_processor(tmp_path).stop_string == "</s>"
    assert (tmp_path / "adapter_config.json").exists() is (first == "whole")
    assert (tmp_path / "model.safetensors").exists() is (first == "adapter")
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert not list(tmp_path.glob(".saving*"))
