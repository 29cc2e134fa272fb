"""What the optimizer updates is float32, or the training does not start; and so it is in the shipped recipes."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoModelForImageTextToText

from llavakit import LlavaSFTConfig, LlavaSFTTrainer, load_conversations
from llavakit.train import precision

RECIPES = Path(__file__).resolve().parents[2] / "examples" / "recipes"


def recipes_that_differ() -> list[Any]:
    """What says of each recipe whether weights move; of recipes that say the same the first."""
    differ: dict[str, Any] = {}
    for path in sorted(RECIPES.glob("*.yaml")):
        said = yaml.safe_load(path.read_text())
        settings = {key: said[key] for key in ("stage", "learning_rate", "optim", "weight_decay", "bf16")}
        settings["model_init_kwargs"] = {"dtype": said.get("dtype", "float32")}
        differ.setdefault(str(settings), pytest.param(settings, id=path.stem))
    return list(differ.values())


def config(folder: Path, **changes) -> LlavaSFTConfig:
    settings = {"output_dir": str(folder), "per_device_train_batch_size": 2, "max_length": 256, "save_strategy": "no"}
    settings |= {"use_cpu": True, "report_to": "none", "disable_tqdm": True}
    return LlavaSFTConfig(**{**settings, **changes})


@pytest.mark.slow
@pytest.mark.parametrize("recipe", recipes_that_differ())
def test_weights_move_at_the_rates_of_the_recipes(
    tiny_llava: str, rows_file: Path, tmp_path: Path, recipe: dict[str, Any]
):
    """With a recipe's own precision, optimizer and rate: all but the odd weight above 0.01 moves in thirty steps."""
    args = config(tmp_path / "out", **recipe, max_steps=30, lr_scheduler_type="constant")
    trainer = LlavaSFTTrainer(tiny_llava, args, train_dataset=load_conversations(rows_file))
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters() if p.requires_grad}
    trainer.train()
    after = dict(trainer.model.named_parameters())
    assert {weight.dtype for weight in after.values()} == {torch.float32}
    # Embeddings of words that no row has do not move
    names = [name for name in before if "embed_tokens" not in name and "lm_head" not in name]
    moved = torch.cat([(before[name] != after[name])[before[name].abs() > 0.01] for name in names])
    assert moved.float().mean() > 0.99


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "auto"])
@pytest.mark.parametrize("stage", ["align", "instruct"])
def test_weights_too_coarse_to_move_are_refused(
    tiny_llava: str, rows_file: Path, tmp_path: Path, dtype: str, stage: str
):
    source = tiny_llava
    if dtype == "auto":
        source = str(tmp_path / "half")
        AutoModelForImageTextToText.from_pretrained(tiny_llava, dtype=torch.bfloat16).save_pretrained(source)
    args = config(tmp_path / "out", stage=stage, model_init_kwargs={"dtype": dtype})
    with pytest.raises(ValueError, match=r"are b?float16.*leave out --dtype.*use_kahan_summation=True"):
        LlavaSFTTrainer(source, args, train_dataset=load_conversations(rows_file))


def test_a_model_passed_in_is_looked_at_too(tiny_llava: str, tmp_path: Path):
    model = AutoModelForImageTextToText.from_pretrained(tiny_llava, dtype=torch.bfloat16)
    with pytest.raises(ValueError, match=r"model\.float\(\)"):
        LlavaSFTTrainer(model, config(tmp_path / "out"))


def test_who_keeps_float32_may_have_coarse_weights(tiny_llava: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    model = AutoModelForImageTextToText.from_pretrained(tiny_llava, dtype=torch.bfloat16)
    kahan = {"optim": "adamw_anyprecision", "optim_args": "momentum_dtype=float32, use_kahan_summation=True"}
    precision.check_learning_weights(model, config(tmp_path, **kahan))
    with pytest.raises(ValueError, match="rounds most of each step away"):
        precision.check_learning_weights(model, config(tmp_path, **{**kahan, "optim_args": None}))
    with pytest.raises(ValueError, match="rounds most of each step away"):
        precision.check_learning_weights(model.half(), config(tmp_path, **kahan))

    sharded, plain = config(tmp_path, bf16=True), config(tmp_path)
    for launched in ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"):
        monkeypatch.setenv(launched, "true")
        precision.check_learning_weights(model.bfloat16(), sharded)
        with pytest.raises(ValueError, match="rounds most of each step away"):
            precision.check_learning_weights(model, plain)
        monkeypatch.delenv(launched)

    model.set_stage("align")
    model.model.multi_modal_projector.float()
    precision.check_learning_weights(model, config(tmp_path))  # frozen weights may have any precision


def test_a_machine_without_bfloat16_trains_in_float32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("llavakit.train.sft_config.has_accelerator", lambda: False)
    args = LlavaSFTConfig(output_dir=str(tmp_path), report_to="none")
    assert args.use_cpu and args.bf16 is False
    assert LlavaSFTConfig(output_dir=str(tmp_path), report_to="none", bf16=True).bf16
