"""A checkpoint takes the place of another whole: nothing of the old one is left to be mixed in, nothing of the user's goes."""

import json
from pathlib import Path

import pytest

from llavakit.checkpoints.checkpoint_files import stale_files
from llavakit.checkpoints.safe_writing import replace_files

SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"]
CODE = {"auto_map": {"AutoModel": "modeling_llava.LlavaModel"}}
PROCESSOR = ["processor_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"]
MINE = [
    "README.md",
    "notes.txt",
    "train.py",
    "rows.json",
    "model_notes.json",
    "best.safetensors",
    "model.onnx",
    "fasttext.bin",
]


def write(folder: Path, *names: str, text: str = "{}") -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def names(folder: Path) -> set[str]:
    return {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}


def save(folder: Path, *files: str) -> None:
    """Put a new checkpoint of these files into a folder, as a save does."""
    replace_files(write(folder / ".saving-model", *files, text='"new"'), folder)
    (folder / ".saving-model").rmdir()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (["adapter_config.json", "adapter_model.safetensors"], ["config.json", "model.safetensors"]),
        (["adapter_config.json", "adapter_model.bin"], ["config.json", "model.safetensors"]),
        (["config.json", "model.safetensors"], ["adapter_config.json", "adapter_model.safetensors"]),
        (["config.json", "model.safetensors"], ["config.json", *SHARDS]),
        (["config.json", *SHARDS], ["config.json", "model.safetensors"]),
        (
            ["config.json", *SHARDS],
            ["config.json", "model-00001-of-00003.safetensors", "model.safetensors.index.json"],
        ),
        (["config.json", "pytorch_model.bin"], ["config.json", "model.safetensors"]),
        (
            ["config.json", "pytorch_model-00001-of-00002.bin", "pytorch_model.bin.index.json"],
            ["config.json", "model.safetensors"],
        ),
        (["config.json", "generation_config.json", "connector.safetensors"], ["config.json", "model.safetensors"]),
    ],
)
def test_weights_that_a_save_lacks_go_with_it(tmp_path: Path, old: list[str], new: list[str]) -> None:
    write(tmp_path, *old, *MINE, *PROCESSOR, "checkpoint-8/model.safetensors", "runs/events", text='"old"')
    save(tmp_path, *new)
    kept = {*MINE, *PROCESSOR, "checkpoint-8/model.safetensors", "runs/events"}
    assert names(tmp_path) == {*new, *kept}
    assert {name for name in names(tmp_path) if "new" in (tmp_path / name).read_text()} == set(new)


def test_files_of_the_processor_that_a_save_lacks_go_with_it(tmp_path: Path) -> None:
    old = [
        *PROCESSOR,
        "preprocessor_config.json",
        "vocab.json",
        "additional_chat_templates/tools.jinja",
        "config.json",
    ]
    write(tmp_path, *old, *MINE, "additional_chat_templates/mine.txt")
    save(tmp_path, *PROCESSOR[:2])
    assert names(tmp_path) == {*PROCESSOR[:2], *MINE, "config.json", "additional_chat_templates/mine.txt"}


def test_code_goes_that_only_the_old_checkpoint_names(tmp_path: Path) -> None:
    write(tmp_path, "config.json", text=json.dumps(CODE))
    write(tmp_path, "processor_config.json", text=json.dumps({"auto_map": {"AutoProcessor": "processing.Processor"}}))
    write(tmp_path, "modeling_llava.py", text="from .former import X\nfrom .connectors import Y\nimport mine")
    write(tmp_path, "former.py", text="from .deeper import X")
    write(tmp_path, "processing.py", text="from .shared import X")
    write(tmp_path, "deeper.py", "connectors.py", "shared.py", "train.py", text="")
    save(tmp_path, "config.json", "model.safetensors", "modeling_llava.py", "connectors.py")
    # The processor was not saved anew, and keeps its code; `train.py` is the user's
    assert {name for name in names(tmp_path) if name.endswith(".py")} == {
        "modeling_llava.py",
        "connectors.py",
        "processing.py",
        "shared.py",
        "train.py",
    }


def test_a_damaged_old_config_stops_no_save(tmp_path: Path) -> None:
    write(tmp_path, "config.json", text="[" * 100_000)
    write(tmp_path, "tokenizer_config.json", text='{"auto_map": {"AutoTokenizer": ["a--b.C", null, "c.D"]}}')
    save(tmp_path, "config.json", "model.safetensors")
    assert names(tmp_path) == {"config.json", "model.safetensors", "tokenizer_config.json"}


def test_an_adapter_leaves_the_weights_that_it_belongs_to(tmp_path: Path) -> None:
    write(tmp_path, "config.json", "model.safetensors", "adapter_model.bin", *PROCESSOR)
    new = write(tmp_path / ".saving-model", "adapter_model.safetensors")
    (new / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(tmp_path)}))
    assert [str(file) for file in stale_files(tmp_path, new)] == ["adapter_model.bin"]
    (new / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "elsewhere"}))
    assert {str(file) for file in stale_files(tmp_path, new)} == {
        "adapter_model.bin",
        "config.json",
        "model.safetensors",
    }


def test_what_was_set_aside_comes_back_when_a_move_fails(tmp_path: Path) -> None:
    write(tmp_path, "adapter_config.json", "adapter_model.safetensors", *PROCESSOR, text='"old"')
    (tmp_path / "model.safetensors").mkdir()  # a file cannot be moved there
    (tmp_path / "model.safetensors" / "x").touch()
    with pytest.raises(OSError):
        replace_files(write(tmp_path / ".saving-model", "model.safetensors"), tmp_path)
    assert {"adapter_config.json", "adapter_model.safetensors"} <= names(tmp_path)
