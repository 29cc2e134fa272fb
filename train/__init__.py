"""Rows and a model in, a checkpoint out: the two stages of visual instruction tuning."""

from ..checkpoints.building import build_llava
from ..rows.loading import load_conversations
from ..rows.schema import BadRow
from .collator import LlavaCollator
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
