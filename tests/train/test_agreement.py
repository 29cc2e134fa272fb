"""A processor and a model that do not belong together are told apart before the first step, by training and by inspect."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import set_seed

from llavakit.checkpoints.building import build_llava, save_llava
from llavakit.train import sft as script
from llavakit.train.inspect import inspect_data

FLAGS = ["--use_cpu", "--max_steps", "1", "--per_device_train_batch_size", "2", "--report_to", "none"]


@pytest.fixture(scope="module")
def anyres_llava(tiny_backbones: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    set_seed(0)
    folder = tmp_path_factory.mktemp("anyres")
    save_llava(*build_llava(*tiny_backbones, image_aspect_ratio="anyres"), folder)
    return folder


@pytest.fixture
def changed(anyres_llava: Path, tmp_path: Path) -> Callable[..., str]:
    """A copy of the checkpoint whose files were changed: `changed(config={...}, processor={...})`; text fields by name."""

    def make(config: Any = (), processor: Any = (), text_config: Any = ()) -> str:
        folder = tmp_path / "changed"
        shutil.copytree(anyres_llava, folder)
        for name, fields in (("config.json", config), ("processor_config.json", processor)):
            written = json.loads((folder / name).read_text())
            written.update(dict(fields))
            if name == "config.json":
                written["text_config"].update(dict(text_config))
            (folder / name).write_text(json.dumps(written))
        return str(folder)

    return make


@pytest.fixture
def sft(rows_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    """Runs `llavakit sft` to its end in this process: its status and what it says last."""

    def run(model: str, *flags: str) -> tuple[int, str]:
        argv = ["sft", "--model_name_or_path", model, "--dataset_name", str(rows_file), *FLAGS, *flags]
        monkeypatch.setattr("sys.argv", [*argv, "--output_dir", str(tmp_path / "out")])
        status = script.run()
        said = capsys.readouterr().err
        assert not (tmp_path / "out" / "model.safetensors").exists() or status == 0
        return status, said[said.rfind("llavakit sft: ") :]

    return run


@pytest.mark.slow
def test_those_that_belong_together_train(anyres_llava: Path, rows_file: Path, sft):
    assert inspect_data(rows_file, anyres_llava).blockers == []
    assert sft(str(anyres_llava))[0] == 0


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"config": {"image_line_break": False}}, "no embedding for one (image_line_break=False in its config)"),
        ({"processor": {"image_token_grid": [1, 4]}}, "set image_token_grid to [2, 2] in processor_config.json"),
        ({"processor": {"image_tokens_of": "image"}}, "set it to 'view' in processor_config.json"),
        ({"processor": {"image_seq_length": 9}}, "writes 9 tokens an image, and the model makes 4 features of one"),
    ],
)
def test_those_that_do_not_are_named(changed, rows_file: Path, sft, files: dict[str, Any], said: str):
    folder = changed(**files)
    status, error = sft(folder)
    assert status == 1 and said in error and "Traceback" not in error
    found = inspect_data(rows_file, folder, num_rows=0)
    assert said in found.blockers[0] and not found.may_start


def test_a_processor_that_was_made_for_the_model_needs_no_embedding_it_does_not_use(changed, sft):
    """Of one view an image there are no rows to end."""
    assert sft(changed(config={"image_line_break": False}, processor={"image_aspect_ratio": "pad"}))[0] == 0


def test_weights_that_lack_what_the_config_asks_for(changed, sft):
    folder = changed()
    weights = load_file(f"{folder}/model.safetensors")
    del weights["model.multi_modal_projector.line_break"]
    save_file(weights, f"{folder}/model.safetensors", metadata={"format": "pt"})
    status, error = sft(folder)
    assert status == 1 and "its weights lack 'model.multi_modal_projector.line_break'" in error


def test_weights_of_another_shape_than_the_config_asks_for(changed, sft):
    folder = changed()
    weights = load_file(f"{folder}/model.safetensors")
    weights["model.multi_modal_projector.line_break"] = torch.zeros(7)
    save_file(weights, f"{folder}/model.safetensors", metadata={"format": "pt"})
    status, error = sft(folder)
    assert status == 1 and "'model.multi_modal_projector.line_break' has the shape (7,), and its config asks" in error
    assert "Traceback" not in error


def test_a_layout_that_is_not_known(changed, rows_file: Path, sft):
    folder = changed(processor={"image_aspect_ratio": "mosaic"})
    status, error = sft(folder)
    assert status == 1 and "image_aspect_ratio='mosaic' is no layout of images: use one of ['crop', 'pad'" in error
    with pytest.raises(ValueError, match="'mosaic' is no layout of images"):
        inspect_data(rows_file, folder)


def test_canvases_that_are_no_multiple_of_a_view(changed, rows_file: Path, sft):
    folder = changed(processor={"image_layout_options": {"candidates": [[28, 40]]}})
    status, error = sft(folder)
    assert status == 1 and "has the entry [28, 40], which views of 28 x 28 pixels" in error
    with pytest.raises(ValueError, match="which views of 28 x 28 pixels"):
        inspect_data(rows_file, folder)


def test_more_image_tokens_than_positions(changed, rows_file: Path, sft):
    """Rows are named: with AnyRes it depends on the picture."""
    folder = changed(text_config={"max_position_embeddings": 16})
    status, error = sft(folder)
    assert status == 1 and "row 0, id 'r0': its 1 image(s) take 24 tokens" in error and "has 16 positions" in error
    found = inspect_data(rows_file, folder, num_rows=0)
    assert found.unusable["too many tokens"].count == 11 and found.num_usable == 1 and not found.may_start
    assert sft(folder, "--on_bad_row", "skip")[0] == 0  # the row without a picture is left


def test_more_image_tokens_than_max_length(anyres_llava: Path, rows_file: Path, sft):
    status, error = sft(str(anyres_llava), "--max_length", "20", "--chat_template", "plain")
    assert status == 1 and "row 0, id 'r0': The first exchange does not fit max_length=20" in error
    found = inspect_data(rows_file, anyres_llava, max_length=20, num_rows=0, chat_template="plain")
    assert found.unusable["too long"].count == 11 and found.num_usable == 1 and not found.may_start
