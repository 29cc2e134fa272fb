"""A tokenizer that reads text as text: clones of a fast tokenizer in which no control token can be reached.

A chat is encoded piece by piece (see ``chat_encoding``). The pieces between control tokens are encoded here, by copies
of the tokenizer's own backend whose control tokens carry names that nobody can type. Ids are unchanged, so the copies
and the tokenizer speak of the same embedding rows.
"""

import copy
import enum
import json
import re
import secrets
from dataclasses import dataclass
from typing import Any

from tokenizers import AddedToken, Tokenizer

# What the backend calls white space when a token strips its neighbours (Unicode's White_Space property).
WHITE_SPACE = (
    "\t\n\x0b\x0c\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)

_BYTE = re.compile(r"<0x[0-9A-F]{2}>")


class Prefix(enum.Enum):
    """What a piece of text follows, which decides whether a tokenizer puts its word-start mark before it."""

    START = "start"
    """The beginning of a text, or an image: what the tokenizer does to a string of its own."""
    INNER = "inner"
    """A control token: what the tokenizer does in the middle of a string."""
    CONTINUATION = "continuation"
    """More text, from which it was cut: never a mark of its own."""


@dataclass(frozen=True)
class ControlToken:
    """A token that text can never become: its id, and whether it swallows the white space beside it."""

    id: int
    lstrip: bool
    rstrip: bool


def control_tokens(backend: Tokenizer) -> dict[str, ControlToken]:
    """The added tokens of a backend, by content.

    Runs of white space and the bytes of byte fallback, which some tokenizers keep as added tokens (GPT-NeoX, Gemma),
    are vocabulary, not control.
    """
    return {
        token.content: ControlToken(id, token.lstrip, token.rstrip)
        for id, token in backend.get_added_tokens_decoder().items()
        if _is_control(token)
    }


def _is_control(token: AddedToken) -> bool:
    if not token.content or _BYTE.fullmatch(token.content):
        return False
    return token.special or bool(token.content.strip(WHITE_SPACE + "▁"))


def plain_backends(backend: Tokenizer) -> dict[Prefix, Tokenizer]:
    """Copies of ``backend`` that add no special tokens and can produce no control token, one for each prefix.

    Where the prefix makes no difference (most byte-level tokenizers) the copies are one and the same object.
    """
    spec = json.loads(backend.to_str())
    spec.update(truncation=None, padding=None, post_processor=None)
    _hide(spec, control_tokens(backend))

    backends: dict[Prefix, Tokenizer] = {}
    built: dict[str, Tokenizer] = {}
    for prefix in Prefix:
        normalizer = _normalizer_for(spec["normalizer"], prefix)
        pre_tokenizer = _pre_tokenizer_for(spec["pre_tokenizer"], prefix)
        key = json.dumps([normalizer, pre_tokenizer])
        if key not in built:
            variant = {**spec, "normalizer": normalizer, "pre_tokenizer": pre_tokenizer}
            built[key] = Tokenizer.from_str(json.dumps(variant))
        backends[prefix] = built[key]
    return backends


def _hide(spec: dict[str, Any], controls: dict[str, ControlToken]) -> None:
    """Give every control token of a serialized backend a name that cannot be typed; ids stay."""
    # Random, so that not even a text written against this very file contains a name.
    nonce = secrets.token_hex(16)
    hidden = {content: f"\ufdd0{nonce}:{token.id}\ufdd1" for content, token in controls.items()}

    for token in spec["added_tokens"]:
        token["content"] = hidden.get(token["content"], token["content"])

    model = spec["model"]
    if isinstance(model["vocab"], dict):
        model["vocab"] = {hidden.get(piece, piece): id for piece, id in model["vocab"].items()}
    else:  # Unigram: a list of pieces and scores, where the position is the id
        model["vocab"] = [[hidden.get(piece, piece), score] for piece, score in model["vocab"]]
    if model.get("unk_token") is not None:
        model["unk_token"] = hidden.get(model["unk_token"], model["unk_token"])
    if "merges" in model:
        merges = [merge.split(" ", 1) if isinstance(merge, str) else merge for merge in model["merges"]]
        model["merges"] = [
            [left, right]
            for left, right in merges
            if left not in hidden and right not in hidden and left + right not in hidden
        ]


def _normalizer_for(normalizer: dict[str, Any] | None, prefix: Prefix) -> dict[str, Any] | None:
    """Tokenizers converted from SentencePiece before transformers 5 write the word-start mark with ``Prepend``."""
    if normalizer is None or prefix is not Prefix.CONTINUATION:
        return normalizer
    if normalizer["type"] == "Prepend":
        return None
    if normalizer["type"] == "Sequence":
        kept = [step for step in normalizer["normalizers"] if step["type"] != "Prepend"]
        return {**normalizer, "normalizers": kept}
    return normalizer


def _pre_tokenizer_for(pre_tokenizer: dict[str, Any] | None, prefix: Prefix) -> dict[str, Any] | None:
    if pre_tokenizer is None or prefix is Prefix.START:
        return pre_tokenizer
    pre_tokenizer = copy.deepcopy(pre_tokenizer)
    # In a sequence only the first step sees where the text begins. After a splitter on white space the mark is how
    # spaces are written, on every word, and has to stay.
    first = pre_tokenizer["pretokenizers"][0] if pre_tokenizer["type"] == "Sequence" else pre_tokenizer
    if first["type"] == "Metaspace":
        if prefix is Prefix.CONTINUATION or first["prepend_scheme"] == "first":
            first["prepend_scheme"] = "never"
    elif first["type"] == "ByteLevel" and prefix is Prefix.CONTINUATION:
        first["add_prefix_space"] = False
    return pre_tokenizer
