"""What a checkpoint remembers of a stage that it went through: a line each of its model card."""

from typing import Any

from ..checkpoints.model_card import adapter_in_words
from ..rows.leak_record import remembered_leaks
from .sft_config import RATES_OF_PARTS, LlavaSFTConfig


def stage_record(
    args: LlavaSFTConfig, dataset: str | None, rows: int | None, adapters: dict[str, Any] | None
) -> dict[str, Any]:
    """An entry of the config's `provenance["training_history"]`.

    Args:
        args: The training's settings.
        dataset: What its data is called.
        rows: How many it has, where that is known.
        adapters: What the config of its adapters says; None of a run without any.
    """
    return {
        "stage": args.stage,
        "adapters": None if adapters is None else adapter_in_words(adapters),
        "dataset": dataset,
        "rows": rows,
        "leaks": remembered_leaks(dataset),
        "epochs": args.num_train_epochs if args.max_steps <= 0 else None,
        "max_steps": args.max_steps if args.max_steps > 0 else None,
        "batch_size": args.train_batch_size * args.gradient_accumulation_steps * args.world_size,
        "learning_rate": args.learning_rate,
        **{name: getattr(args, name) for name in RATES_OF_PARTS},
        "lr_scheduler_type": str(getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type)),
        "warmup": args.warmup_steps,
        "weight_decay": args.weight_decay,
        "max_length": args.max_length,
        "seed": args.seed,
    }
