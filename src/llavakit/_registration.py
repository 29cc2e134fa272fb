"""Registering the model with the Auto classes of transformers when transformers is used, and no earlier.

`import llavakit` promises that `AutoModelForImageTextToText.from_pretrained` loads our checkpoints, and the command line
promises to start at once. transformers has no entry points, so its first import beyond the package itself is waited for.
"""

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from types import ModuleType

# Whose import registers model, config and processor
ROOM = "llavakit.modeling_llava"

# What the installed package adds to those classes
ADDITIONS = "llavakit.checkpoints.additions"

# Files that ship with the processor; they import transformers, but for those that only read pictures and boxes
PROCESSING = "llavakit.processing."

# Loaded with transformers itself, by others that only ask what is installed, or without transformers
LIGHT = (
    "transformers.utils",
    "transformers.dependency_versions",
    "transformers._typing",
    "llavakit.processing.image_files",
    "llavakit.processing.image_inputs",
    "llavakit.processing.image_geometry",
    "llavakit.processing.box_formats",
    "llavakit.processing.video_containers",
    "llavakit.processing.video_frames",
)


def register_with_auto_classes() -> None:
    """Register now where transformers is in use already, else when it is."""
    if any(_is_use(name) for name in list(sys.modules)):
        _register()
    elif not any(isinstance(finder, _FirstUse) for finder in sys.meta_path):
        sys.meta_path.insert(0, _FirstUse())


def _register() -> None:
    importlib.import_module(ROOM)
    importlib.import_module(ADDITIONS)


def _is_use(name: str) -> bool:
    """Whether a module is one that transformers loads on demand; once its package is whole, a lazy module stands there."""
    whole = type(sys.modules.get("transformers")) is not ModuleType and "transformers" in sys.modules
    return whole and name.startswith("transformers.") and not name.startswith(LIGHT)


class _FirstUse(importlib.abc.MetaPathFinder):
    """Told of each import; at the first use it registers, at a moment when nothing that this needs is half imported.

    Before a module of transformers is imported that is so; where a file of `processing/` or the model comes first, it is
    so after it.
    """

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname == ROOM or fullname.startswith(PROCESSING) and not fullname.startswith(LIGHT):
            sys.meta_path.remove(self)
            spec = importlib.util.find_spec(fullname)
            if spec is not None and spec.loader is not None:
                spec.loader = _ThenRegister(spec.loader)
            return spec
        if _is_use(fullname):
            sys.meta_path.remove(self)
            _register()
            # Loaded on the way: to load it once more would make its classes twice
            return _spec_of_loaded(fullname) if fullname in sys.modules else None
        return None


def _spec_of_loaded(name: str) -> importlib.machinery.ModuleSpec:
    """A spec by which the import system is given the module that is there."""
    module = sys.modules[name]
    spec = importlib.machinery.ModuleSpec(name, _Loaded(module))
    module.__spec__ = spec  # which is what the import system goes by where the module is there already
    return spec


class _Loaded(importlib.abc.Loader):
    def __init__(self, module: ModuleType):
        self.module, self.spec = module, module.__spec__

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return self.module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self.spec


class _ThenRegister(importlib.abc.Loader):
    """Loads a module as its own loader does, then registers."""

    def __init__(self, loader: importlib.abc.Loader):
        self.loader = loader

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self.loader.exec_module(module)
        assert module.__spec__ is not None
        module.__spec__.loader = module.__loader__ = self.loader
        _register()
