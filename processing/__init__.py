"""Rows to tensors: chat templates, exact labels, images. The other files here ship with every checkpoint.

Names are loaded on first use: `rows/` takes the reading of pictures from here, and it does not wait for transformers.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .chat_encoding import Encoded, RowTooLong
    from .chat_templates import SHIPPED_TEMPLATES, template_text
    from .processing_llava import LlavaProcessor

_LAZY = {
    "SHIPPED_TEMPLATES": "chat_templates",
    "Encoded": "chat_encoding",
    "LlavaProcessor": "processing_llava",
    "RowTooLong": "chat_encoding",
    "template_text": "chat_templates",
}

__all__ = ["SHIPPED_TEMPLATES", "Encoded", "LlavaProcessor", "RowTooLong", "template_text"]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'llavakit.processing' has no attribute {name!r}; it has {__all__}")
    return getattr(importlib.import_module(f".{_LAZY[name]}", __name__), name)
