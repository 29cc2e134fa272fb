"""Rows to tensors: chat templates, exact labels, images. These files ship with every checkpoint."""

# First: with it the model registers (see src/llavakit/_registration.py), which needs the files of this folder
import transformers.processing_utils  # noqa: F401

from .chat_encoding import Encoded, RowTooLong
from .chat_templates import SHIPPED_TEMPLATES, template_text
from .processing_llava import LlavaProcessor

LlavaProcessor.register_for_auto_class()

__all__ = ["SHIPPED_TEMPLATES", "Encoded", "LlavaProcessor", "RowTooLong", "template_text"]
