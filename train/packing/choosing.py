"""Whether a run lays its rows end to end, and what stands against it."""

import logging
from collections.abc import Mapping
from typing import Any

from .attention import CannotPack, check_packable

logger = logging.getLogger(__name__)

# Implementations whose place `PACKED_ATTENTION` takes: a run that asks for "eager" or "flex" wants those
REPLACED = ("sdpa", "flash_attention_2", "flash_attention_3")
# What would read scores, or the batch, row by row
OF_ROWS = ("compute_loss_func", "compute_metrics", "preprocess_logits_for_metrics")


def lays_end_to_end(llava: Any, args: Any, trainer_kwargs: Mapping[str, Any], own_collator: bool) -> bool:
    """Whether the rows of a run are laid end to end: what `padding_free` and `packing` say, else wherever it can be.

    Args:
        llava: The `LlavaForConditionalGeneration`.
        args: A `LlavaSFTConfig`.
        trainer_kwargs: What `SFTTrainer` is given besides.
        own_collator: The batches are made by a collator of the caller's.

    Raises:
        ValueError: It was asked for, and something stands against it; that is named.
    """
    if args.padding_free is False and not args.packing:
        return False
    obstacle = _obstacle(llava, args, trainer_kwargs, own_collator)
    if obstacle is None:
        return True
    if args.packing or args.padding_free:
        asked = "packing" if args.packing else "padding_free"
        raise ValueError(f"--{asked} true: {obstacle} Leave it out: batches are padded then.")
    logger.info("batches are padded, and not laid end to end: %s", obstacle)
    return False


def _obstacle(llava: Any, args: Any, trainer_kwargs: Mapping[str, Any], own_collator: bool) -> str | None:
    language_model = llava.model.language_model
    implementation = language_model.config._attn_implementation
    if own_collator:
        return "they are made by a data_collator of the caller's."
    if given := [name for name in OF_ROWS if trainer_kwargs.get(name) is not None]:
        return f"{given[0]} reads them row by row."
    if args.accelerator_config.dispatch_batches or args.accelerator_config.split_batches:
        return "accelerator_config has them cut by rows (dispatch_batches, split_batches)."
    if args.label_smoothing_factor:
        return "label_smoothing_factor needs the scores of every position."
    if args.neftune_noise_alpha is not None:
        return "neftune_noise_alpha scales its noise by the length of a padded row."
    if args.torch_compile:
        return "torch_compile would compile anew for the lengths of each batch."
    if implementation not in REPLACED:
        return f"attn_implementation={implementation!r} was chosen for the language model."
    try:
        check_packable(language_model, llava.config.image_fusion)
    except CannotPack as error:
        return str(error)
    return None
