"""Rows and a model in, a checkpoint out: the two stages of visual instruction tuning."""

from .collator import LlavaCollator
from .conversations import load_conversations
from .initialize import build_llava
from .rows import BadRow
from .sft_config import LlavaSFTConfig
from .sft_trainer import LlavaSFTTrainer, NonFiniteLoss

__all__ = [
    "BadRow",
    "LlavaCollator",
    "LlavaSFTConfig",
    "LlavaSFTTrainer",
    "NonFiniteLoss",
    "build_llava",
    "load_conversations",
]
