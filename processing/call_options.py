"""Options of a processor's call: which there are, so that none is taken and dropped."""

from collections.abc import Mapping
from typing import Any

# Options of `apply_chat_template` that are for the call and not variables of the template.
CALL_OPTIONS = (
    "padding",
    "padding_side",
    "pad_to_multiple_of",
    "truncation",
    "max_length",
    "add_special_tokens",
    "return_mm_token_type_ids",
    "return_text_replacement_offsets",
    "text_kwargs",
    "images_kwargs",
    "common_kwargs",
)


def check_options(given: Mapping[str, Any], typed: Any, image_processor: Any) -> None:
    """Refuse what transformers would ignore with a warning.

    Args:
        given (`dict`): Options of a call, flat or nested (`text_kwargs`, `images_kwargs`, `common_kwargs`).
        typed (`type[ProcessingKwargs]`): The options that the processor declares.
        image_processor (`BaseImageProcessor`): Whose own options count too.

    Raises:
        ValueError: If an option is not known, or a side is neither left nor right.
    """
    declared = typed.__annotations__
    known = {*declared, "common_kwargs", "return_metadata"}
    for source in (declared["text_kwargs"], declared["images_kwargs"], getattr(image_processor, "valid_kwargs", None)):
        known |= set(getattr(source, "__annotations__", {}))
    unknown = [key for key, value in given.items() if key not in known and value is not None]
    if unknown:
        raise ValueError(
            f"{sorted(unknown)} are no options of this processor. It takes those of its tokenizer and its image "
            "processor, as they are or in text_kwargs and images_kwargs."
        )
    for options in (given, given.get("text_kwargs") or {}):
        if options.get("padding_side") not in (None, "left", "right"):
            raise ValueError(f"padding_side={options['padding_side']!r}: use 'left' or 'right'.")
