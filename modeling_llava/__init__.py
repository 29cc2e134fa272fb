"""The LLaVA model. Importing this registers it with the Auto classes, and its code to be saved with checkpoints.

This file stays here; the others are copied flat beside the weights by `save_pretrained`.
"""

from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoProcessor

from ..processing.processing_llava import LlavaProcessor
from .configuration_llava import LlavaConfig
from .modeling_llava import LlavaForConditionalGeneration, LlavaModel, LlavaPreTrainedModel

AutoConfig.register(LlavaConfig.model_type, LlavaConfig)
# exist_ok: transformers refuses a config whose class is *called* as one of its own; entries are kept by class.
AutoModel.register(LlavaConfig, LlavaModel, exist_ok=True)
AutoModelForImageTextToText.register(LlavaConfig, LlavaForConditionalGeneration, exist_ok=True)
AutoProcessor.register(LlavaConfig, LlavaProcessor, exist_ok=True)

LlavaProcessor.register_for_auto_class()
LlavaConfig.register_for_auto_class("AutoConfig")
LlavaModel.register_for_auto_class("AutoModel")
LlavaForConditionalGeneration.register_for_auto_class("AutoModelForImageTextToText")

__all__ = ["LlavaConfig", "LlavaForConditionalGeneration", "LlavaModel", "LlavaPreTrainedModel"]
