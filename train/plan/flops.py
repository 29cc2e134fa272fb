"""Floating-point operations that a step of training cannot do without, and how fast this machine is at best.

A product of (m, k) and (k, n) is 2 m k n of them. Shapes: T tokens of the rows, K of them supervised, V views.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class StepWork:
    """What the rows of a step are made of, each row as if alone.

    Args:
        lengths: Tokens of each row.
        supervised: Supervised tokens of all.
        views: Views of all their images.
    """

    lengths: Sequence[int]
    supervised: int
    views: int


def step_flops(config: Any, stage: str, work: StepWork) -> float:
    """Operations of a step: forward of all; gradients of states where something below learns, of weights where they learn.

    Args:
        config: A `LlavaConfig` of CLIP and Llama.
        stage: "align" or "instruct".
        work: The rows.
    """
    text, vision = config.text_config, config.vision_config
    tokens, image_tokens = sum(work.lengths), work.views * config.num_image_tokens
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    head_width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    attention_width = text.num_attention_heads * head_width
    matrices = 2 * text.hidden_size * attention_width + 2 * text.hidden_size * heads * head_width
    matrices += 3 * text.hidden_size * text.intermediate_size
    by_weights = 2 * tokens * matrices * text.num_hidden_layers
    # Scores and sums of values, of the tokens before each alone
    between_tokens = 2 * sum(length * length for length in work.lengths) * attention_width * text.num_hidden_layers
    head = 2 * work.supervised * text.hidden_size * text.vocab_size
    connector = 2 * image_tokens * (vision.hidden_size * text.hidden_size + text.hidden_size**2)
    learns = stage != "align"
    language = by_weights * (3 if learns else 2) + between_tokens * 3 + head * (3 if learns else 2)
    return language + connector * (3 if learns else 2.5) + work.views * tower_flops(config)


def tower_flops(config: Any) -> float:
    """Of a tower of transformer layers (CLIP, DINOv2) for one view, forward, up to the layer that features come from."""
    vision, patches = config.vision_config, patches_of_side(config) ** 2
    layers = heard_layers(vision, config.vision_feature_layer)
    # DINOv2 says how many times as wide as the rest its inner layer is
    inner = getattr(vision, "intermediate_size", None) or getattr(vision, "mlp_ratio", 4) * vision.hidden_size
    embedding = 2 * patches * 3 * vision.patch_size**2 * vision.hidden_size
    matrices = 4 * vision.hidden_size**2 + 2 * vision.hidden_size * inner
    layer = 2 * (patches + 1) * matrices + 4 * (patches + 1) ** 2 * vision.hidden_size
    return embedding + layers * layer


def patches_of_side(config: Any) -> int:
    """Patches along a side of a view."""
    vision = config.vision_config
    return (config.view_size[0] if getattr(config, "view_size", None) else vision.image_size) // vision.patch_size


def heard_layers(vision: Any, feature_layer: int | list[int]) -> int:
    """Layers of a tower up to the one that features come from; of several, the last."""
    layers = [feature_layer] if isinstance(feature_layer, int) else feature_layer
    return max(vision.num_hidden_layers + 1 + layer if layer < 0 else layer for layer in layers)


def best_flops(device: str, bf16: bool, side: int = 2048) -> float:
    """Operations a second of a large product of matrices on this machine: the median of five."""
    import torch

    dtype = torch.bfloat16 if bf16 else torch.float32
    side = 8192 if device == "cuda" else side
    a, b = torch.randn(side, side, dtype=dtype, device=device), torch.randn(side, side, dtype=dtype, device=device)
    seconds = []
    for _ in range(6):
        began = time.perf_counter()
        product = a @ b
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
        del product
    return 2 * side**3 / sorted(seconds[1:])[2]
