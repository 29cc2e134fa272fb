"""The two-stage trainer: what learns, what is saved, what is logged, and what stops it."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
import transformers
from packaging.version import Version
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoProcessor
from trl import SFTConfig, SFTTrainer

from llavakit import LlavaSFTConfig, LlavaSFTTrainer, load_conversations
from llavakit.checkpoints.safe_writing import SaveFailed
from llavakit.rows.schema import BadRow
from llavakit.train.sft_trainer import NonFiniteLoss
from llavakit.train.stages import part_of

from ..cpu_training import CPU_FLAGS, CPU_SETTINGS
from ..warm_python import WarmPython


def config(folder: Path, **changes) -> LlavaSFTConfig:
    settings = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 2,
        "max_steps": 4,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "save_strategy": "no",
        "max_length": 512,
        "gradient_checkpointing": False,
        **CPU_SETTINGS,
    }
    return LlavaSFTConfig(**{**settings, **changes})


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("stage", ["align", "instruct"])
@pytest.mark.parametrize("gradient_checkpointing", [False, True])
def test_frozen_means_frozen(
    tiny_llava: str, rows_file: Path, tmp_path: Path, stage: str, gradient_checkpointing: bool
):
    args = config(tmp_path / "out", stage=stage, gradient_checkpointing=gradient_checkpointing)
    trainer = LlavaSFTTrainer(tiny_llava, args, train_dataset=load_conversations(rows_file))
    before = weights(trainer.model)
    trainer.train()
    after = weights(trainer.model)
    learns = {"align": {"connector"}, "instruct": {"connector", "language model"}}[stage]
    for name in before:
        moved = not torch.equal(before[name], after[name])
        assert moved == (part_of(name) in learns), name
    assert not trainer.model.model.vision_tower.training
    assert all(parameter.grad is None for parameter in trainer.model.model.vision_tower.parameters())


def test_supervised_token_rate_and_learning_rates_are_logged(tiny_llava: str, rows_file: Path, tmp_path: Path, caplog):
    caplog.set_level("INFO")
    args = config(tmp_path / "out", connector_learning_rate=5e-2, lr_scheduler_type="constant")
    trainer = LlavaSFTTrainer(tiny_llava, args, train_dataset=load_conversations(rows_file))
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    screening = trainer.train_screening
    rates = [count / length for count, length in zip(screening.supervised, screening.lengths, strict=True)]
    assert all(min(rates) - 1e-6 <= entry["supervised_token_rate"] <= max(rates) + 1e-6 for entry in logged)
    assert logged[0]["learning_rate"] == 1e-2 and logged[0]["connector_learning_rate"] == 5e-2
    table = next(record.getMessage() for record in caplog.records if "stage 'instruct'" in record.getMessage())
    assert "frozen" in table and "learns at 0.05" in table and "learns at 0.01" in table


def test_a_stock_config_is_taken(tiny_llava: str, rows_file: Path, tmp_path: Path):
    """trl's trainer replaced by ours, and nothing else."""
    args = SFTConfig(str(tmp_path / "out"), max_steps=1, **CPU_SETTINGS)
    trainer = LlavaSFTTrainer(tiny_llava, args, train_dataset=load_conversations(rows_file))
    trainer.train()
    assert trainer.args.stage == "instruct" and trainer.state.global_step == 1


@pytest.mark.parametrize("stage", ["align", "instruct"])
def test_what_was_saved_comes_back(tiny_llava: str, rows_file: Path, tmp_path: Path, stage: str):
    args = config(tmp_path / "out", stage=stage)
    trainer = LlavaSFTTrainer(tiny_llava, args, train_dataset=load_conversations(rows_file), dataset_name="rows")
    trainer.train()
    trainer.save_model()
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "out")
    processor = AutoProcessor.from_pretrained(tmp_path / "out")
    loaded = weights(model)
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in weights(trainer.model).items())
    assert processor.chat_template == trainer.processing_class.chat_template
    assert model.config.provenance["training_history"][-1]["stage"] == stage
    card = (tmp_path / "out" / "README.md").read_text()
    config_json = json.loads((tmp_path / "out" / "config.json").read_text())
    assert "stage" not in config_json
    assert "dataset: rows" in card and "learning rate: 0.01" in card


@pytest.mark.slow
def test_checkpoints_of_stage_1_are_small_and_resume(tiny_llava: str, rows_file: Path, tmp_path: Path):
    rows = load_conversations(rows_file)
    whole = LlavaSFTTrainer(tiny_llava, config(tmp_path / "whole", stage="align", max_steps=6), train_dataset=rows)
    whole.train()
    first = LlavaSFTTrainer(
        tiny_llava,
        config(tmp_path / "run", stage="align", max_steps=6, save_strategy="steps", save_steps=3),
        train_dataset=rows,
    )
    first.train()
    checkpoint = tmp_path / "run" / "checkpoint-3"
    names = {file.name for file in checkpoint.iterdir()}
    assert "connector.safetensors" in names and not any(name.startswith("model") for name in names)
    assert set(load_file(checkpoint / "connector.safetensors")) == {
        name for name in whole.model.state_dict() if part_of(name) == "connector"
    }
    shutil.rmtree(tmp_path / "run" / "checkpoint-6")
    second = LlavaSFTTrainer(
        tiny_llava,
        config(tmp_path / "run", stage="align", max_steps=6, save_strategy="steps", save_steps=3),
        train_dataset=rows,
    )
    second.train(resume_from_checkpoint=True)
    reference = weights(whole.model)
    assert all(torch.equal(tensor, reference[name]) for name, tensor in weights(second.model).items())


@pytest.mark.slow
def test_the_best_checkpoint_is_loaded_at_the_end(tiny_llava: str, rows_file: Path, tmp_path: Path):
    rows = load_conversations(rows_file)
    for stage in ("align", "instruct"):
        args = config(
            tmp_path / stage,
            stage=stage,
            max_steps=4,
            eval_strategy="steps",
            save_strategy="steps",
            eval_steps=1,
            save_steps=1,
            save_total_limit=1,
            load_best_model_at_end=True,
        )
        trainer = LlavaSFTTrainer(tiny_llava, args, train_dataset=rows, eval_dataset=rows.select(range(4)))
        trainer.train()
        losses = {entry["step"]: entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry}
        best = min(losses, key=losses.get)
        assert trainer.state.best_model_checkpoint == str(tmp_path / stage / f"checkpoint-{best}")
        assert trainer.evaluate()["eval_loss"] == pytest.approx(losses[best], abs=1e-6)


def test_rows_are_checked_before_training(tiny_llava: str, rows_file: Path, tmp_path: Path, caplog):
    (rows_file.parent / "6.png").unlink()
    (rows_file.parent / "7.png").write_bytes((rows_file.parent / "7.png").read_bytes()[:200])
    rows = load_conversations(rows_file)
    with pytest.raises(BadRow, match="row 6.*there is no image.*1 more row"):
        LlavaSFTTrainer(tiny_llava, config(tmp_path / "out"), train_dataset=rows)
    trainer = LlavaSFTTrainer(tiny_llava, config(tmp_path / "out", on_bad_row="skip"), train_dataset=rows)
    assert len(trainer.train_dataset) == 10
    assert "2 row(s) left out" in caplog.text and "r6" in caplog.text and "r7" in caplog.text


def test_rows_too_long_are_reported(tiny_llava: str, rows_file: Path, tmp_path: Path, caplog):
    rows = load_conversations(rows_file)
    lengths = LlavaSFTTrainer(tiny_llava, config(tmp_path / "a"), train_dataset=rows).train_screening.lengths
    limit = sorted(lengths)[-3] - 1
    LlavaSFTTrainer(tiny_llava, config(tmp_path / "b", max_length=limit), train_dataset=rows)
    assert "lose turns to max_length" in caplog.text
    with pytest.raises(BadRow, match="max_length=20"):
        LlavaSFTTrainer(tiny_llava, config(tmp_path / "c", max_length=20), train_dataset=rows)


@pytest.mark.parametrize("modality", ["mixed", "images", "text"])
def test_grouping_by_modality_and_length_trains(tiny_llava: str, rows_file: Path, tmp_path: Path, modality: str):
    rows = load_conversations(rows_file)
    kept = {"mixed": range(12), "images": [0, 1, 2, 3, 4], "text": [5]}[modality]
    args = config(tmp_path / "out", group_by_modality_length=True, max_steps=-1, num_train_epochs=2)
    trainer = LlavaSFTTrainer(tiny_llava, args, train_dataset=rows.select(kept))
    trainer.train()
    assert trainer.state.global_step == 2 * -(-len(kept) // 2)


def test_text_only_batches_train_in_stage_1(tiny_llava: str, rows_file: Path, tmp_path: Path):
    rows = load_conversations(rows_file).select([5])
    trainer = LlavaSFTTrainer(tiny_llava, config(tmp_path / "out", stage="align", max_steps=1), train_dataset=rows)
    before = weights(trainer.model)
    trainer.train()
    assert all(torch.equal(before[name], tensor) for name, tensor in weights(trainer.model).items())


@pytest.mark.skipif(
    Version(transformers.__version__) < Version("5.18"), reason="stock trl needs transformers 5.18 for this"
)
def without_dropout(path: str) -> torch.nn.Module:
    """The model with no chance in it: what is dropped would differ with the shape of a batch."""
    model = AutoModelForImageTextToText.from_pretrained(path, stage="instruct", dtype=torch.float32)
    for module in model.modules():
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.0
    return model


@pytest.mark.slow
@pytest.mark.parametrize("padding_free", [None, False])
def test_the_loss_is_that_of_stock_trl(tiny_llava: str, rows_file: Path, tmp_path: Path, padding_free: bool | None):
    """Replace trl's trainer by ours, change nothing else: the same loss, step for step."""
    rows = load_conversations(rows_file).select([0, 1, 2, 3, 4, 6, 7, 8])
    args = config(tmp_path / "ours", max_steps=6, learning_rate=1e-3, padding_free=padding_free)
    processor = AutoProcessor.from_pretrained(tiny_llava)
    ours = LlavaSFTTrainer(without_dropout(tiny_llava), args, train_dataset=rows, processing_class=processor)
    ours.train()
    stock_args = SFTConfig(
        **{
            field: getattr(args, field)
            for field in ("per_device_train_batch_size", "max_steps", "learning_rate", "bf16")
        },
        **{
            field: getattr(args, field)
            for field in ("use_cpu", "report_to", "max_length", "disable_tqdm", "save_strategy")
        },
        output_dir=str(tmp_path / "stock"),
        gradient_checkpointing=False,
        logging_steps=1,
        assistant_only_loss=True,
    )
    stock = SFTTrainer(without_dropout(tiny_llava), stock_args, train_dataset=rows, processing_class=processor)
    stock.train()

    def losses(trainer) -> list[float]:
        return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]

    assert ours.padding_free is (padding_free is None)
    assert losses(ours) == pytest.approx(losses(stock), abs=1e-5) and len(losses(ours)) == 6


def test_streaming_rows_train(tiny_llava: str, rows_file: Path, tmp_path: Path):
    rows = load_conversations(rows_file, streaming=True)
    trainer = LlavaSFTTrainer(tiny_llava, config(tmp_path / "out", max_steps=3), train_dataset=rows)
    trainer.train()
    assert trainer.state.global_step == 3
    with pytest.raises(ValueError, match="group_by_modality_length=True needs"):
        args = config(tmp_path / "other", max_steps=1, group_by_modality_length=True)
        LlavaSFTTrainer(tiny_llava, args, train_dataset=rows).train()


def test_a_stage_may_have_a_template_of_its_own(tiny_llava: str, rows_file: Path, tmp_path: Path):
    args = config(tmp_path / "out", stage="align", chat_template="plain", max_steps=1)
    trainer = LlavaSFTTrainer(tiny_llava, args, train_dataset=load_conversations(rows_file).select([1]))
    batch = trainer.data_collator([trainer.train_dataset[0]])
    tokenizer = trainer.processing_class.tokenizer
    image = [trainer.processing_class.image_token_id] * 4
    assert batch["input_ids"][0].tolist()[:5] == [tokenizer.bos_token_id, *image]
    assert tokenizer.decode(batch["input_ids"][0][5:]) == "a green cat\n"
    trainer.save_model()
    assert "USER" in AutoProcessor.from_pretrained(tmp_path / "out").chat_template


def test_nan_stops_before_the_weights(tiny_llava: str, rows_file: Path, tmp_path: Path):
    args = config(tmp_path / "out", max_steps=6, save_strategy="steps", save_steps=1, learning_rate=1e-3)
    trainer = LlavaSFTTrainer(tiny_llava, args, train_dataset=load_conversations(rows_file))
    normal = trainer.compute_loss

    def poisoned(model, inputs, *rest, **kwargs):
        if trainer.state.global_step == 3:
            inputs["pixel_values"] = torch.full_like(inputs["pixel_values"], float("nan"))
        return normal(model, inputs, *rest, **kwargs)

    trainer.compute_loss = poisoned
    with pytest.raises(NonFiniteLoss, match="at step 4.*checkpoint-3"):
        trainer.train()
    saved = load_file(tmp_path / "out" / "checkpoint-3" / "model.safetensors")
    assert all(torch.isfinite(tensor).all() for tensor in saved.values())
    now = trainer.model.state_dict()
    assert all(torch.equal(tensor, now[name]) for name, tensor in saved.items())


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small file system, which only root may")
def test_a_full_disk_leaves_the_old_checkpoint(tiny_llava: str, rows_file: Path, tmp_path: Path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip(f"no small file system to be had: {mounted.stderr.decode()}")
    try:
        args = config(disk / "out", max_steps=4, save_strategy="steps", save_steps=1)
        trainer = LlavaSFTTrainer(tiny_llava, args, train_dataset=load_conversations(rows_file))
        with pytest.raises(SaveFailed, match="could not save"):
            trainer.train()
        names = sorted(folder.name for folder in (disk / "out").iterdir() if folder.is_dir())
        assert names and all(name.startswith("checkpoint-") for name in names)
        for name in names:
            load_file(disk / "out" / name / "model.safetensors")
            assert (disk / "out" / name / "trainer_state.json").exists()
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_settings_are_checked(tmp_path: Path):
    with pytest.raises(ValueError, match="stage='both'"):
        config(tmp_path, stage="both")
    with pytest.raises(ValueError, match="on_bad_row='x'"):
        config(tmp_path, on_bad_row="x")
    with pytest.raises(ValueError, match="on_adapter='x'"):
        config(tmp_path, on_adapter="x")


@pytest.mark.slow
def test_the_command_trains_both_stages(warm_python: WarmPython, tiny_llava: str, rows_file: Path, tmp_path: Path):
    """`llavakit sft` as a process of its own, through accelerate, one stage after the other."""
    common = ["--per_device_train_batch_size", "2", "--max_steps", "2", *CPU_FLAGS]
    model = tiny_llava
    for stage in ("align", "instruct"):
        settings = tmp_path / f"{stage}.yaml"
        settings.write_text(f"stage: {stage}\nlearning_rate: 1.0e-3\nmax_length: 512\n")
        command = ["-m", "llavakit.cli", "sft", "--config", settings, "--model_name_or_path", model]
        command += ["--dataset_name", rows_file, "--output_dir", tmp_path / stage, *common, "--num_processes", "1"]
        done = warm_python.run(command)
        assert done.returncode == 0, done.stderr[-3000:]
        model = str(tmp_path / stage)
    history = AutoModelForImageTextToText.from_pretrained(model).config.provenance["training_history"]
    assert [record["stage"] for record in history] == ["align", "instruct"]
