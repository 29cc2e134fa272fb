"""Pickled annotation files, read without running anything: a pickle can name any code."""

import os
import pickle
from pathlib import Path
from typing import Any


def read_plain_pickle(path: str | os.PathLike) -> Any:
    """What a pickle of lists, dicts, strings and numbers holds.

    Raises:
        ValueError: It is damaged, no pickle, or holds anything else; the message names the file.
    """
    with Path(path).open("rb") as file:
        try:
            return _PlainUnpickler(file, encoding="utf-8").load()
        except Exception as error:  # a damaged pickle raises errors of many kinds
            raise ValueError(f"{path} is no pickle of plain values ({error}). Name the official file.") from error


class _PlainUnpickler(pickle.Unpickler):
    """Reads what needs no class or function."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, and annotations hold plain values only")
