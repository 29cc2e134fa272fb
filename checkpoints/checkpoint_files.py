"""Which files of a folder belong to the checkpoint in it; what else lies there is somebody's own."""

import ast
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

ADAPTER_CONFIG = "adapter_config.json"
GENERATION_CONFIG = "generation_config.json"
# Of an adapter, what the config of a whole model says of its making
PROVENANCE_FILE = "adapter_provenance.json"
# Of weights in a file of a conversion; so much more than the model itself is held in memory while it is written
SHARD_SIZE = "2GB"

# Weights, whole or in shards, with their index; of the whole model, of an adapter, of the connector
_WEIGHTS = re.compile(
    r"(?:model|adapter_model)(?:-\d+-of-\d+)?\.safetensors|(?:pytorch_model|adapter_model)(?:-\d+-of-\d+)?\.bin"
    r"|(?:model\.safetensors|pytorch_model\.bin)\.index\.json|connector\.safetensors|tf_model\.h5|flax_model\.msgpack"
)
MODEL_FILES = frozenset({"config.json", GENERATION_CONFIG, ADAPTER_CONFIG, PROVENANCE_FILE})
PROCESSOR_FILES = frozenset(
    {
        "added_tokens.json",
        "chat_template.jinja",
        "chat_template.json",
        "image_processor_config.json",
        "merges.txt",
        "preprocessor_config.json",
        "processor_config.json",
        "special_tokens_map.json",
        "spiece.model",
        "tokenizer.json",
        "tokenizer.model",
        "tokenizer_config.json",
        "video_preprocessor_config.json",
        "vocab.json",
        "vocab.txt",
    }
)
# Further templates of a processor that has several
TEMPLATE_FOLDER = "additional_chat_templates"
# Those that may name code which lies beside them
_NAME_CODE = ("config.json", "preprocessor_config.json", "processor_config.json", "tokenizer_config.json")


def stale_files(folder: Path, staging: Path) -> list[Path]:
    """What a checkpoint in `folder` consists of and the one that is to take its place lacks.

    An old adapter would be loaded on top of new weights, an old single file in place of new shards. A save of weights
    alone leaves the processor, and the other way round.

    Args:
        folder: Where the checkpoint goes.
        staging: Where the new one was written.

    Returns:
        Paths below `folder`, in order.
    """
    new = {file.relative_to(staging) for file in _files(staging)}
    there = [file.relative_to(folder) for file in _files(folder)]
    kinds = {kind for kind in map(kind_of, new) if kind}
    stale = {file for file in there if kind_of(file) in kinds and file not in new}
    if base_of(staging) == folder.resolve():  # the new adapter goes on top of the weights that are there
        stale = {file for file in stale if kind_of(file) == "processor" or file.name.startswith("adapter")}
    kept = [file for file in there if kind_of(file) and file not in stale and file not in new]
    stale |= _code_of(folder, there) - _code_of(folder, kept) - new
    return sorted(stale)


def base_of(folder: Path) -> Path | None:
    """Of an adapter, the folder of the model that it belongs to."""
    adapter = read_json(folder / ADAPTER_CONFIG)
    base = adapter.get("base_model_name_or_path") if isinstance(adapter, dict) else None
    return Path(base).resolve() if isinstance(base, str) and Path(base).is_dir() else None


def _files(folder: Path) -> list[Path]:
    return [file for place in (folder, folder / TEMPLATE_FOLDER) for file in place.glob("*") if file.is_file()]


def kind_of(file: Path) -> Literal["model", "processor"] | None:
    """Of what a file is that is named below a checkpoint's folder; None if it is no file of a checkpoint."""
    if file.parent.name == TEMPLATE_FOLDER:
        return "processor" if file.suffix == ".jinja" else None
    if file.parent != Path("."):
        return None
    if file.name in MODEL_FILES or _WEIGHTS.fullmatch(file.name):
        return "model"
    return "processor" if file.name in PROCESSOR_FILES else None


def _code_of(folder: Path, files: Iterable[Path]) -> set[Path]:
    """The Python files that configs name (`auto_map`), and those of the folder that these import in turn."""
    found: set[Path] = set()
    waiting = [name for file in files if file.name in _NAME_CODE for name in _named_modules(folder / file)]
    while waiting:
        file = Path(f"{waiting.pop()}.py")
        if file not in found and (folder / file).is_file():
            found.add(file)
            waiting += _imported_modules(folder / file)
    return found


def _named_modules(config: Path) -> list[str]:
    content: Any = read_json(config)
    entries = content.get("auto_map") if isinstance(content, dict) else None
    values = entries.values() if isinstance(entries, dict) else entries if isinstance(entries, list) else []
    names = [name for value in values for name in (value if isinstance(value, (list, tuple)) else [value])]
    # "repository--module.Class" lies elsewhere
    return [name.partition(".")[0] for name in names if isinstance(name, str) and "--" not in name]


def _imported_modules(file: Path) -> list[str]:
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError, RecursionError):
        return []
    return [
        node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.level == 1 and node.module is not None
    ]


def read_json(file: Path) -> Any:
    """The content of a JSON file; None where it is not to be had, as in a file that was damaged."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
