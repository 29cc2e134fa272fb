"""The parts of a LLaVA, and the stages of its training: which parts learn in each, and what "frozen" means for the others."""

from dataclasses import dataclass

from torch import nn

# Part -> the modules that it consists of, whose names stand in those of its parameters
PARTS: dict[str, tuple[str, ...]] = {
    "vision tower": ("vision_tower",),
    "connector": ("multi_modal_projector",),
    "language model": ("language_model", "lm_head"),
}


@dataclass(frozen=True)
class Stage:
    """A stage of training.

    Attributes:
        title: What the model card calls it.
        learns: The parts that learn; the others are frozen.
        adapts: The parts that learn by adapters, in a run that has them: of `learns`, the others alone learn whole then.
    """

    title: str
    learns: tuple[str, ...]
    adapts: tuple[str, ...]


# "align" and "instruct" are the two of arXiv:2304.08485, section 4.2: the vision tower stays frozen. It learns in those
# of InternVL (arXiv:2412.05271, section 3.3): its stage 1 is "align", 1.5 is "align_vision", and 2 is "joint". Adapters are
# put on the language model in every stage: in alignment they let it learn beside the connector without coming apart, as in
# Idefics2 (arXiv:2405.02246, section 3.2).
STAGES: dict[str, Stage] = {
    "align": Stage("1, feature alignment", learns=("connector",), adapts=("language model",)),
    "align_vision": Stage(
        "1.5, feature alignment by the vision tower too",
        learns=("vision tower", "connector"),
        adapts=("vision tower", "language model"),
    ),
    "instruct": Stage("2, instruction tuning", learns=("connector", "language model"), adapts=("language model",)),
    "joint": Stage(
        "2, instruction tuning of all parts",
        learns=("vision tower", "connector", "language model"),
        adapts=("vision tower", "language model"),
    ),
}

# What PEFT calls the weights below an adapter, and those in whose place a copy learns
UNDER_ADAPTERS = frozenset({"base_layer", "original_module"})


def part_of(parameter_name: str) -> str:
    """The part that a parameter belongs to, whatever wrappers (PEFT, DDP) put before and into its name.

    Raises:
        ValueError: It belongs to none.
    """
    for module in parameter_name.split("."):
        for part, modules in PARTS.items():
            if module in modules:
                return part
    raise ValueError(f"parameter_name={parameter_name!r} belongs to no part of a LLaVA model: {', '.join(PARTS)}.")


def freeze_for(model: nn.Module, stage: str | None) -> None:
    """Let the parts learn that a stage names, by `requires_grad`; with None every part does.

    Raises:
        ValueError: There is no such stage; or the model has adapters, and is saved without what is below them.
    """
    if stage is not None and stage not in STAGES:
        raise ValueError(f"stage={stage!r} is unknown; choose one of {', '.join(map(repr, STAGES))}, or None.")
    if has_adapters(model):
        raise ValueError(
            f"stage={stage!r} lets whole parts learn, and the model has adapters, with which those are not saved: merge "
            "them first, or go on training the adapters alone (`llavakit sft --on_adapter merge` or `continue`)."
        )
    learns = tuple(PARTS) if stage is None else STAGES[stage].learns
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point():  # quantized weights cannot learn
            parameter.requires_grad_(part_of(name) in learns)


def has_adapters(model: nn.Module) -> bool:
    """Whether PEFT has put adapters into a model."""
    return any(not UNDER_ADAPTERS.isdisjoint(name.split(".")) for name, _ in model.named_parameters())


def is_learning(module: nn.Module) -> bool:
    """Whether any parameter of the module has a gradient coming."""
    return any(parameter.requires_grad for parameter in module.parameters())
