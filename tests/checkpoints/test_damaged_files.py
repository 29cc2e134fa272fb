"""A damaged file of a checkpoint or a backbone: one line that names it, what is wrong and what to do. Nothing in it is run."""

import json
import os
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel

from llavakit.checkpoints.building import build_llava, save_llava
from llavakit.checkpoints.damage import find_damage
from llavakit.checkpoints.loading import DamagedFile, load_config, load_model, load_processor
from llavakit.cli import main

from ..cpu_training import CPU_SETTINGS


class Payload:
    """What an attacker would put into a `.bin`."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


def cut_short(folder: Path) -> str:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    return r"model\.safetensors: it has [\d,]+ of [\d,]+ bytes: it was cut short\. Download it again"


def absurd_header(folder: Path) -> str:
    file = folder / "model.safetensors"
    file.write_bytes((2**60).to_bytes(8, "little") + file.read_bytes()[8:])
    return r"model\.safetensors: it says that its header has 1,152,921,504,606,846,976 bytes"


def nothing_in_it(folder: Path) -> str:
    (folder / "model.safetensors").write_bytes(b"")
    return r"model\.safetensors: it has 0 bytes: it was cut short or is no safetensors"


def header_of_garbage(folder: Path) -> str:
    (folder / "model.safetensors").write_bytes((16).to_bytes(8, "little") + b"\xff" * 500)
    return r"model\.safetensors: its header cannot be read"


def pickle_payload(folder: Path) -> str:
    (folder / "model.safetensors").unlink()
    with open(folder / "pytorch_model.bin", "wb") as file:
        pickle.dump({"weight": Payload(folder / "RUN")}, file)
    return (
        r"pytorch_model\.bin: it is no file of weights alone: loading it would call \w+\.mkdir, so it was not loaded"
    )


def payload_saved_by_torch(folder: Path) -> str:
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save({**weights, "extra": Payload(folder / "RUN")}, folder / "pytorch_model.bin")
    return (
        r"pytorch_model\.bin: it is no file of weights alone: loading it would call \w+\.mkdir, so it was not loaded"
    )


def a_bin_cut_short(folder: Path) -> str:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    file = folder / "pytorch_model.bin"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    return r"pytorch_model\.bin: it "


def nested_config(folder: Path) -> str:
    (folder / "config.json").write_text('{"a":' * 100_000 + "1" + "}" * 100_000)
    return r"config\.json: it is nested deeper than any config is"


def no_json(folder: Path) -> str:
    (folder / "config.json").write_text('{"model_type": "llavakit",\n "vision_config": {')
    return r"config\.json: it is not JSON at line 2"


def a_list(folder: Path) -> str:
    (folder / "config.json").write_text("[1, 2]")
    return r"config\.json: it holds a list"


def no_utf8(folder: Path) -> str:
    (folder / "config.json").write_bytes(b'{"model_type": "\xff"}')
    return r"config\.json: it is not UTF-8 at byte 16"


def a_missing_shard(folder: Path) -> str:
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(weights, "model-00002-of-00002.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return r"index\.json: it names model-00002-of-00002\.safetensors, which is not there"


DAMAGES: list[Callable[[Path], str]] = [
    *(
        cut_short,
        absurd_header,
        nothing_in_it,
        header_of_garbage,
        pickle_payload,
        payload_saved_by_torch,
        a_bin_cut_short,
    ),
    *(nested_config, no_json, a_list, no_utf8, a_missing_shard),
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, write_backbones: Callable[..., tuple[str, str]]) -> Path:
    """A checkpoint and its two backbones, undamaged."""
    folder = tmp_path_factory.mktemp("whole")
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision, language = write_backbones(
        folder, ["what is it a cat"], 300, {**sizes, "image_size": 28, "patch_size": 14}, sizes
    )
    save_llava(*build_llava(vision, language), folder / "llava")
    return folder


@pytest.fixture
def copied(whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole, tmp_path / "copied")
    return tmp_path / "copied"


def test_an_undamaged_checkpoint_has_no_damage(whole: Path) -> None:
    assert find_damage(whole / "llava") is None
    torch.save(load_file(whole / "llava" / "model.safetensors"), whole / "llava" / "pytorch_model.bin")
    assert find_damage(whole / "llava") is None
    (whole / "llava" / "pytorch_model.bin").unlink()


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_chat_names_the_file(copied: Path, damage: Callable[[Path], str], capsys: pytest.CaptureFixture[str]) -> None:
    expected = damage(copied / "llava")
    assert main(["chat", str(copied / "llava"), "--question", "what is it"]) == 1
    said = capsys.readouterr().err
    assert re.search(expected, said)
    assert said.startswith("llavakit chat: ") and len(said.splitlines()) == 1
    assert "weights_only" not in said and not (copied / "llava" / "RUN").exists()


@pytest.mark.parametrize("damage", [cut_short, absurd_header, pickle_payload, nested_config, no_json])
@pytest.mark.parametrize("backbone", ["vision", "language"])
def test_init_names_the_file(
    copied: Path, backbone: str, damage: Callable[[Path], str], capsys: pytest.CaptureFixture[str]
) -> None:
    expected = damage(copied / backbone)
    command = ["--vision", copied / "vision", "--language", copied / "language", "--output_dir", copied / "out"]
    assert main(["init", *map(str, command)]) == 1
    *bars, said = capsys.readouterr().err.splitlines()
    assert re.search(expected, said) and said.startswith(f"llavakit init: {copied / backbone}")
    assert all(bar.startswith("Loading weights") for bar in bars if bar)
    assert not (copied / "out").exists()
    assert not (copied / backbone / "RUN").exists()


def test_inspect_and_sft_name_the_file(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from llavakit.train import LlavaSFTConfig, LlavaSFTTrainer

    turns = [{"from": "human", "value": "what is it"}, {"from": "gpt", "value": "a cat"}]
    (copied / "rows.json").write_text(json.dumps([{"id": "1", "conversations": turns}]))
    expected = cut_short(copied / "llava")
    with pytest.raises(DamagedFile, match=expected):
        LlavaSFTTrainer(str(copied / "llava"), LlavaSFTConfig(str(copied / "out"), **CPU_SETTINGS))
    expected = nested_config(copied / "llava")
    assert main(["inspect", str(copied / "rows.json"), "--model", str(copied / "llava")]) == 1
    assert "config.json: it is nested deeper" in capsys.readouterr().err
    for load in (load_model, load_processor, load_config):
        with pytest.raises(DamagedFile, match=expected) as caught:
            load(str(copied / "llava"))
        assert caught.value.__suppress_context__


@pytest.mark.parametrize("stage", ["align", "instruct"])
def test_a_run_that_goes_on_names_the_file(copied: Path, stage: str) -> None:
    from llavakit.train import LlavaSFTConfig, LlavaSFTTrainer

    rows = [{"messages": [{"role": "user", "content": "what is it"}, {"role": "assistant", "content": "a cat"}]}] * 2
    config = {"stage": stage, "use_cpu": True, "bf16": False, "report_to": "none", "max_steps": 1, "save_steps": 1}
    LlavaSFTTrainer(str(copied / "llava"), LlavaSFTConfig(str(copied / "out"), **config), train_dataset=rows).train()
    name = "connector" if stage == "align" else "model"
    file = copied / "out" / "checkpoint-1" / f"{name}.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    trainer = LlavaSFTTrainer(
        str(copied / "llava"), LlavaSFTConfig(str(copied / "out"), **{**config, "max_steps": 2}), train_dataset=rows
    )
    with pytest.raises(DamagedFile, match=rf"{name}\.safetensors: it has [\d,]+ of [\d,]+ bytes: it was cut short"):
        trainer.train(resume_from_checkpoint=str(copied / "out" / "checkpoint-1"))


def test_another_error_goes_on_as_it_was(tmp_path: Path) -> None:
    CLIPVisionModel(CLIPVisionConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2)).save_pretrained(
        tmp_path
    )
    CLIPImageProcessor().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="Unrecognized configuration class"):
        load_model(str(tmp_path))
    with pytest.raises(OSError):
        load_model(str(tmp_path / "nothing"))
