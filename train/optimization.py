"""What the optimizer is given: groups of parameters, each with its learning rate and weight decay."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from ..modeling_llava.model_parts import part_of
from .precision import check_learning_weights
from .sft_config import LlavaSFTConfig


def parameter_groups(model: nn.Module, args: LlavaSFTConfig, decayed: set[str]) -> list[dict[str, Any]]:
    """The parameters that learn, the connector's last, with `args.connector_learning_rate`.

    Args:
        model: With `requires_grad` set.
        args: Learning rate of the connector, and weight decay.
        decayed: Names of the parameters under weight decay.
    """
    groups = []
    for is_connector in (False, True):
        for is_decayed in (True, False):
            parameters = [
                parameter
                for name, parameter in model.named_parameters()
                if parameter.requires_grad
                and (part_of(name) == "connector") == is_connector
                and (name in decayed) == is_decayed
            ]
            group: dict[str, Any] = {"params": parameters, "weight_decay": args.weight_decay if is_decayed else 0.0}
            if is_connector:
                group["lr"] = args.connector_learning_rate
            if parameters:
                groups.append(group)
    return groups


def check_optimization(model: nn.Module, args: LlavaSFTConfig, trainer_kwargs: Mapping[str, Any]) -> None:
    """Refuse what would keep weights still, or train others than were asked for.

    Args:
        model: With `requires_grad` set as it will be trained.
        args: The training's settings.
        trainer_kwargs: What `SFTTrainer` is given besides: an optimizer of the caller's, adapters.

    Raises:
        ValueError: Two stages are named; a rate that no optimizer would see; weights too coarse for their steps.
    """
    init_stage = dict(args.model_init_kwargs or {}).get("stage", args.stage)  # type: ignore[arg-type]
    if init_stage != args.stage:
        raise ValueError(
            f"model_init_kwargs says stage {init_stage!r}, and stage is {args.stage!r}: --stage alone decides here."
        )
    own_optimizer = trainer_kwargs.get("optimizer_cls_and_kwargs") or any(trainer_kwargs.get("optimizers") or ())
    if args.connector_learning_rate is not None and (own_optimizer or args.optim_target_modules is not None):
        raise ValueError(
            f"connector_learning_rate={args.connector_learning_rate:g} needs parameter groups of its own, which an optimizer "
            "passed in and optim_target_modules do not get; set the rate in that optimizer's groups."
        )
    if trainer_kwargs.get("peft_config") is None:
        check_learning_weights(model, args)
