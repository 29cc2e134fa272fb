"""What a stage of training comes to: how much of each part of the model learns, and at which learning rate."""

import logging
from dataclasses import dataclass

from torch import nn

from ..modeling_llava.model_parts import PARTS, part_of

logger = logging.getLogger(__name__)


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


def log_parts(model: nn.Module, stage: str, learning_rates: dict[str, float]) -> None:
    """Log a line for each part: what learns, what is frozen, and at which learning rate."""
    lines = []
    for size in part_sizes(model):
        state = f"learns at {learning_rates[size.part]:g}" if size.trainable else "frozen"
        lines.append(f"  {size.part:<15}{size.trainable:>15,} of {size.total:>15,} parameters  {state}")
    logger.info("stage %r:\n%s", stage, "\n".join(lines))
