"""What a stage of training comes to: how much of each part of the model learns, and at which learning rate."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..modeling_llava.model_parts import PARTS, part_of
from .learning_rates import Rated

logger = logging.getLogger(__name__)


def enter_stage(model: Any, stage: str) -> None:
    """Let the parts of a LLaVA learn that a stage names, but for what of the vision tower no feature comes from.

    That is whatever stands behind the feature layer: layers, a norm, pooling. It never gets a gradient, for which the
    other processes of a distributed run would wait.

    Args:
        model: A `LlavaForConditionalGeneration`.
        stage: A key of `STAGES`.

    Raises:
        ValueError: There is no such stage.
    """
    model.set_stage(stage)
    tower = model.base_model.vision_tower
    learning = [parameter for parameter in tower.parameters() if parameter.requires_grad]
    # DeepSpeed marks weights that it has sharded: none are here to run, and it waits for no gradient
    if not learning or any(hasattr(parameter, "ds_id") for parameter in learning):
        return
    was_training = model.training
    blank = torch.zeros(1, *model.config.image_shape, dtype=learning[0].dtype, device=learning[0].device)
    features = model.eval().get_image_features(blank, return_dict=True).pooler_output[0]
    model.train(was_training)
    gradients = torch.autograd.grad(features.float().sum(), learning, allow_unused=True)
    for parameter, gradient in zip(learning, gradients, strict=True):
        parameter.requires_grad_(gradient is not None)


@dataclass(frozen=True)
class PartSize:
    """How much of one part of the model learns, in numbers of parameters."""

    part: str
    trainable: int
    total: int


def part_sizes(model: nn.Module) -> list[PartSize]:
    """Count the parameters that learn, part by part; tied weights count once."""
    trainable = dict.fromkeys(PARTS, 0)
    total = dict.fromkeys(PARTS, 0)
    for name, parameter in model.named_parameters():
        part = part_of(name)
        total[part] += parameter.numel()
        trainable[part] += parameter.numel() if parameter.requires_grad else 0
    return [PartSize(part, trainable[part], total[part]) for part in PARTS]


def log_parts(model: nn.Module, stage: str, rated: Sequence[Rated]) -> None:
    """Log a line for each part: what learns, what is frozen, and at which learning rate, or from which to which."""
    lines = []
    for size in part_sizes(model):
        rates = {each.learning_rate for each in rated if each.part == size.part}
        ends = dict.fromkeys(f"{rate:g}" for rate in (min(rates), max(rates))) if rates else {}
        state = f"learns at {' to '.join(ends)}" if ends else "frozen"
        lines.append(f"  {size.part:<15}{size.trainable:>15,} of {size.total:>15,} parameters  {state}")
    logger.info("stage %r:\n%s", stage, "\n".join(lines))
