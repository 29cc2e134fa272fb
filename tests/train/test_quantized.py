"""Adapters beside a quantized language model: connector and vision tower keep their weights, and what learns its precision."""

from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file

from llavakit import LlavaSFTConfig, LlavaSFTTrainer, load_conversations
from llavakit.checkpoints.adapters import merge_adapter
from llavakit.checkpoints.loading import load_model
from llavakit.modeling_llava.model_parts import part_of
from llavakit.train import sft
from llavakit.train.stages import part_sizes

from ..cpu_training import CPU_FLAGS, CPU_SETTINGS

bitsandbytes = pytest.importorskip(
    "bitsandbytes", reason="quantized weights need bitsandbytes: pip install 'llavakit[quantization]'"
)
BITS = ["load_in_4bit", "load_in_8bit"]


def trainer_of(model: str, rows: Path, folder: Path, bits: str, **changes) -> LlavaSFTTrainer:
    from transformers import BitsAndBytesConfig

    settings = {"output_dir": str(folder), "max_steps": 2, "learning_rate": 1e-2, "save_steps": 1, "max_length": 512}
    config = BitsAndBytesConfig(**{bits: True})
    lora = changes.pop("lora", {})
    args = LlavaSFTConfig(**{**settings, **CPU_SETTINGS, **changes}, model_init_kwargs={"quantization_config": config})
    peft_config = None if lora is None else LoraConfig(r=4, **lora)
    return LlavaSFTTrainer(model, args, train_dataset=load_conversations(rows), peft_config=peft_config)


@pytest.mark.parametrize("bits", BITS)
def test_the_language_model_alone_is_quantized(wide_llava: str, rows_file: Path, tmp_path: Path, bits: str):
    trainer = trainer_of(wide_llava, rows_file, tmp_path, bits)
    kinds = {name: type(module).__name__ for name, module in trainer.model.named_modules()}
    small = [name for name, kind in kinds.items() if kind in ("Linear4bit", "Linear8bitLt")]
    assert small and {part_of(name) for name in small} == {"language model"}
    assert not any("lm_head" in name for name in small)
    learning = [parameter for parameter in trainer.model.parameters() if parameter.requires_grad]
    assert {parameter.dtype for parameter in learning} == {torch.float32}


@pytest.mark.parametrize("stage", ["align", "instruct"])
def test_the_connector_learns_beside_it(wide_llava: str, rows_file: Path, tmp_path: Path, stage: str):
    """Steps too small for bfloat16, to which trl rounds what learns beside quantized weights, are taken."""
    trainer = trainer_of(wide_llava, rows_file, tmp_path, "load_in_4bit", stage=stage, learning_rate=1e-5)
    before = load_model(wide_llava).model.multi_modal_projector.state_dict()
    trainer.train()
    trainer.save_model()
    for folder in (tmp_path, tmp_path / "checkpoint-1"):
        saved = load_file(folder / "adapter_model.safetensors")
        for name, tensor in before.items():
            after = saved[f"base_model.model.model.multi_modal_projector.{name}"]
            assert after.dtype == torch.float32 and not torch.equal(after, tensor)
            assert (after - tensor).abs().max() < 1e-4
        assert any(tensor.any() for name, tensor in saved.items() if "lora_B" in name)


def test_shares_are_those_of_the_model_that_is_not_quantized(wide_llava: str, rows_file: Path, tmp_path: Path):
    """Two weights of 4 bits share a byte."""
    counted = part_sizes(trainer_of(wide_llava, rows_file, tmp_path, "load_in_4bit").model)
    whole = {size.part: size.total for size in part_sizes(load_model(wide_llava))}
    for size in counted:
        added = size.trainable if size.part == "language model" else 0
        assert size.total == whole[size.part] + added


def test_it_is_merged_into_the_weights_that_are_not_quantized(wide_llava: str, rows_file: Path, tmp_path: Path):
    trainer_of(wide_llava, rows_file, tmp_path, "load_in_4bit").train()
    with pytest.raises(
        ValueError,
        match=r"quantization_config \(--load_in_4bit, .*as it was saved",
    ):
        merge_adapter(tmp_path / "checkpoint-2", quantization_config=object())
    merged = merge_adapter(tmp_path / "checkpoint-2").model
    loaded = load_model(tmp_path / "checkpoint-2").eval()
    ids = torch.arange(3, 30)[None]
    with torch.no_grad():
        expected = loaded(input_ids=ids).logits
        torch.testing.assert_close(merged(input_ids=ids).logits, expected, rtol=0, atol=1e-4 * expected.abs().max())


def test_a_model_that_was_quantized_with_its_connector_is_refused(wide_llava: str, rows_file: Path, tmp_path: Path):
    from transformers import AutoModelForImageTextToText, BitsAndBytesConfig

    config = BitsAndBytesConfig(load_in_4bit=True)
    model = AutoModelForImageTextToText.from_pretrained(wide_llava, quantization_config=config)
    args = LlavaSFTConfig(output_dir=str(tmp_path), max_length=512, **CPU_SETTINGS)
    with pytest.raises(
        ValueError, match=r"is quantized, and only the language model may be: .*llm_int8_skip_modules="
    ):
        LlavaSFTTrainer(model, args, train_dataset=load_conversations(rows_file), peft_config=LoraConfig())


def test_quantized_weights_alone_learn_nothing(wide_llava: str, rows_file: Path, tmp_path: Path):
    with pytest.raises(ValueError, match="--load_in_4bit and --load_in_8bit are for adapters.*add --use_peft"):
        trainer_of(wide_llava, rows_file, tmp_path, "load_in_4bit", lora=None)


def test_the_commands_flags(wide_llava: str, rows_file: Path, tmp_path: Path):
    flags = ["--model_name_or_path", wide_llava, "--dataset_name", rows_file, "--output_dir", tmp_path / "out"]
    flags += [
        *CPU_FLAGS,
        "--max_steps",
        1,
        "--load_in_4bit",
        "--use_peft",
        "--lora_modules_to_save",
        "multi_modal_projector",
    ]
    sft._run([str(flag) for flag in flags])
    saved = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert {part_of(name) for name in saved} == {"connector", "language model"}
