"""A tokenizer in llama.cpp's words, where it can be said so that both come to the same ids.

llama.cpp reads no description of how a text is cut into words: it has a name for each way that it knows. Two families are
written: BPE on bytes, cut in one of those ways (`PRE_TOKENIZERS`), and SentencePiece's BPE, whose merges it takes in the
order of scores.
"""

import json
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from tokenizers import pre_tokenizers

from ...processing import LlavaProcessor
from .format_base import CannotExpress
from .gguf_language import ELSEWHERE

# What llama.cpp tells pieces apart by
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
MARK = "▁"  # SentencePiece's space
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]

_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def _cut(digits: str) -> dict[str, Any]:
    pattern = rf"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}|{_REST}"
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [split, {**_WORDS, "use_regex": False}]}


_WORDS = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
_DIGITS = {"type": "Digits", "individual_digits": True}
# llama.cpp's name -> how `tokenizer.json` says that a text is cut, and its `ignore_merges`
PRE_TOKENIZERS: dict[str, tuple[dict[str, Any], bool]] = {
    "gpt-2": (_WORDS, False),
    "smollm": ({"type": "Sequence", "pretokenizers": [_DIGITS, _WORDS]}, False),
    "llama-bpe": (_cut(r"\p{N}{1,3}"), True),
    "qwen2": (_cut(r"\p{N}"), False),
}
# llama.cpp brings no text into the form NFC: texts that are in it already, as nearly all are, come to the same ids
NORMALIZERS: tuple[Any, ...] = (None, {"type": "NFC"})


def vocabulary_facts(processor: LlavaProcessor, num_rows: int) -> dict[str, Any]:
    """Keys and values that say what the tokenizer is.

    Args:
        processor: Its processor.
        num_rows: Of the embeddings. Rows without a piece get a name that nobody types.

    Raises:
        CannotExpress: llama.cpp would come to other ids.
    """
    tokenizer = processor.tokenizer
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    model = backend["model"]
    if model["type"] != "BPE" or model.get("dropout"):
        raise CannotExpress(
            f"the tokenizer is a {model['type']!r}, and GGUF is written for BPE without dropout, on bytes or of "
            f"SentencePiece. {ELSEWHERE}"
        )
    pieces = {id: piece for piece, id in tokenizer.get_vocab().items()}
    added = tokenizer.added_tokens_decoder

    def kind_of(id: int) -> int:
        if id not in pieces or id == processor.image_token_id:
            return UNUSED  # a user who types it gets text
        if id in added:
            return CONTROL if added[id].special else USER_DEFINED
        return BYTE if model.get("byte_fallback") and pieces[id] in BYTES else NORMAL

    named = {"bos": tokenizer.bos_token_id, "unknown": tokenizer.unk_token_id, "padding": tokenizer.pad_token_id}
    return {
        **(_sentence_piece(backend, pieces, num_rows) if model.get("byte_fallback") else _byte_level(backend)),
        "tokenizer.ggml.tokens": [pieces.get(id, f"<unused {id}>") for id in range(num_rows)],
        "tokenizer.ggml.token_type": [kind_of(id) for id in range(num_rows)],
        **{f"tokenizer.ggml.{name}_token_id": id for name, id in named.items() if id is not None},
        "tokenizer.ggml.add_eos_token": False,
    }


def _byte_level(backend: Mapping[str, Any]) -> dict[str, Any]:
    """BPE on bytes."""
    model = backend["model"]
    wanted = (backend["pre_tokenizer"], bool(model.get("ignore_merges")))
    name = next((name for name, way in PRE_TOKENIZERS.items() if way == wanted), None)
    affixes = [model.get(key) for key in ("continuing_subword_prefix", "end_of_word_suffix") if model.get(key)]
    missing = set(pre_tokenizers.ByteLevel.alphabet()) - set(model["vocab"])
    if name is None or backend["normalizer"] not in NORMALIZERS or affixes or missing:
        raise CannotExpress(
            f"the tokenizer cuts texts by pre_tokenizer={json.dumps(wanted[0])}, normalizer="
            f"{json.dumps(backend['normalizer'])}, ignore_merges={wanted[1]}, and {256 - len(missing)} of the 256 bytes: "
            f"of such, llama.cpp's {' and '.join(map(repr, PRE_TOKENIZERS))} are known to come to the same ids. {ELSEWHERE}"
        )
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": name,
        "tokenizer.ggml.merges": [" ".join(pair) for pair in _merges(model)],
    }


def _sentence_piece(backend: Mapping[str, Any], pieces: Mapping[int, str], num_rows: int) -> dict[str, Any]:
    """SentencePiece's BPE, as transformers has it: of two neighbours those are joined first that make the best piece."""
    model = backend["model"]
    if not _writes_spaces_as_marks(backend) or not set(BYTES) <= set(model["vocab"]):
        raise CannotExpress(
            f"the tokenizer falls back to bytes, with pre_tokenizer={json.dumps(backend['pre_tokenizer'])} and normalizer="
            f"{json.dumps(backend['normalizer'])}: llama.cpp writes a space as {MARK!r} and nothing else. {ELSEWHERE}"
        )
    scores = _scores(model)
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.scores": [scores.get(pieces.get(id, ""), 0.0) for id in range(num_rows)],
        "tokenizer.ggml.add_space_prefix": False,  # the chat template writes the space where there is to be one
    }


def _writes_spaces_as_marks(backend: Mapping[str, Any]) -> bool:
    """Whether a space becomes a mark, and no text is cut; a mark at the start of a text is another matter."""
    pre_tokenizer, normalizer = backend["pre_tokenizer"], backend["normalizer"]
    steps = (normalizer or {}).get("normalizers", [normalizer] if normalizer else [])
    steps = [step for step in steps if step != {"type": "Prepend", "prepend": MARK}]
    replaces = steps == [{"type": "Replace", "pattern": {"String": " "}, "content": MARK}]
    if pre_tokenizer is None:
        return replaces
    metaspace = pre_tokenizer["type"] == "Metaspace" and pre_tokenizer["replacement"] == MARK
    return metaspace and not pre_tokenizer.get("split", True) and (replaces or not steps)


def _scores(model: Mapping[str, Any]) -> dict[str, float]:
    """Scores of pieces that put merges into their order.

    Raises:
        CannotExpress: No scores do, or pieces would be joined that the tokenizer does not join.
    """
    ranks: dict[str, list[int]] = defaultdict(list)
    merges = _merges(model)
    for rank, (left, right) in enumerate(merges):
        ranks[left + right].append(rank)
    known, vocabulary = set(merges), model["vocab"]
    for piece in ranks:
        cuts = [(piece[:at], piece[at:]) for at in range(1, len(piece))]
        joined = [cut for cut in cuts if cut[0] in vocabulary and cut[1] in vocabulary]
        first, last = ranks[piece][0], ranks[piece][-1]
        if last - first + 1 != len(ranks[piece]) or not known.issuperset(joined):
            raise CannotExpress(
                f"the tokenizer makes {piece!r} of some pairs of pieces and not of others, or not at one time: "
                f"SentencePiece's BPE, which llama.cpp has, cannot. {ELSEWHERE}"
            )
    return {piece: -float(places[0]) for piece, places in ranks.items()}


def _merges(model: Mapping[str, Any]) -> list[tuple[str, str]]:
    pairs = (merge.split(" ", 1) if isinstance(merge, str) else merge for merge in model["merges"])
    return [(left, right) for left, right in pairs]
