"""Token ids of several samples brought to one length, and the options for it."""

import math
from collections.abc import Mapping
from typing import Any

from .chat_encoding import Encoded

# Options of a tokenizer's call that change nothing here: what they ask for is done anyway, or not done as they say.
_INERT = {
    "return_attention_mask": (True, None),
    "return_token_type_ids": (False, None),
    "return_overflowing_tokens": (False, None),
    "return_special_tokens_mask": (False, None),
    "return_offsets_mapping": (False, None),
    "return_length": (False, None),
    "is_split_into_words": (False, None),
    "stride": (0, None),
    "text_pair": (None,),
    "text_target": (None,),
    "text_pair_target": (None,),
    "verbose": (True, False, None),
    "sanitize_control_tokens": (True, False, None),  # text typed in a message is text anyway
    "return_tensors": ("pt", "np", None),  # the caller's affair
}


def length_limit(options: Mapping[str, Any], tokenizer: Any) -> int | None:
    """The most tokens of a sample, if `truncation` is asked for."""
    if options.get("truncation", False) in (False, None, "do_not_truncate"):
        return None
    limit = options.get("max_length")
    return tokenizer.model_max_length if limit is None else limit


def pad(rows: list[Encoded], tokenizer: Any, options: Mapping[str, Any], *, with_mask: bool) -> dict[str, Any]:
    """Samples as lists of equal length, if padding is asked for.

    Args:
        rows (`list[Encoded]`): The samples.
        tokenizer (`PreTrainedTokenizerBase`): Its padding token and side are taken.
        options (`dict`): `padding`, `padding_side`, `pad_to_multiple_of`, `max_length`, as tokenizers take them.
        with_mask (`bool`): Whether to give `assistant_masks`.

    Returns:
        `dict`: `input_ids`, `attention_mask` and, if asked for, `assistant_masks`: lists of lists.

    Raises:
        ValueError: If an option is not known, or its value is not.
    """
    known = {"padding", "padding_side", "pad_to_multiple_of", "max_length", "truncation", "add_special_tokens"}
    unknown = [key for key, value in options.items() if key not in known and value not in _INERT.get(key, ())]
    if unknown:
        raise ValueError(f"{sorted(unknown)} are no options here. Known: {sorted(known)}.")
    side = options.get("padding_side") or tokenizer.padding_side
    if side not in ("left", "right"):
        raise ValueError(f"padding_side={side!r}: use 'left' or 'right'.")

    padding, multiple = options.get("padding", False), options.get("pad_to_multiple_of") or 1
    if padding in (False, None, "do_not_pad"):
        target = 0
    elif padding == "max_length":
        target = options.get("max_length") or tokenizer.model_max_length
    else:
        target = max((len(row) for row in rows), default=0)
    target = math.ceil(target / multiple) * multiple

    def padded(values: list[int], value: int) -> list[int]:
        fill = [value] * (target - len(values))
        return fill + values if side == "left" else values + fill

    outputs = {
        "input_ids": [padded(row.input_ids, tokenizer.pad_token_id) for row in rows],
        "attention_mask": [padded([1] * len(row), 0) for row in rows],
    }
    if with_mask:
        outputs["assistant_masks"] = [padded(row.assistant_mask, 0) for row in rows]
    return outputs
