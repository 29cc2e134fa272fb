"""What the optimizer is given: groups of parameters, each with its learning rate and weight decay."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from .expected_shares import check_shares
from .learning_rates import rated_parameters
from .precision import check_learning_weights
from .sft_config import RATES_OF_PARTS, LlavaSFTConfig
from .stages import part_sizes


def parameter_groups(model: nn.Module, args: LlavaSFTConfig, decayed: set[str]) -> list[dict[str, Any]]:
    """The parameters that learn, in groups of one rate and one weight decay, each with its `name`.

    Args:
        model: With `requires_grad` set.
        args: The learning rates, and the weight decay.
        decayed: Names of the parameters under weight decay.
    """
    parameters = dict(model.named_parameters())
    groups: dict[str, dict[str, Any]] = {}
    for rated in rated_parameters(model, args):
        is_decayed = rated.name in decayed
        name = rated.group if is_decayed else f"{rated.group}, no weight decay"
        settings = {"lr": rated.learning_rate, "weight_decay": args.weight_decay if is_decayed else 0.0}
        group = groups.setdefault(name, {"name": name, "params": [], **settings})
        group["params"].append(parameters[rated.name])
    return list(groups.values())


def check_optimization(model: nn.Module, args: LlavaSFTConfig, trainer_kwargs: Mapping[str, Any]) -> None:
    """Refuse what would keep weights still, or train others than were asked for.

    Args:
        model: With `requires_grad` set as it will be trained.
        args: The training's settings.
        trainer_kwargs: What `SFTTrainer` is given besides: an optimizer of the caller's.

    Raises:
        ValueError: Two stages are named; a rate that no optimizer would see, or nothing would learn at; weights too coarse
            for their steps; or another share of a part would learn than was said.
    """
    init_stage = dict(args.model_init_kwargs or {}).get("stage", args.stage)  # type: ignore[arg-type]
    if init_stage != args.stage:
        raise ValueError(
            f"model_init_kwargs says stage {init_stage!r}, and stage is {args.stage!r}: --stage alone decides here."
        )
    own_optimizer = trainer_kwargs.get("optimizer_cls_and_kwargs") or any(trainer_kwargs.get("optimizers") or ())
    given = [name for name in RATES_OF_PARTS if getattr(args, name) is not None]
    if given and (own_optimizer or args.optim_target_modules is not None):
        raise ValueError(
            f"{given[0]}={getattr(args, given[0]):g} needs parameter groups of its own, which an optimizer "
            "passed in and optim_target_modules do not get; set the rate in that optimizer's groups."
        )
    sizes = part_sizes(model)
    learning = [size.part for size in sizes if size.trainable]
    if args.connector_learning_rate is not None and "connector" not in learning:
        raise ValueError(f"connector_learning_rate={args.connector_learning_rate}, and the connector is frozen.")
    if args.connector_learning_rate is not None and learning == ["connector"]:
        raise ValueError(
            f"connector_learning_rate={args.connector_learning_rate} in stage {args.stage!r}, where the connector is all "
            "that learns: set learning_rate instead."
        )
    check_learning_weights(model, args)
    if args.expected_trainable is not None:
        check_shares(sizes, args.expected_trainable)
