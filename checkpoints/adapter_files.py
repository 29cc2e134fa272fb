"""An adapter as it lies on disk: which model it belongs to, what it was made of and how, and its card.

A folder that `llavakit sft --use_peft` writes holds what PEFT reads (`adapter_config.json`, `adapter_model.safetensors`
with the adapters and the whole connector), the processor, `generation_config.json`, and `adapter_provenance.json`: what the
config of a whole model says of its backbones and its training.
"""

import json
import os
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from safetensors import safe_open
from transformers import GenerationConfig
from transformers.utils import cached_file
from transformers.utils.peft_utils import find_adapter_config_file

from .checkpoint_files import ADAPTER_CONFIG, GENERATION_CONFIG, PROVENANCE_FILE, read_json
from .model_card import CARD_FILE, write_model_card

# Options of `from_pretrained` that say where on the Hub something is
_HUB = ("cache_dir", "force_download", "token", "revision", "local_files_only", "subfolder")

_WEIGHTS = "adapter_model.safetensors"

# By what `AutoPeftModel` makes the model that an adapter belongs to: our own class may be code that lies beside its weights
_AUTO_MAPPING = {"base_model_class": "AutoModelForImageTextToText", "parent_library": "transformers"}


def adapter_config(path: str | os.PathLike, **options: Any) -> dict[str, Any] | None:
    """What `adapter_config.json` says; None where there is none, as beside a whole model.

    Args:
        path: Folder or Hub id.
        **options: Of `from_pretrained`; those that concern the Hub are used.
    """
    file = find_adapter_config_file(str(path), **_hub(options))
    return None if file is None else dict(json.loads(Path(file).read_text(encoding="utf-8")))


def base_name(path: str | os.PathLike, **options: Any) -> str | None:
    """Folder or Hub id of the model that an adapter belongs to; None where `path` is no adapter alone.

    Raises:
        OSError: The model is named by a folder that is not there.
    """
    if (Path(path) / "config.json").is_file():
        return None  # a whole model, with or without an adapter in its folder
    config = adapter_config(path, **options)
    if config is None:
        return None
    base = str(config["base_model_name_or_path"])
    if os.path.isabs(base) and not os.path.isdir(base):
        raise OSError(
            f"{path} is an adapter of the model in {base}, which is not there. If that was moved, write where it is now as "
            f"base_model_name_or_path into {Path(path) / ADAPTER_CONFIG}."
        )
    return base


def read_beside(path: str | os.PathLike, name: str, **options: Any) -> Any:
    """The content of a JSON file of an adapter; None where it has none of that name."""
    file = cached_file(
        str(path),
        name,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
        **_hub(options),
    )
    return None if file is None else read_json(Path(file))


def base_options(path: str | os.PathLike, **options: Any) -> dict[str, Any]:
    """Options for the model that an adapter belongs to, whose revision is in the config of the adapter."""
    config = adapter_config(path, **options) or {}
    return {**options, "revision": config.get("revision") or "main"}


def put_on(llava: Any, path: str | os.PathLike, *, trainable: bool = False, **options: Any) -> Any:
    """Put an adapter on the model that it belongs to.

    PEFT does it, and not transformers, which leaves out the magnitudes of DoRA (5.23).

    Args:
        llava: The model; it is changed, and told what lies beside the adapter: its provenance, and where its answers end.
        path: Folder or Hub id of the adapter.
        trainable: Whether the adapter will be trained further.
        **options: Of `from_pretrained`; those that concern the Hub are used.

    Returns:
        PEFT's model.

    Raises:
        ValueError: The adapter lost weights that it should hold.
    """
    from peft import PeftModel, get_peft_model_state_dict

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Found missing adapter keys")  # an error here
        try:
            model = PeftModel.from_pretrained(llava, str(path), is_trainable=trainable, **_hub(options))
        except KeyError as error:  # of a module that the adapter holds whole
            raise _lost(path, error.args[0]) from None
    _check_holds(path, get_peft_model_state_dict(model, save_embedding_layers=False), **options)
    if (provenance := read_beside(path, PROVENANCE_FILE, **options)) is not None:
        llava.config.provenance = provenance
    if (generation := read_beside(path, GENERATION_CONFIG, **options)) is not None:
        llava.generation_config = GenerationConfig.from_dict(generation)
    return model


def _check_holds(path: str | os.PathLike, wanted: Iterable[str], **options: Any) -> None:
    """Raise where a tensor is missing, in whose place PEFT would go on with new weights."""
    file = cached_file(str(path), _WEIGHTS, _raise_exceptions_for_missing_entries=False, **_hub(options))
    if file is None:
        return  # of a kind whose names are not to be had without loading it
    with safe_open(file, "pt") as opened:
        held = set(opened.keys())
    if missing := sorted(set(wanted) - held):
        raise _lost(path, missing[0])


def _lost(path: str | os.PathLike, tensor: str) -> ValueError:
    return ValueError(
        f"{path}: by its adapter_config.json it holds {tensor}, and its weights do not: what was trained of it is lost. Save "
        "or download the adapter anew."
    )


def complete_adapter(folder: Path, llava: Any) -> None:
    """Write into a folder that PEFT has saved an adapter to what makes it a checkpoint of ours.

    Args:
        folder: Where PEFT has written.
        llava: The model below the adapters, with the `provenance` of both in its config.
    """
    path = folder / ADAPTER_CONFIG
    config = {**json.loads(path.read_text(encoding="utf-8")), "auto_mapping": _AUTO_MAPPING}
    for name in ("target_modules", "modules_to_save"):  # sets, which PEFT writes in any order
        config[name] = sorted(config[name]) if isinstance(config[name], list) else config[name]
    path.write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")
    provenance = llava.config.provenance or {}
    (folder / PROVENANCE_FILE).write_text(json.dumps(provenance, indent=2, sort_keys=True), encoding="utf-8")
    llava.generation_config.to_json_file(folder / GENERATION_CONFIG)
    (folder / CARD_FILE).unlink(missing_ok=True)  # PEFT's form with nothing filled in
    write_model_card(folder, llava.config, config)


def _hub(options: dict[str, Any]) -> dict[str, Any]:
    return {name: options[name] for name in _HUB if options.get(name) is not None}
