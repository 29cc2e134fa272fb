"""docs/adapters.md, run from top to bottom in a folder with an untrained model."""

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch

from llavakit.checkpoints.adapters import adapter_facts
from llavakit.checkpoints.loading import load_model

from ..cpu_training import CPU_FLAGS
from ..warm_python import WITHOUT_LLAVAKIT, WarmPython

PAGE = Path(__file__).resolve().parents[2] / "docs" / "adapters.md"
BLOCKS = dict(re.findall(r"^```(\w+ \w+)\n(.*?)^```$", PAGE.read_text(), re.M | re.S))
SMALL = [*CPU_FLAGS, "--max_steps", "2", "--max_length", "512", "--save_strategy", "no"]


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory, wide_llava: str) -> Path:
    import numpy as np
    from PIL import Image

    folder = tmp_path_factory.mktemp("desk")
    shutil.copytree(wide_llava, folder / "checkpoints" / "aligned")
    (folder / "images").mkdir()
    rows = []
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 255, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{number}.png")
        turns = [{"from": "human", "value": "<image>\nwhat is it"}, {"from": "gpt", "value": "a cat"}]
        rows.append({"id": str(number), "image": f"{number}.png", "conversations": turns})
    (folder / "rows.json").write_text(json.dumps(rows))
    return folder


def run(python: WarmPython, desk: Path, name: str) -> str:
    """Run a block of the page; what it printed."""
    said = ""
    if name.startswith("python"):
        code = BLOCKS[name] if name == "python merged" else WITHOUT_LLAVAKIT + BLOCKS[name]
        commands = [["-c", code]]
    else:
        lines = BLOCKS[name].replace("\\\n", " ").splitlines()
        commands = [["-m", "llavakit.cli", *shlex.split(line)[1:]] for line in lines]
        commands = [[*command, *SMALL] if command[2] == "sft" else command for command in commands]
    for command in commands:
        done = python.run(command, cwd=desk)
        assert done.returncode == 0, done.stdout + done.stderr[-3000:]
        said += done.stdout + done.stderr
    return said


@pytest.mark.slow
def test_the_page_from_top_to_bottom(warm_python: WarmPython, desk: Path):
    assert list(BLOCKS) == [
        *("bash train", "bash qlora", "bash use", "python load", "bash continue", "bash merge"),
        *("bash export", "python merged"),
    ]
    said = run(warm_python, desk, "bash train")
    assert re.search(r"connector .*\(100\.00%\)  learns at 2e-05", said)
    assert re.search(r"language model .*adapters learn at 0\.0002", said)
    told = adapter_facts(desk / "checkpoints" / "adapter")
    assert told is not None and told.method == "LoRA, r 128, alpha 256, dropout 0.05" and told.stage == "instruct"
    for name in ("bash use", "python load", "bash continue", "bash merge"):
        run(warm_python, desk, name)
    assert adapter_facts(desk / "checkpoints" / "adapter-2") is not None
    assert adapter_facts(desk / "checkpoints" / "whole") is None
    assert "LoRA, r 128, alpha 256, dropout 0.05, rounded off: 0.0%" in run(warm_python, desk, "python merged")
    run(warm_python, desk, "bash export")
    one, merged = (load_model(desk / "checkpoints" / name).state_dict() for name in ("one", "merged"))
    assert one.keys() == merged.keys() and all(torch.equal(tensor, merged[name]) for name, tensor in one.items())


@pytest.mark.slow
def test_the_page_beside_quantized_weights(warm_python: WarmPython, desk: Path):
    pytest.importorskip(
        "bitsandbytes", reason="quantized weights need bitsandbytes: pip install 'llavakit[quantization]'"
    )
    run(warm_python, desk, "bash qlora")
    assert adapter_facts(desk / "checkpoints" / "qlora") is not None
