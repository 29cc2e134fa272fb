"""Whether what a step keeps for its way back fits into memory; where it does not, activations are computed twice."""

import logging
import os
from typing import Any

import torch
from torch import nn

logger = logging.getLogger(__name__)

ROOM = 0.6  # of what is free: what is not counted here takes some too


def settle_checkpointing(args: Any, model: nn.Module, llava: Any, tokens: int) -> None:
    """Turn activation checkpointing on where it was left open and a step would not fit without.

    Args:
        args: A `LlavaSFTConfig`.
        model: What learns, adapters and all.
        llava: The `LlavaForConditionalGeneration` in it.
        tokens: Most tokens of a step on one device.
    """
    if not args.checkpointing_is_open:
        return
    needed, free = activation_bytes(llava, tokens, args), free_bytes(args) - state_bytes(model)
    if needed <= ROOM * free:
        return
    name = "activation_checkpointing" if hasattr(args, "activation_checkpointing") else "gradient_checkpointing"
    setattr(args, name, True)
    logger.info(
        "activation checkpointing: on. %s tokens of a step keep about %.1f GB, and %.1f GB are free.",
        f"{tokens:,}",
        needed / 1e9,
        max(free, 0) / 1e9,
    )


def activation_bytes(llava: Any, tokens: int, args: Any) -> int:
    """What the layers of the language model keep of so many tokens until gradients come back, about.

    As Llama's layers do: 12 widths of what its norms, its attention and the sums around them take and give, and four inner
    widths of the gated unit. `llavakit plan` counts it for the model at hand.
    """
    config = llava.config.text_config
    width, layers = config.hidden_size, config.num_hidden_layers
    inner = getattr(config, "intermediate_size", None) or 4 * width
    inner = getattr(config, "moe_intermediate_size", None) or inner
    inner *= getattr(config, "num_experts_per_tok", None) or 1
    size = 2 if args.bf16 or args.fp16 else torch.finfo(llava.dtype).bits // 8
    return tokens * layers * (12 * width + 4 * inner) * size


def state_bytes(model: nn.Module) -> int:
    """Gradients and the two moments of AdamW, which are made in the first step."""
    return sum(
        3 * parameter.numel() * parameter.element_size() for parameter in model.parameters() if parameter.requires_grad
    )


def free_bytes(args: Any) -> int:
    """Memory that is free on the device of this process."""
    if not args.use_cpu and torch.cuda.is_available():
        return torch.cuda.mem_get_info()[0]
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):  # not everywhere
        return 8 * 2**30
