"""What a stage of training comes to: how much of each part of the model learns, in which way, and at which rate."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from ..modeling_llava.model_parts import PARTS, STAGES, part_of
from .learning_rates import TOWER, Rated

logger = logging.getLogger(__name__)

How = Literal["whole", "by adapters"]


def ways_to_learn(stage: str, adapters: bool = False, adapts_tower: bool = False) -> dict[str, How]:
    """Part -> how it learns in a stage; parts that are frozen are left out.

    Args:
        stage: A key of `STAGES`.
        adapters: Whether the run has adapters.
        adapts_tower: Whether the vision tower may have some too (`--lora_vision_tower`).

    Raises:
        ValueError: The stage trains the vision tower, and it may not have adapters.
    """
    entry = STAGES[stage]
    if not adapters:
        return dict.fromkeys(entry.learns, "whole")
    if TOWER in entry.adapts and not adapts_tower:
        raise ValueError(
            f"stage {stage!r} trains the vision tower, which gets adapters only where that is asked for: add "
            "--lora_vision_tower true, or take stage 'align' or 'instruct', where it is frozen."
        )
    adapted = {part for part in PARTS if part in entry.adapts or (part == TOWER and adapts_tower)}
    return {part: "by adapters" if part in adapted else "whole" for part in PARTS if part in {*entry.learns, *adapted}}


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
    for parameter in unheard_parameters(model):
        parameter.requires_grad_(False)


def unheard_parameters(model: Any) -> list[nn.Parameter]:
    """Those of the vision tower, of the ones that learn, from which no feature comes."""
    learning = [parameter for parameter in model.model.vision_tower.parameters() if parameter.requires_grad]
    # DeepSpeed marks weights that it has sharded: none are here to run, and it waits for no gradient
    if not learning or any(hasattr(parameter, "ds_id") for parameter in learning):
        return []
    was_training = model.training
    blank = torch.zeros(1, *model.config.image_shape, dtype=learning[0].dtype, device=learning[0].device)
    features = model.eval().get_image_features(blank, return_dict=True).pooler_output[0]
    model.train(was_training)
    gradients = torch.autograd.grad(features.float().sum(), learning, allow_unused=True)
    return [parameter for parameter, gradient in zip(learning, gradients, strict=True) if gradient is None]


# ---- how much ----


@dataclass(frozen=True)
class PartSize:
    """How much of one part of the model learns, in numbers of parameters.

    Attributes:
        part: A key of `PARTS`.
        trainable: Those that learn.
        total: All of them, adapters among them; weights in whose place a copy learns are not counted.
        adapters: Whether adapters are among those that learn.
    """

    part: str
    trainable: int
    total: int
    adapters: bool = False

    @property
    def share(self) -> float:
        """Of the parameters, the share that learns: 0 to 1."""
        return self.trainable / self.total if self.total else 0.0


def part_sizes(model: nn.Module) -> list[PartSize]:
    """Count the parameters that learn, part by part; tied weights count once."""
    trainable, total = dict.fromkeys(PARTS, 0), dict.fromkeys(PARTS, 0)
    adapted = set()
    for name, parameter in model.named_parameters():
        path = name.split(".")
        if "original_module" in path:
            continue
        part = part_of(name)
        total[part] += num_weights(parameter)
        trainable[part] += num_weights(parameter) if parameter.requires_grad else 0
        if any(step.startswith("lora_") for step in path):
            adapted.add(part)
    return [PartSize(part, trainable[part], total[part], part in adapted) for part in PARTS]


def num_weights(parameter: nn.Parameter) -> int:
    """How many weights a parameter stands for, however they are packed or sharded."""
    state = getattr(parameter, "quant_state", None)  # bitsandbytes: two weights of 4 bits in a byte
    if state is not None:
        return int(state.shape.numel())
    return int(getattr(parameter, "ds_numel", parameter.numel()))  # DeepSpeed: those of all processes


def log_parts(model: nn.Module, stage: str, rated: Sequence[Rated]) -> None:
    """Log a line for each part: what learns, what is frozen, and at which learning rate, or from which to which."""
    lines = []
    for size in part_sizes(model):
        rates = {each.learning_rate for each in rated if each.part == size.part}
        ends = dict.fromkeys(f"{rate:g}" for rate in (min(rates), max(rates))) if rates else {}
        verb = "adapters learn" if size.adapters else "learns"
        state = f"{verb} at {' to '.join(ends)}" if ends else "frozen"
        counts = f"{size.trainable:>15,} of {size.total:>15,} parameters ({size.share:.2%})"
        lines.append(f"  {size.part:<15}{counts}  {state}")
    logger.info("stage %r:\n%s", stage, "\n".join(lines))
