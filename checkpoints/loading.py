"""Loading what was saved. Where that fails over a damaged file, the file is named, in one line, with what to do about it."""

import contextlib
import os
import pickle
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from .adapter_files import base_name, base_options, put_on
from .checkpoint_files import base_of
from .damage import find_damage

DIFFERENT = ": config and weights are of different models. Save or download them anew, together."


class DamagedFile(ValueError):
    """A file of a checkpoint cannot be read, or would do more than be read. Nothing in it was run."""


def load_model(path: str | os.PathLike, **options: Any) -> Any:
    """Load a LLaVA, or the LLaVA that an adapter belongs to with the adapter in it; `options` are those of `from_pretrained`.

    Raises:
        DamagedFile: A file of it is damaged; it is named.
        ValueError: Its weights lack some that its config asks for, or have other shapes.
        OSError: There is no checkpoint of that name.
    """
    with naming_damage(path):
        base = base_name(path, **options)
        if base is not None:
            llava = _load_whole(base, **base_options(path, **options))
            return put_on(llava, path, **options).get_base_model()
    return _load_whole(path, **options)


def _load_whole(path: str | os.PathLike, **options: Any) -> Any:
    with naming_damage(path):
        loaded: Any = AutoModelForImageTextToText.from_pretrained(
            path, **{**options, "output_loading_info": True, "ignore_mismatched_sizes": True}
        )
    model, info = loaded
    check_whole(path, info)
    return model


def check_whole(path: str | os.PathLike, info: Mapping[str, Any]) -> None:
    """Refuse a checkpoint that lacks weights which its config asks for: those would be random.

    Args:
        path: Folder or Hub id.
        info: What `from_pretrained` says of the loading; with `ignore_mismatched_sizes`, or a shape is an error of its own
            that names no file.

    Raises:
        ValueError: Naming a tensor that is missing, or of another shape.
    """
    if missing := sorted(info["missing_keys"]):
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ValueError(f"{path}: its weights lack {missing[0]!r}{more}, which its config asks for{DIFFERENT}")
    if mismatched := sorted(info.get("mismatched_keys") or ()):
        name, saved, expected = mismatched[0]
        raise ValueError(
            f"{path}: {name!r} has the shape {tuple(saved)}, and its config asks for {tuple(expected)}{DIFFERENT}"
        )


def load_processor(path: str | os.PathLike, **options: Any) -> Any:
    """Load the processor of a LLaVA; raises as `load_model`."""
    with naming_damage(path):
        return AutoProcessor.from_pretrained(path, **options)


def load_config(path: str | os.PathLike, **options: Any) -> Any:
    """Load the config of a LLaVA, of an adapter that of the LLaVA that it belongs to; raises as `load_model`."""
    with naming_damage(path):
        base = base_name(path, **options)
        return AutoConfig.from_pretrained(path if base is None else base, **options)


@contextlib.contextmanager
def naming_damage(*paths: str | os.PathLike) -> Iterator[None]:
    """Where loading any of these checkpoints fails, look for a damaged file; if there is none, the error goes on as it was.

    Raises:
        DamagedFile: In place of the error: what the libraries say of damage is a traceback without the file's name, or
            invites to load it without their protection.
    """
    try:
        with warnings.catch_warnings():
            # Of a pickled file that torch then refuses
            warnings.filterwarnings("ignore", message="Detected pickle protocol")
            yield
    except Exception as error:
        for path in paths:
            for folder in _folders(path):
                damage = find_damage(folder)
                if damage is not None:
                    raise DamagedFile(damage) from None
        if isinstance(error, pickle.UnpicklingError):
            raise DamagedFile(
                f"{paths[0]}: its weights are no file of tensors alone, so they were not loaded, and nothing in them was "
                "run. Do not load them by other means; ask for .safetensors."
            ) from None
        raise


def _folders(path: str | os.PathLike) -> list[Path]:
    """The folder of a checkpoint, in the Hub's cache if need be, and that of the model an adapter belongs to."""
    folder = Path(path)
    if not folder.is_dir():
        try:
            cached = try_to_load_from_cache(str(path), "config.json")
        except HFValidationError:
            cached = None
        if not isinstance(cached, str):
            return []
        folder = Path(cached).parent
    base = base_of(folder)
    return [folder] if base is None else [folder, base]
