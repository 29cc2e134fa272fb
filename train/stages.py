"""The two stages of visual instruction tuning (arXiv:2304.08485, section 4.2): which modules learn in each."""

import logging
from dataclasses import dataclass

from torch import nn

logger = logging.getLogger(__name__)

STAGES = ("align", "instruct")

# Part of the model -> where its parameters' names start
PARTS = {
    "vision tower": ("model.vision_tower.",),
    "connector": ("model.multi_modal_projector.",),
    "language model": ("model.language_model.", "lm_head."),
}


@dataclass(frozen=True)
class PartSize:
    """How much of one part of the model learns, in numbers of parameters."""

    part: str
    trainable: int
    total: int


def part_of(parameter_name: str) -> str:
    """The part of the model that a parameter belongs to, through the prefixes that wrappers (PEFT, DDP) put before it."""
    for part, prefixes in PARTS.items():
        if any(prefix in f"{parameter_name}." for prefix in prefixes):
            return part
    raise ValueError(f"parameter_name={parameter_name!r} belongs to no part of a LLaVA model: {list(PARTS)}.")


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
