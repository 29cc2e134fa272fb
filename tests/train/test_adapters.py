"""Training with adapters: what learns is in every checkpoint, comes back from it, and can be trained further."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModel, AutoPeftModelForCausalLM, LoraConfig, PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

from llavakit import LlavaSFTConfig, LlavaSFTTrainer, load_conversations
from llavakit.checkpoints.adapters import load_adapter, merge_adapter
from llavakit.checkpoints.loading import load_model
from llavakit.modeling_llava.model_parts import part_of
from llavakit.train import sft
from llavakit.train.resuming import ResumeRefused

from ..cpu_training import CPU_FLAGS, CPU_SETTINGS

Train = Callable[..., LlavaSFTTrainer]
CONNECTOR = "base_model.model.model.multi_modal_projector.linear."


@pytest.fixture
def train(tiny_llava: str, rows_file: Path, tmp_path: Path) -> Train:
    """Trains a few steps, saves, and gives the trainer."""

    def run(
        name: str, model: Any = tiny_llava, lora: dict | None = None, resume: str | None = None, **changes: Any
    ) -> LlavaSFTTrainer:
        settings = {"output_dir": str(tmp_path / name), "max_steps": 2, "save_steps": 1, "learning_rate": 1e-2}
        settings |= {"per_device_train_batch_size": 2, "max_length": 512, **CPU_SETTINGS}
        trainer = LlavaSFTTrainer(
            model,
            LlavaSFTConfig(**{**settings, **changes}),
            train_dataset=load_conversations(rows_file),
            peft_config=None if lora is None else LoraConfig(r=2, lora_dropout=0.1, **lora),
            dataset_name="photographs",
        )
        trainer.train(resume_from_checkpoint=resume)
        trainer.save_model()
        return trainer

    return run


def inputs(llava: Any) -> dict[str, torch.Tensor]:
    """A prompt with a picture."""
    torch.manual_seed(0)
    places = torch.full((1, llava.config.image_seq_length), llava.config.image_token_id)
    words = torch.arange(3, 20)[None]
    return {"input_ids": torch.cat([places, words], 1), "pixel_values": torch.randn(1, *llava.config.image_shape)}


def scores(model: Any) -> torch.Tensor:
    llava = model.get_base_model() if isinstance(model, PeftModel) else model
    with torch.no_grad():
        return model.eval()(**inputs(llava)).logits


@pytest.mark.parametrize("stage", ["align", "instruct"])
def test_every_checkpoint_is_complete(train: Train, tiny_llava: str, tmp_path: Path, stage: str):
    """What moved in training, and nothing else, is what a checkpoint holds; the vision tower is as it was."""
    before = load_model(tiny_llava)
    trainer = train("run", lora={}, stage=stage)
    untouched = dict(before.named_parameters())
    for name, tensor in trainer.model.get_base_model().named_parameters():
        name = name.replace(".base_layer", "").replace(".original_module", "")
        if name in untouched:
            assert torch.equal(tensor, untouched[name]), name
    for folder in (tmp_path / "run" / "checkpoint-1", tmp_path / "run" / "checkpoint-2", tmp_path / "run"):
        saved = load_file(folder / "adapter_model.safetensors")
        assert {part_of(name) for name in saved} == {"connector", "language model"}
        connector = dict(before.model.multi_modal_projector.linear.named_parameters())
        moved = [not torch.equal(saved[CONNECTOR + name], tensor) for name, tensor in connector.items()]
        assert all(moved) and moved
        assert any(tensor.any() for name, tensor in saved.items() if "lora_B" in name)
        assert not (folder / "connector.safetensors").exists() and not (folder / "config.json").exists()
    learning = {name: p for name, p in trainer.model.named_parameters() if p.requires_grad}
    final = load_file(tmp_path / "run" / "adapter_model.safetensors")
    assert len(learning) == len(final)
    for name, tensor in learning.items():
        assert torch.equal(tensor, final[name.replace(".modules_to_save.default", "").replace(".default", "")])


@pytest.mark.slow
@pytest.mark.parametrize("lora", [{}, {"use_dora": True}, {"use_rslora": True}], ids=["lora", "dora", "rslora"])
def test_every_way_of_loading_gives_what_was_trained(train: Train, tmp_path: Path, lora: dict):
    """In float32 to the last bit, from any folder; merged, up to the order of sums."""
    expected = scores(train("run", lora=lora).model)
    folder = tmp_path / "run"
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"].startswith("/")
    ways = [load_model, load_adapter, AutoPeftModel.from_pretrained, AutoPeftModelForCausalLM.from_pretrained]
    if not lora.get("use_dora"):  # transformers 5.23 leaves its magnitudes out
        ways.append(AutoModelForImageTextToText.from_pretrained)
    for load in ways:
        assert torch.equal(scores(load(folder)), expected)
    merged = merge_adapter(folder)
    assert not isinstance(merged.model, PeftModel) and merged.rounded_off == 0
    torch.testing.assert_close(scores(merged.model), expected, rtol=0, atol=1e-4 * expected.abs().max().item())
    base = scores(load_model(merged.facts.base))
    assert (expected - base).abs().max() > 1e-2  # it had learnt something


def test_the_vision_tower_learns_where_it_is_asked_for(train: Train, tmp_path: Path):
    trainer = train("run", lora={}, stage="joint", lora_vision_tower=True, vision_learning_rate=1e-2)
    saved = load_file(tmp_path / "run" / "adapter_model.safetensors")
    moved = [name for name, tensor in saved.items() if part_of(name) == "vision tower" and "lora_B" in name]
    assert moved and all(saved[name].any() for name in moved)
    assert torch.equal(scores(load_model(tmp_path / "run")), scores(trainer.model))


@pytest.mark.slow
def test_what_learns_is_float32_beside_frozen_weights_in_bfloat16(train: Train, tmp_path: Path):
    """The connector too, which PEFT copies as it is: steps of 1e-5 would be rounded away."""
    dtype = {"model_init_kwargs": {"dtype": "bfloat16"}}
    with pytest.raises(
        ValueError, match=r"What learns is float32 and the rest bfloat16.*add --bf16 true, or leave out --dty"
    ):
        train("run", lora={}, **dtype)
    trainer = train("run", lora={}, bf16=True, learning_rate=1e-5, **dtype)
    for name, parameter in trainer.model.named_parameters():
        assert parameter.dtype == (torch.float32 if parameter.requires_grad else torch.bfloat16), name
    saved = load_file(tmp_path / "run" / "adapter_model.safetensors")
    base = load_model(json.loads((tmp_path / "run" / "adapter_config.json").read_text())["base_model_name_or_path"])
    for name, tensor in base.model.multi_modal_projector.linear.named_parameters():
        assert 0 < (saved[CONNECTOR + name] - tensor.bfloat16().float()).abs().max() < 1e-4


def test_the_table_says_what_learns_how(train: Train, caplog):
    caplog.set_level("INFO", logger="llavakit")
    train("run", lora={}, max_steps=1, connector_learning_rate=1e-3)
    table = next(record.getMessage() for record in caplog.records if "stage 'instruct'" in record.getMessage())
    tower, connector, language = table.splitlines()[1:]
    assert tower.endswith("(0.00%)  frozen") and connector.endswith("(100.00%)  learns at 0.001")
    assert language.endswith("%)  adapters learn at 0.01")


def test_the_card_says_base_stage_and_data(train: Train, tiny_llava: str, tmp_path: Path):
    train("run", lora={"use_dora": True}, stage="align")
    assert (tmp_path / "run" / "README.md").read_text() == (
        tmp_path / "run" / "checkpoint-2" / "README.md"
    ).read_text()
    card = (tmp_path / "run" / "checkpoint-1" / "README.md").read_text()
    for said in (tiny_llava, "Stage 1, feature alignment", "dataset: photographs", "DoRA, r 2, alpha 8, dropout 0.1"):
        assert said in card
    assert "library_name: peft" in card and "AutoPeftModel.from_pretrained" in card


@pytest.mark.parametrize("lora", [None, {}], ids=["whole", "adapter"])
def test_a_readme_of_somebodys_own_stays(train: Train, tmp_path: Path, lora: dict | None):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "README.md").write_text("mine")
    train("run", lora=lora, max_steps=1)
    assert (tmp_path / "run" / "README.md").read_text() == "mine"


def test_an_adapter_does_not_go_into_the_folder_of_its_model(train: Train, tiny_llava: str, tmp_path: Path):
    """Whoever loads the model from there would get the adapter too."""
    base = shutil.copytree(tiny_llava, tmp_path / "base")
    with pytest.raises(ValueError, match="is the folder of the model itself: give the adapter one of its own"):
        train("base", str(base), lora={})
    with pytest.raises(ValueError, match="--lora_vision_tower true is for adapters: add --use_peft"):
        train("run", lora_vision_tower=True)


def test_the_best_model_is_the_whole_of_it(train: Train, rows_file: Path, tmp_path: Path, tiny_llava: str):
    """Connector and adapters both go back to the better checkpoint, here the one of the greatest loss."""
    args = LlavaSFTConfig(
        output_dir=str(tmp_path / "run"),
        max_steps=3,
        eval_strategy="steps",
        eval_steps=1,
        save_steps=1,
        load_best_model_at_end=True,
        greater_is_better=True,
        learning_rate=1e-2,
        max_length=512,
        **CPU_SETTINGS,
    )
    rows = load_conversations(rows_file)
    trainer = LlavaSFTTrainer(tiny_llava, args, train_dataset=rows, eval_dataset=rows, peft_config=LoraConfig(r=2))
    trainer.train()
    best = Path(str(trainer.state.best_model_checkpoint))
    assert best.name == "checkpoint-1"
    assert torch.equal(scores(trainer.model), scores(load_adapter(best)))


# ---- resumed ----


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["align", "instruct", "joint"])
def test_resumed_is_bit_identical(train: Train, tmp_path: Path, stage: str):
    """The dropouts of adapters and language model go on, and so do moments and schedule, a rate a part."""
    rates = {"connector_learning_rate": 1e-3, "lora_vision_tower": stage == "joint"}
    settings = {"lora": {}, "stage": stage, "max_steps": 4, "save_steps": 2, **rates}
    whole = train("run", **settings)
    resumed = train("run", resume=str(tmp_path / "run" / "checkpoint-2"), **settings)
    reference = dict(whole.model.named_parameters())
    assert all(torch.equal(tensor, reference[name]) for name, tensor in resumed.model.named_parameters())


@pytest.mark.slow
def test_other_adapters_do_not_go_on(train: Train, tmp_path: Path):
    train("run", lora={}, max_steps=1)
    checkpoint = str(tmp_path / "run" / "checkpoint-1")
    for changes, message in (
        ({"lora": {"lora_alpha": 4}}, "lora_alpha=8, and those of this run 4"),
        ({"lora": {"target_modules": ["q_proj"]}}, r"target_modules=\[.*'down_proj'.*this run \['q_proj'\]"),
        ({"lora": None}, "has some adapters, and this run is without them"),
        ({"lora": {}, "stage": "align"}, "is of stage 'instruct', and this run is stage 'align'"),
    ):
        with pytest.raises(ResumeRefused, match=message):
            train("other", resume=checkpoint, **changes)
    train("whole", stage="align", max_steps=1)
    with pytest.raises(ResumeRefused, match="has no adapters, and this run is with them"):
        train("other", resume=str(tmp_path / "whole" / "checkpoint-1"), lora={}, stage="align")


# ---- going on from an adapter ----


def test_going_on_from_an_adapter_has_to_be_said(train: Train, tiny_llava: str, tmp_path: Path):
    train("first", lora={}, max_steps=1)
    first = str(tmp_path / "first")
    with pytest.raises(
        ValueError, match="is an adapter.*--on_adapter continue to train it further, --on_adapter merge"
    ):
        train("second", first)
    with pytest.raises(ValueError, match="--use_peft makes new adapters, and the model has some"):
        train("second", first, lora={}, on_adapter="continue")
    with pytest.raises(ValueError, match=r"Save them first \(`llavakit export ADAPTER --merge -o FOLDER`\)"):
        train("second", first, lora={}, on_adapter="merge")
    with pytest.raises(ValueError, match="on_adapter='merge', and .* is no adapter alone: leave it out"):
        train("second", tiny_llava, on_adapter="merge")
    with pytest.raises(ValueError, match="on_adapter='stack' is unknown; choose one of 'continue', 'merge'"):
        train("second", first, on_adapter="stack")


@pytest.mark.slow
def test_an_adapter_is_trained_further(train: Train, tiny_llava: str, tmp_path: Path):
    train("first", lora={}, stage="align")
    trainer = train("second", str(tmp_path / "first"), on_adapter="continue", learning_rate=3e-2)
    first, second = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("first", "second"))
    assert first.keys() == second.keys()
    assert all(not torch.equal(second[name], tensor) for name, tensor in first.items())
    base = json.loads((tmp_path / "second" / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert base == tiny_llava
    assert torch.equal(scores(load_model(tmp_path / "second")), scores(trainer.model))
    history = json.loads((tmp_path / "second" / "adapter_provenance.json").read_text())["training_history"]
    assert [record["stage"] for record in history] == ["align", "instruct"]


@pytest.mark.slow
def test_an_adapter_is_merged_and_all_is_trained(train: Train, tmp_path: Path):
    merged = scores(merge_adapter(tmp_path / "first").model) if train("first", lora={}, stage="align") else None
    trainer = train("second", str(tmp_path / "first"), on_adapter="merge", learning_rate=0.0)
    assert torch.equal(scores(trainer.model), merged)
    trainer = train("third", str(tmp_path / "first"), on_adapter="merge")
    assert not (tmp_path / "third" / "adapter_config.json").exists()
    assert torch.equal(scores(load_model(tmp_path / "third")), scores(trainer.model))
    history = load_model(tmp_path / "third").config.provenance["training_history"]
    assert [record["adapters"] for record in history] == ["LoRA, r 2, alpha 8, dropout 0.1", None]


@pytest.mark.slow
def test_pefts_own_model_is_trained_further_as_it_is(train: Train, tiny_llava: str, tmp_path: Path):
    train("first", lora={}, max_steps=1)
    llava = AutoModelForImageTextToText.from_pretrained(tiny_llava)
    with pytest.raises(ValueError, match=r"The adapters are frozen: .*is_trainable=True"):
        train("second", PeftModel.from_pretrained(llava, str(tmp_path / "first")))
    llava = AutoModelForImageTextToText.from_pretrained(tiny_llava)
    model = PeftModel.from_pretrained(llava, str(tmp_path / "first"), is_trainable=True)
    wanted = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    trainer = train("second", model)
    assert {name for name, p in trainer.model.named_parameters() if p.requires_grad} == wanted
    assert torch.equal(scores(load_model(tmp_path / "second")), scores(trainer.model))


def test_an_adapter_without_the_connector_leaves_it_as_it_is(train: Train, tiny_llava: str, caplog):
    def stock() -> Any:
        from peft import get_peft_model

        llava = AutoModelForImageTextToText.from_pretrained(tiny_llava)
        return get_peft_model(llava, LoraConfig(r=2, target_modules=r".*language_model.*q_proj"))

    trainer = train("run", stock(), max_steps=1)
    assert "The adapter holds nothing of the connector, which therefore stays as it is." in caplog.text
    names = [name for name, p in trainer.model.named_parameters() if p.requires_grad]
    assert {part_of(name) for name in names} == {"language model"}
    with pytest.raises(ValueError, match="stage 'align' trains the connector, and the adapter holds nothing of it"):
        train("run", stock(), stage="align")


def test_an_adapter_whose_model_was_moved_says_so(train: Train, tiny_llava: str, tmp_path: Path):
    base = shutil.copytree(tiny_llava, tmp_path / "base")
    train("run", str(base), lora={}, max_steps=1)
    base.rename(tmp_path / "elsewhere")
    with pytest.raises(
        OSError, match=r"is an adapter of the model in .*base, which is not there.*adapter_config\.json"
    ):
        load_model(tmp_path / "run")


# ---- the command ----


def test_the_command_needs_no_more_than_its_flag(tiny_llava: str, rows_file: Path, tmp_path: Path, capsys):
    out = tmp_path / "out"
    flags = ["--model_name_or_path", tiny_llava, "--dataset_name", rows_file, "--output_dir", out, "--max_steps", 1]
    sft._run([str(flag) for flag in [*flags, *CPU_FLAGS, "--use_peft"]])
    assert f"Ask it about a picture: llavakit chat {out}" in capsys.readouterr().out
    assert {part_of(name) for name in load_file(out / "adapter_model.safetensors")} == {"connector", "language model"}
