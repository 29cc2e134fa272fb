"""Stock `DPOTrainer` and `GRPOTrainer` go on from a checkpoint of ours, where llavakit cannot be imported.

The log-probabilities that they compute, of batches padded, doubled, shuffled and cut by trl, must be those of a plain
forward of each sample by itself (`stranger.py`): with one picture a prompt, with several, with none, and with layouts that
cut a picture into as many views as its size asks for.
"""

import json
from pathlib import Path

import pytest
import torch

from ..warm_python import WarmPython

pytestmark = pytest.mark.slow

LAYOUTS = ["crop", "anyres", "native"]


@pytest.fixture(scope="module")
def told(
    tiny_backbones: tuple[str, str], tmp_path_factory: pytest.TempPathFactory, warm_python: WarmPython
) -> dict[str, dict]:
    """What a stranger's process found of a checkpoint of each layout."""
    import os

    from transformers import set_seed

    from llavakit.checkpoints.building import build_llava, save_llava

    from ..warm_python import WITHOUT_LLAVAKIT

    folder = tmp_path_factory.mktemp("checkpoints")
    for layout in LAYOUTS:
        set_seed(0)
        model, processor = build_llava(*tiny_backbones, chat_template="vicuna_v1", image_aspect_ratio=layout)
        model.config.text_config.attention_dropout = (
            0.0  # trl switches off the dropouts that are modules, and no others
        )
        with torch.no_grad():
            model.model.multi_modal_projector.linear.weight.mul_(20)  # so that pictures change what is said
        save_llava(model, processor, folder / layout)
    site, out = folder / "site", tmp_path_factory.mktemp("out")
    site.mkdir()
    (site / "sitecustomize.py").write_text(WITHOUT_LLAVAKIT)
    program = (
        WITHOUT_LLAVAKIT
        + f"import runpy; runpy.run_path({str(Path(__file__).with_name('stranger.py'))!r}, run_name='__main__')"
    )
    environment = {**os.environ, "PYTHONPATH": str(site)}
    done = warm_python.run(["-c", program, out, *(folder / layout for layout in LAYOUTS)], env=environment)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    return {layout: json.loads((out / f"{layout}.json").read_text()) for layout in LAYOUTS}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_preferences_are_learnt_from_what_each_sample_scores_alone(told: dict[str, dict], layout: str) -> None:
    assert told[layout]["code"] == "transformers_modules"
    found = told[layout]["preferences"]
    assert found["picture matters"] > 1e-2 and found["difference"] < 1e-4
    first, second = found["losses"]
    assert first == pytest.approx(0.6931, abs=1e-3) and second < first  # log 2, until the policy moves
    assert found["moved"] == found["saved"] == ["language_model", "lm_head", "multi_modal_projector"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_rewards_are_learnt_from_what_each_sample_scores_alone(told: dict[str, dict], layout: str) -> None:
    found = told[layout]["rewards"]
    assert found["samples"] and found["difference"] < 1e-4
    assert found["truths"] and len(found["losses"]) == 2
    assert found["moved"] == ["language_model", "lm_head", "multi_modal_projector"]
