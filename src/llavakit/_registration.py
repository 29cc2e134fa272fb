"""Registering the model with the Auto classes of transformers when transformers is used, and no earlier.

`import llavakit` promises that `AutoModelForImageTextToText.from_pretrained` loads our checkpoints, and the command line
promises to start at once. transformers has no entry points, so its first import beyond the package itself is waited for.
"""

import importlib
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType

# Loaded with the package, and by others that only ask what is installed
LIGHT = ("transformers.utils", "transformers.dependency_versions", "transformers._typing")

# Whose import registers
ROOM = "llavakit.modeling_llava"


def register_with_auto_classes() -> None:
    """Register now where transformers is in use already, else just before it is."""
    if any(_is_use(name) for name in list(sys.modules)):
        importlib.import_module(ROOM)
    elif not any(isinstance(finder, _FirstUse) for finder in sys.meta_path):
        sys.meta_path.insert(0, _FirstUse())


def _is_use(name: str) -> bool:
    """Whether a module is one that transformers loads on demand; once its package is whole, a lazy module stands there."""
    whole = type(sys.modules.get("transformers")) is not ModuleType and "transformers" in sys.modules
    return whole and name.startswith("transformers.") and not name.startswith(LIGHT)


class _FirstUse(importlib.abc.MetaPathFinder):
    """Finds nothing; it is told of each import. Before the first use nothing of transformers is half imported."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if _is_use(fullname):
            sys.meta_path.remove(self)
            importlib.import_module(ROOM)
        return None
