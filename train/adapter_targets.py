"""Which modules adapters are put on: those of the parts that a stage adapts, whatever names the user gave."""

import copy
import re
from collections.abc import Collection, Iterable
from typing import Any

from peft import LoraConfig
from peft.tuners.tuners_utils import check_target_module_exists
from torch import nn
from transformers.pytorch_utils import Conv1D

from ..modeling_llava.model_parts import PARTS
from .learning_rates import TOWER
from .stages import How, unheard_parameters

ALL_LINEAR = "all-linear"
CONNECTOR = PARTS["connector"]


def settle_targets(llava: Any, config: LoraConfig, ways: dict[str, How]) -> LoraConfig:
    """What PEFT is told, so that it adapts the parts that learn by adapters, and has the connector learn whole.

    `target_modules` of the config means modules of the adapted parts alone: None and "all-linear" their linear layers but
    for the scores' (`lm_head`), names and patterns those of them that fit. What of the vision tower gives no feature is
    left out. The connector is added to `modules_to_save`, and so is saved with the adapter.

    Args:
        llava: A LLaVA without adapters.
        config: The user's; it is not changed.
        ways: Part -> how it learns, of `stages.ways_to_learn`.

    Returns:
        A config with all of that in PEFT's own words.

    Raises:
        ValueError: A name that fits nothing there, the vision tower named where it may not be adapted, `lm_head`, or a task
            that no LLaVA has.
    """
    config = copy.deepcopy(config)
    if config.task_type not in (None, "CAUSAL_LM"):
        raise ValueError(f"--lora_task_type {config.task_type}: a LLaVA writes text; leave it out.")
    config.task_type = None  # so that AutoPeftModel asks the config which class it is, and not the task
    config.modules_to_save = _modules_to_save(llava, config)
    adapted = [part for part, how in ways.items() if how == "by adapters"]
    if config.target_modules is None and config.target_parameters:
        return config

    silent = _silent_modules(llava) if TOWER in adapted else set()
    names = [name for name, _ in llava.named_modules() if _is_in(name, adapted) and name not in silent]
    linear = [name for name in names if _is_linear(llava.get_submodule(name)) and not _is_head(llava, name)]
    config.target_modules = _targets(llava, config.target_modules, names, linear)
    hit = [name for name, _ in llava.named_modules() if name and check_target_module_exists(config, name)]
    _check_hit(llava, config.target_modules, hit, names, adapted, linear)
    if others := [name for name in hit if name not in set(names)]:
        config.exclude_modules = _excluding(config.exclude_modules, others, adapted)
    return config


def _modules_to_save(llava: Any, config: LoraConfig) -> list[str]:
    """The connector, and what the user named of the language model."""
    whole = list(CONNECTOR)
    for name in config.modules_to_save or ():
        found = [module for module, _ in llava.named_modules() if module.endswith(name)]
        if not found or any(_is_in(module, [TOWER]) for module in found):
            raise ValueError(
                f"--lora_modules_to_save {name}: name modules of the language model, such as embed_tokens or lm_head. The "
                "connector learns whole anyhow, and the vision tower by adapters alone (--lora_vision_tower true)."
            )
        if name not in whole and not all(_is_in(module, ["connector"]) for module in found):
            whole.append(name)
    return whole


def _targets(llava: Any, targets: Any, names: Collection[str], linear: Collection[str]) -> list[str] | str:
    if targets is None or (isinstance(targets, str) and targets.lower() == ALL_LINEAR):
        last = {name.rpartition(".")[2] for name in linear}
        meant = {name for name in names if name.rpartition(".")[2] in last}
        return sorted(last if meant == set(linear) else linear)
    if isinstance(targets, str):
        is_pattern = any(re.fullmatch(targets, name) for name, _ in llava.named_modules())
        return targets if is_pattern else [targets]
    return sorted(targets)


def _check_hit(
    llava: Any, targets: list[str] | str, hit: list[str], names: list[str], adapted: list[str], linear: list[str]
) -> None:
    """Refuse names that mean nothing, or something that has no adapters."""
    inside = set(names).intersection(hit)
    if any(_is_head(llava, name) for name in inside):
        raise ValueError(
            "--lora_target_modules: the loss takes lm_head's weight as it is, so that an adapter on it would never learn. "
            "Name other modules; --lora_modules_to_save lm_head lets it learn whole."
        )
    tower_is_meant = isinstance(targets, str) and any(module in targets for module in PARTS[TOWER])
    if isinstance(targets, str):
        unmet = [] if _fits(targets, names) else [targets]
    else:
        unmet = [name for name in targets if not _fits([name], names)]
    if TOWER not in adapted and (
        tower_is_meant or any(_is_in(name, [TOWER]) and _fits(unmet, [name]) for name in hit)
    ):
        raise ValueError(
            f"--lora_target_modules {' '.join(unmet) or targets} means the vision tower, which gets adapters only where that "
            "is asked for: add --lora_vision_tower true, or name modules of the language model."
        )
    if unmet:
        there = ", ".join(sorted({name.rpartition(".")[2] for name in linear}))
        raise ValueError(
            f"--lora_target_modules {unmet[0]} fits no module of the {' or the '.join(adapted)}; its linear layers are called "
            f"{there}."
        )


def _fits(target: str | Iterable[str], names: Iterable[str]) -> bool:
    """Whether a target of PEFT's, a pattern or names, means any of the modules."""
    if isinstance(target, str):
        return any(re.fullmatch(target, name) for name in names)
    ends = tuple(f".{name}" for name in target)
    return any(f".{name}".endswith(ends) for name in names)


def _excluding(own: Any, others: list[str], adapted: list[str]) -> str:
    """A pattern of the modules that targets mean elsewhere, and of those that the user left out."""
    patterns = [own] if isinstance(own, str) else [rf"(.*\.)?{re.escape(name)}" for name in own or ()]
    for part, modules in PARTS.items():
        if part not in adapted and any(_is_in(name, [part]) for name in others):
            patterns += [rf"(.*\.)?{module}\..*" for module in modules]
    patterns += [re.escape(name) for name in others if _is_in(name, adapted)]
    return "|".join(patterns)


def _silent_modules(llava: Any) -> set[str]:
    """Modules of the vision tower from which no feature comes, such as the layers behind the feature layer."""
    stage = llava.stage
    llava.set_stage("joint")
    unheard = {id(parameter) for parameter in unheard_parameters(llava)}
    llava.set_stage(stage)
    return {
        name
        for name, module in llava.named_modules()
        if _is_in(name, [TOWER])
        and (own := list(module.parameters()))
        and all(id(parameter) in unheard for parameter in own)
    }


def _is_in(module_name: str, parts: Iterable[str]) -> bool:
    """Whether a module lies in one of the parts."""
    return any(module in module_name.split(".") for part in parts for module in PARTS[part])


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear | Conv1D)


def _is_head(llava: Any, name: str) -> bool:
    return llava.get_submodule(name) is llava.get_output_embeddings()
