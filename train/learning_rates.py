"""At which rate each parameter learns: parts may have rates of their own, and the vision tower one a layer."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..modeling_llava.model_parts import part_of
from .sft_config import LlavaSFTConfig

TOWER = "vision tower"


@dataclass(frozen=True)
class Rated:
    """A parameter that learns.

    Attributes:
        name: In the model, with whatever wraps it.
        group: What learns at the same rate: a part, or of the vision tower its `embeddings` or a `layer`.
        learning_rate: Before the schedule.
    """

    name: str
    group: str
    learning_rate: float

    @property
    def part(self) -> str:
        """The part that it belongs to."""
        return part_of(self.name)


def rated_parameters(model: nn.Module, args: LlavaSFTConfig) -> list[Rated]:
    """Every parameter that learns with its rate, in the order of the model.

    `vision_layer_decay` lowers the rate of the vision tower towards its pixels: layer i of n learns at
    `rate * decay ** (n - 1 - i)`, what comes before the first layer at `rate * decay ** n`, and what comes after the last
    at `rate` (BEiT, arXiv:2106.08254, appendix; Qwen-VL, arXiv:2308.12966, appendix, with 0.95).

    Args:
        model: With `requires_grad` set.
        args: The rates.

    Raises:
        ValueError: `vision_layer_decay` for a vision tower without layers that are numbered in its parameters' names.
    """
    own = {"connector": args.connector_learning_rate, TOWER: args.vision_learning_rate}
    rates: list[Rated] = []
    depths = {} if args.vision_layer_decay is None else _tower_depths(model)
    num_layers = 1 + max(depths.values(), default=0)
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        group = part_of(name)
        rate = own.get(group)
        rate = args.learning_rate if rate is None else rate
        if name in depths:
            depth = depths[name]
            group += f", layer {depth}" if depth >= 0 else ", embeddings"
            rate *= args.vision_layer_decay ** (num_layers - 1 - depth)  # type: ignore[operator]  # depths are empty then
        rates.append(Rated(name, group, rate))
    return rates


def _tower_depths(model: nn.Module) -> dict[str, int]:
    """Vision parameter -> the layer that it is in: -1 before the first, the last one for what comes after it.

    Modules are registered in the order that features pass through them.

    Raises:
        ValueError: No parameter's name has the number of a layer.
    """
    depths: dict[str, int] = {}
    depth = -1
    for name, _ in model.named_parameters():
        if part_of(name) == TOWER:
            within = name.partition("vision_tower.")[2].split(".")
            depth = next((int(step) for step in within if step.isdecimal()), depth)
            depths[name] = depth
    if depth < 0:
        raise ValueError(
            "vision_layer_decay needs a vision tower whose layers are numbered in the names of its parameters, as in "
            "layers.0.mlp: leave it out."
        )
    return depths


def logged_rates(optimizer: Any, rates: Iterable[Any]) -> dict[str, float]:
    """What a step logs where parts have rates of their own: those, the highest of a part that has several.

    `learning_rate` is the language model's, or the highest of all where that is frozen.

    Args:
        optimizer: With the groups of `optimization.parameter_groups`; of any others nothing is said.
        rates: The rate of each of its groups as the schedule has it.
    """
    highest: dict[str, float] = {}
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        if "name" in group:
            part = group["name"].partition(",")[0]
            highest[part] = max(highest.get(part, 0.0), float(rate))
    if not highest:
        return {}
    logged = {"learning_rate": highest.get("language model", max(highest.values()))}
    names = {"connector": "connector_learning_rate", TOWER: "vision_learning_rate"}
    return logged | {name: highest[part] for part, name in names.items() if part in highest}
