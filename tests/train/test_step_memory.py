"""Activation checkpointing comes on where it was left open and a step would not fit without it."""

from pathlib import Path

import pytest
from trl import SFTConfig

from llavakit import LlavaSFTConfig, LlavaSFTTrainer, load_conversations
from llavakit.train.step import memory

from ..cpu_training import CPU_SETTINGS


def is_on(args: LlavaSFTConfig) -> bool:
    return bool(getattr(args, "activation_checkpointing", None) or args.gradient_checkpointing)


@pytest.mark.parametrize("free", [2**40, 2**20])
@pytest.mark.parametrize("asked", [None, True, False])
def test_it_is_on_where_memory_asks_for_it(
    tiny_llava: str, rows_file: Path, tmp_path: Path, monkeypatch, free: int, asked: bool | None
):
    monkeypatch.setattr(memory, "free_bytes", lambda args: free)
    args = LlavaSFTConfig(str(tmp_path), gradient_checkpointing=asked, max_steps=1, save_strategy="no", **CPU_SETTINGS)
    trainer = LlavaSFTTrainer(tiny_llava, args, train_dataset=load_conversations(rows_file))
    assert is_on(trainer.args) is (free < 2**30 if asked is None else asked)
    trainer.train()


def test_a_stock_config_leaves_it_open(tmp_path: Path):
    assert LlavaSFTConfig.of(SFTConfig(str(tmp_path), use_cpu=True)).checkpointing_is_open
    asked = LlavaSFTConfig.of(SFTConfig(str(tmp_path), use_cpu=True, gradient_checkpointing=False))
    assert not asked.checkpointing_is_open and not is_on(asked)


def test_what_is_reckoned_grows_with_rows_and_width(tiny_llava: str, tmp_path: Path):
    from llavakit.checkpoints.loading import load_model

    args = LlavaSFTConfig(str(tmp_path), **CPU_SETTINGS)
    llava = load_model(tiny_llava)
    text = llava.config.text_config
    once = memory.activation_bytes(llava, 100, args)
    assert once == 100 * text.num_hidden_layers * (12 * text.hidden_size + 4 * text.intermediate_size) * 4
    assert memory.activation_bytes(llava, 200, args) == 2 * once
    llava.set_stage("align")
    alone = memory.state_bytes(llava)
    llava.set_stage("instruct")
    assert 0 < alone < memory.state_bytes(llava)
