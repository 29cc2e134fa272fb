"""LLaVA (Visual Instruction Tuning, arXiv:2304.08485) native to Hugging Face.

Every public name is loaded on first use, so that what needs neither torch nor transformers does not wait for them. Once
the package is imported, the Auto classes of transformers load its checkpoints without ``trust_remote_code``.
"""

import importlib
from typing import TYPE_CHECKING, Any

from ._registration import register_with_auto_classes
from ._renamed import keep_former_names
from ._version import __version__

if TYPE_CHECKING:
    from .modeling_llava import LlavaConfig, LlavaForConditionalGeneration, LlavaModel
    from .processing import LlavaProcessor
    from .rows.loading import load_conversations
    from .train import LlavaCollator, LlavaSFTConfig, LlavaSFTTrainer

# Public name -> the room that has it
_LAZY = {
    "LlavaCollator": "train",
    "LlavaConfig": "modeling_llava",
    "LlavaForConditionalGeneration": "modeling_llava",
    "LlavaModel": "modeling_llava",
    "LlavaProcessor": "processing",
    "LlavaSFTConfig": "train",
    "LlavaSFTTrainer": "train",
    "load_conversations": "rows.loading",
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

register_with_auto_classes()
keep_former_names()


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'llavakit' has no attribute {name!r}; it has {__all__}")
    return getattr(importlib.import_module(f"llavakit.{_LAZY[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
