"""The families of backbones that are tested, each as the fields of a tiny config and what is known of it."""

from typing import Any, NamedTuple

from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
}


def clip(side: int) -> CLIPImageProcessorPil:
    return CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})


def dinov2(side: int) -> BitImageProcessorPil:
    """As DINOv2's own: resized to a little more, then cropped."""
    size = {"shortest_edge": side * 8 // 7}
    return BitImageProcessorPil(size=size, crop_size={"height": side, "width": side})


def siglip(side: int) -> SiglipImageProcessorPil:
    return SiglipImageProcessorPil(size={"height": side, "width": side})


class Vision(NamedTuple):
    """A vision encoder: its type, what its config has beside `SIZES`, tokens before its grid, and its image processor."""

    model_type: str
    fields: dict[str, Any]
    prefix: int
    image_processor: Any

    @property
    def patches(self) -> int:
        """Of a view of 28 pixels."""
        side = self.fields.get("patch_size", 14)
        return (28 // (side if isinstance(side, int) else side[0])) ** 2


VISION = {
    "CLIP": Vision("clip_vision_model", {}, 1, clip(28)),
    "SigLIP": Vision("siglip_vision_model", {}, 0, siglip(28)),
    "SigLIP 2": Vision("siglip_vision_model", {"patch_size": 7}, 0, siglip(28)),  # of fixed resolution: the same class
    "DINOv2": Vision("dinov2", {}, 1, dinov2(28)),
    "DINOv2 with registers": Vision("dinov2_with_registers", {"num_register_tokens": 3}, 4, dinov2(28)),
    "DINOv3": Vision("dinov3_vit", {"num_register_tokens": 2}, 3, siglip(28)),  # its positions turn keys and queries
    "InternViT": Vision("internvl_vision", {"image_size": [28, 28], "patch_size": [14, 14]}, 1, siglip(28)),
    "MLCD": Vision("mlcd_vision_model", {}, 1, clip(28)),  # not in the table of prefix tokens: measured
}

# model type -> what its config has beside `SIZES`
LANGUAGE: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"num_key_value_heads": 2, "head_dim": 8},
    "qwen2": {"num_key_value_heads": 2, "tie_word_embeddings": True},
    "qwen3": {"num_key_value_heads": 2, "head_dim": 8},
    "phi3": {"num_key_value_heads": 2},
    "gemma": {"num_key_value_heads": 2, "head_dim": 8},
    "gemma2": {"num_key_value_heads": 2, "head_dim": 8, "final_logit_softcapping": 0.05},
    "gemma3_text": {"num_key_value_heads": 2, "head_dim": 8},
    "smollm3": {"num_key_value_heads": 2},
    "mixtral": {"num_key_value_heads": 2, "num_local_experts": 4},
    "qwen3_moe": {
        "num_key_value_heads": 2,
        "head_dim": 8,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
    },
    "gpt2": {},
}
