"""Tokenizers that know tokens by names of their own, which some processors of transformers ask for."""

import tempfile
from typing import Any

from transformers import AutoTokenizer


def with_named_tokens(tokenizer: Any, **tokens: str) -> Any:
    """A copy of a tokenizer that has the tokens as attributes.

    Args:
        tokenizer: Not changed.
        **tokens: Attribute and text of each. One that is not in the vocabulary is added to it, as a control token; the
            empty text is no token, and has no id.

    Returns:
        The copy, which keeps the names when it is saved.
    """
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        return AutoTokenizer.from_pretrained(folder, extra_special_tokens=tokens)
