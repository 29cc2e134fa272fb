"""What is trained: `PRESETS`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Preset:
    """Sizes of a LLaVA with random weights, and how it is trained.

    Args:
        vision: Fields of a CLIP vision config.
        language: Fields of a Llama config.
        batch_size: Rows of a step, by stage.
        device: "cpu" or "cuda".
        bf16: Whether steps are computed in bfloat16.
    """

    vision: Mapping[str, Any]
    language: Mapping[str, Any]
    batch_size: Mapping[str, int] = field(default_factory=lambda: {"align": 8, "instruct": 8})
    device: str = "cpu"
    bf16: bool = False


_TINY_CLIP = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 4}
_TINY_LLAMA = {
    "hidden_size": 256,
    "intermediate_size": 688,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "vocab_size": 32000,
    "max_position_embeddings": 4096,
}
_CLIP_LARGE = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "patch_size": 14,
}
_VICUNA_7B = {
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "vocab_size": 32000,
    "max_position_embeddings": 4096,
}

PRESETS: dict[str, Preset] = {
    "tiny-cpu": Preset({**_TINY_CLIP, "image_size": 112, "patch_size": 14}, _TINY_LLAMA),
    "tiny-cpu-336": Preset({**_TINY_CLIP, "image_size": 336, "patch_size": 14}, _TINY_LLAMA),
    "7b-224": Preset({**_CLIP_LARGE, "image_size": 224}, _VICUNA_7B, {"align": 32, "instruct": 16}, "cuda", True),
    "7b-336": Preset({**_CLIP_LARGE, "image_size": 336}, _VICUNA_7B, {"align": 32, "instruct": 16}, "cuda", True),
}
