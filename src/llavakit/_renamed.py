"""Modules that stand in another room now: their former names still import, so that scripts keep working."""

import importlib
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType

# Former name -> the module that stands in for it, both below `llavakit`
RENAMED = {
    "data_generation.contexts.bad_annotations": "rows.bad_rows",
    "data_generation.files": "rows.files",
    "data_generation.generate": "data_generation.teachers.generate",
    "data_generation.openai_teacher": "endpoints.client",
    "data_generation.teacher": "endpoints.chat_model",
    "endpoints.openai_teacher": "endpoints.client",
    "endpoints.teacher": "endpoints.chat_model",
    "modeling_llava.backbones": "checkpoints.backbones",
    "modeling_llava.connector_files": "checkpoints.connector_files",
    "modeling_llava.model_card": "checkpoints.model_card",
    "inference.talk": "inference.conversation",
    "train.checkpointing": "checkpoints.safe_writing",
    "train.conversations": "rows.loading",
    "train.images": "rows.images",
    "train.inspection": "train.inspect",
    "train.initialize": "checkpoints.building",
    "train.rows": "rows.schema",
}

# What such a module called its things -> their name now
RENAMED_THINGS = {
    "Answer": "Completion",
    "OpenAITeacher": "OpenAIClient",
    "Teacher": "ChatModel",
    "TeacherError": "CallError",
}


def keep_former_names() -> None:
    """Have the former names imported as the modules that they stand for now."""
    if not any(isinstance(finder, _FormerNames) for finder in sys.meta_path):
        sys.meta_path.append(_FormerNames())


class _FormerNames(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Last in line: asked only for what nobody else finds."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname.removeprefix("llavakit.") not in RENAMED:
            return None
        return importlib.machinery.ModuleSpec(fullname, self)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        name = module.__name__
        present = importlib.import_module(f"llavakit.{RENAMED[name.removeprefix('llavakit.')]}")
        vars(present).update({old: vars(present)[new] for old, new in RENAMED_THINGS.items() if new in vars(present)})
        sys.modules[name] = present
