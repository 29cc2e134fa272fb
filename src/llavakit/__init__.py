"""LLaVA (Visual Instruction Tuning, arXiv:2304.08485) native to Hugging Face.

Importing the package registers the model with the Auto classes of transformers, so that a checkpoint loads without
``trust_remote_code``. What needs trl and datasets is loaded on first use.
"""

import importlib
from typing import TYPE_CHECKING, Any

from transformers import AutoProcessor

from ._version import __version__
from .modeling_llava import LlavaConfig, LlavaForConditionalGeneration, LlavaModel
from .processing import LlavaProcessor

if TYPE_CHECKING:
    from .train import LlavaCollator, LlavaSFTConfig, LlavaSFTTrainer, load_conversations

# exist_ok: transformers refuses a config whose class is called as one of its own; entries are kept by class
AutoProcessor.register(LlavaConfig, LlavaProcessor, exist_ok=True)

_LAZY = {
    "LlavaCollator": "train",
    "LlavaSFTConfig": "train",
    "LlavaSFTTrainer": "train",
    "load_conversations": "train",
}

__all__ = [
    "LlavaCollator",
    "LlavaConfig",
    "LlavaForConditionalGeneration",
    "LlavaModel",
    "LlavaProcessor",
    "LlavaSFTConfig",
    "LlavaSFTTrainer",
    "__version__",
    "load_conversations",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'llavakit' has no attribute {name!r}; it has {__all__}")
    return getattr(importlib.import_module(f"llavakit.{_LAZY[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
