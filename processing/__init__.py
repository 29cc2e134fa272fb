"""Rows to tensors: chat templates, exact labels, images. These files ship with every checkpoint."""

from .chat_encoding import Encoded, RowTooLong
from .chat_templates import SHIPPED_TEMPLATES, template_text
from .processing_llava import LlavaProcessor

LlavaProcessor.register_for_auto_class()

__all__ = ["SHIPPED_TEMPLATES", "Encoded", "LlavaProcessor", "RowTooLong", "template_text"]
