"""docs/speed.md: its commands, on a model and rows as the page assumes them."""

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

from llavakit.bench import material
from llavakit.bench.presets import PRESETS, Preset
from llavakit.cli import main

PAGE = Path(__file__).resolve().parents[2] / "docs" / "speed.md"
BLOCKS = dict(re.findall(r"^```bash ([\w -]+)\n(.*?)^```$", PAGE.read_text(), re.M | re.S))
SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}


def run(block: str, *more: str) -> int:
    return main([*shlex.split(BLOCKS[block].replace("\\\n", " "))[1:], *more])


@pytest.fixture
def desk(tiny_llava: str, rows_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(tiny_llava, tmp_path / "llava")
    (tmp_path / "images").mkdir()
    for picture in rows_file.parent.glob("*.png"):
        shutil.copy(picture, tmp_path / "images")
    shutil.copy(rows_file, tmp_path / "train.json")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_packs_and_the_certificate(
    desk: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    assert run("pack", "--report_to", "none", "--save_strategy", "no") == 0
    assert "12 rows in 1 packs of up to 4,096 tokens" in caplog.text
    assert (desk / "packed" / "model.safetensors").exists()
    assert run("certify") == 0
    assert "Yes: packed rows train this model as they do alone." in capfd.readouterr().out


@pytest.mark.slow
def test_the_bench(
    forked_processes: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both stages and all arms, on sizes of no consequence: what is compared is the losses, and what is written."""
    vision = {**SMALL, "image_size": 28, "patch_size": 14}
    text = {**SMALL, "vocab_size": 2000, "max_position_embeddings": 2048}
    monkeypatch.setitem(PRESETS, "tiny-cpu", Preset(vision, text, {"align": 4, "instruct": 2}))
    monkeypatch.setattr(material, "NUM_ROWS", 48)
    monkeypatch.chdir(tmp_path)
    assert run("bench", "--steps", "2") == 0
    found = json.loads((tmp_path / "bench.json").read_text())
    for stage in ("stage1", "stage2"):
        said = found[stage]
        assert said["max_loss_difference"] < 1e-5
        assert all(arm["max_loss_difference"] < 1e-5 for arm in said["arms"].values() if "max_loss_difference" in arm)
        assert said["padding_share"] == 0 < said["padding_share_stock"]
        assert said["speedup_vs_stock"] > 0 and said["speedup_vs_stock_best"] > 0 and said["fraction_of_floor"] > 0
        assert 0 < said["utilization"] and said["bytes_moved"] > 0
        assert said["peak_memory_ratio"] > 0 and all(peak > 1e6 for peak in said["peak_memory_bytes"].values())
    assert found["plan_of_seconds"]["planned"] > 0 and found["bytes_per_second"] > 1e8
    assert set(found["shared_image"]) == {"2", "4"}
    assert all(each["max_loss_difference"] < 1e-5 and each["speedup"] > 0 for each in found["shared_image"].values())
    assert set(found["time_to_first_step"]) == {"first", "second", "stock"}
    assert {"torch", "trl", "transformers"} <= set(found["versions"])
    assert "stage2: instruct" in capsys.readouterr().out
