"""Attention for packs, by the interface that language models of transformers take theirs from.

`PACKED_ATTENTION` is an attention implementation like "sdpa". Where a call brings `pieces`, each row attends to itself and
to its prefix alone; any other call is what "sdpa" makes of it. Nothing of the (T, T) mask of a pack is ever made.

A layer that took no notice of `pieces` would attend across rows without a word. So `packed` counts: within it every call has
to bring them, and each layer of the model to call once.
"""

import contextlib
import inspect
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from .pieces import Pieces
from .shared_attention import can_merge, merged_attention

PACKED_ATTENTION = "llavakit_packed"
# What some models add to attention, which the kernels here do not know
UNKNOWN_TO_KERNELS = ("softcap", "s_aux", "position_bias")


# Take a mask of (1, 1, T, T), one as true and false and one as what is added to scores
TAKES_A_MASK = ("sdpa", "eager")


class CannotPack(ValueError):
    """A language model that packs cannot be shown to, and why."""


class _Calls:
    """How often attention was called within `packed`."""

    def __init__(self) -> None:
        self.number = 0


_within: ContextVar[_Calls | None] = ContextVar("packed attention", default=None)
_as_on_a_gpu: ContextVar[bool] = ContextVar("attention in its own precision", default=False)


def check_packable(language_model: Any, fusion: str = "splice") -> None:
    """Refuse a language model that attends by other ways than transformers' interface.

    Args:
        language_model: The model without head.
        fusion: How images enter it, a key of `FUSIONS`.

    Raises:
        CannotPack: Naming what stands against it.
    """
    name = type(language_model).__name__
    if fusion != "splice":
        raise CannotPack(f"image_fusion={fusion!r}: its blocks attend to the images of the whole sequence.")
    if not getattr(language_model, "_supports_attention_backend", False):
        raise CannotPack(f"{name} does not take its attention from transformers' interface.")
    kinds = set(getattr(language_model.config, "layer_types", None) or ())
    if others := kinds - {"full_attention", "sliding_attention"}:
        raise CannotPack(f"{name} has layers of the kind {min(others)!r}, whose state would run on from row to row.")
    if getattr(language_model.config, "attn_logit_softcapping", None) is not None:
        raise CannotPack(f"{name} caps the scores of attention (softcap), which the kernels for packs cannot.")


@contextlib.contextmanager
def packed(language_model: Any, inputs: dict[str, Any], dtype: torch.dtype) -> Iterator[dict[str, Any]]:
    """Show a language model a pack.

    With `PACKED_ATTENTION` no mask is made, and every layer has to attend by `pieces`. "eager" and "sdpa" are given the mask
    of the whole sequence, which is slow, and shows what the other has to agree with.

    Args:
        language_model: The model without head.
        inputs: Of the LLaVA's forward, `pieces` among them.
        dtype: Of its states.

    Yields:
        The inputs to pass.

    Raises:
        CannotPack: A layer did not attend by them, or the model has another implementation of attention.
    """
    implementation, pieces = language_model.config._attn_implementation, inputs["pieces"]
    if implementation in TAKES_A_MASK:
        others = {name: value for name, value in inputs.items() if name != "pieces"}
        yield others | {"attention_mask": _whole_mask(language_model, pieces, inputs["input_ids"].device, dtype)}
        return
    if implementation != PACKED_ATTENTION:
        raise CannotPack(
            f"a pack of rows needs attn_implementation={PACKED_ATTENTION!r}, and the language model has "
            f"{implementation!r}: its rows would see one another."
        )
    calls = _Calls()
    token = _within.set(calls)
    try:
        yield inputs
    finally:
        _within.reset(token)
    if calls.number != language_model.config.num_hidden_layers:
        raise CannotPack(
            f"{calls.number} of {language_model.config.num_hidden_layers} layers of {type(language_model).__name__} took "
            "their attention from transformers' interface: the others would see all rows of a pack. Train it with "
            "--padding_free false."
        )


def _whole_mask(language_model: Any, pieces: Pieces, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    window = getattr(language_model.config, "sliding_window", None)
    if window is not None and window < pieces.longest:
        raise CannotPack(
            f"a row of {pieces.longest} tokens is longer than the window of {window} that {type(language_model).__name__} "
            f"sees: attn_implementation={PACKED_ATTENTION!r} can show it packs, others cannot."
        )
    sees = pieces.whole_mask(None, device)
    if language_model.config._attn_implementation == "sdpa":
        return sees
    return torch.zeros(sees.shape, dtype=dtype, device=device).masked_fill(~sees, torch.finfo(dtype).min)


def _mask(*args: Any, **kwargs: Any) -> torch.Tensor | None:
    return None if _within.get() is not None else sdpa_mask(*args, **kwargs)


def packed_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    pieces: Pieces | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attend within each row of a pack.

    Args:
        module: The layer.
        query: `(1, heads, T, width of a head)`.
        key, value: `(1, heads of keys, T, width of a head)`.
        attention_mask: Read where there are no pieces.
        pieces: Where the rows are. None: all is one text, as for "sdpa".

    Returns:
        `(1, T, heads, width of a head)`, and None for the weights.

    Raises:
        CannotPack: The layer adds to its scores what the kernels do not know, or took no notice of the pack.
    """
    calls = _within.get()
    if pieces is None:
        if calls is not None:
            raise CannotPack(
                f"{type(module).__name__} hands nothing on to its attention: it would see all rows of a pack."
            )
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **kwargs)
    if calls is not None:
        calls.number += 1
    for name in UNKNOWN_TO_KERNELS:
        if kwargs.get(name) is not None:
            raise CannotPack(
                f"{type(module).__name__} asks its attention for {name!r}, which the kernels for packs cannot."
            )
    if query.shape[0] != 1 or query.shape[2] != pieces.num_tokens or key.shape[2] != pieces.num_tokens:
        raise CannotPack(
            f"{type(module).__name__} attends from {tuple(query.shape)} to {tuple(key.shape)}, and the pack is one sequence "
            f"of {pieces.num_tokens} tokens: a cache of keys and values has no place here (use_cache=False)."
        )
    asked = _Asked(query, key, value, pieces, dropout, scaling, kwargs.get("sliding_window"))
    kernel = _kernel_for(query) or _piece_by_piece
    return kernel(asked), None


class _Asked(NamedTuple):
    """What a layer asks of attention, as `packed_attention` has it; `window`: how far back a token sees."""

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    pieces: Pieces
    dropout: float
    scaling: float | None
    window: int | None


@contextlib.contextmanager
def as_on_a_gpu() -> Iterator[None]:
    """Have attention keep the precision that it is asked in, on a CPU too: for who counts what a GPU would hold."""
    token = _as_on_a_gpu.set(True)
    try:
        yield
    finally:
        _as_on_a_gpu.reset(token)


def _piece_by_piece(asked: _Asked) -> torch.Tensor:
    """One call of torch's attention a piece: on any device, in any precision.

    On a CPU it is computed in float32: there torch's kernel takes several times as long back through short sequences of
    bfloat16, and is hardly quicker through long ones.
    """
    dtype = asked.query.dtype
    if asked.query.device.type != "cpu" or dtype == torch.float64 or _as_on_a_gpu.get():
        return _each_piece(asked)
    in_float32 = asked._replace(query=asked.query.float(), key=asked.key.float(), value=asked.value.float())
    with torch.autocast("cpu", enabled=False):
        return _in_float32(in_float32).to(dtype)


def _in_float32(asked: _Asked) -> torch.Tensor:
    query, key, value, pieces, dropout, scaling, window = asked
    if not can_merge(query, value, pieces, window, dropout):
        return _each_piece(asked)
    return merged_attention(query, *_for_all_heads(query, key, value), pieces, scaling)


def _for_all_heads(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values once for each head of the queries."""
    groups = query.shape[1] // key.shape[1]
    return repeat_kv(key, groups), repeat_kv(value, groups)


def _each_piece(asked: _Asked) -> torch.Tensor:
    query, key, value, pieces, dropout, scaling, window = asked
    # Split and not sliced: the gradient of a slice is as large as the whole
    of_heads = query, *_for_all_heads(query, key, value)
    queries, keys, values = (each.split(pieces.lengths, dim=2) for each in of_heads)
    seen = []
    for piece, prefix in enumerate(pieces.prefixes):
        own_keys, own_values = keys[piece], values[piece]
        if prefix is not None:
            own_keys = torch.cat([keys[prefix], own_keys], dim=2)
            own_values = torch.cat([values[prefix], own_values], dim=2)
        mask = pieces.mask(piece, window, query.device)
        attended = scaled_dot_product_attention(
            queries[piece],
            own_keys,
            own_values,
            attn_mask=mask,
            dropout_p=dropout,
            is_causal=mask is None,
            scale=scaling,
        )
        seen.append(attended)
    return torch.cat(seen, dim=2).transpose(1, 2).contiguous()


def _kernel_for(query: torch.Tensor) -> Callable[..., torch.Tensor] | None:
    """A kernel for sequences of many lengths, where there is one for this device and precision."""
    if query.device.type != "cuda" or query.dtype not in (torch.float16, torch.bfloat16) or query.shape[3] > 256:
        return None
    if find_spec("flash_attn") is not None:
        return _by_flash_attention
    return _by_torch if find_spec("torch.nn.attention.varlen") is not None else None


def _by_torch(asked: _Asked) -> torch.Tensor:
    if asked.dropout:
        return _piece_by_piece(asked)
    from torch.nn.attention.varlen import varlen_attn

    known = inspect.signature(varlen_attn).parameters
    options: dict[str, Any] = {"scale": asked.scaling} if "scale" in known else {}
    if "window_size" in known:
        options["window_size"] = _window_of(asked)
    elif (asked.window or asked.pieces.longest) < asked.pieces.longest or (
        asked.scaling is not None and "scale" not in known
    ):
        return _piece_by_piece(asked)
    else:
        options["is_causal"] = True
    tokens, bounds = _as_kernels_take_them(asked, repeats="enable_gqa" not in known)
    if "enable_gqa" in known:
        options["enable_gqa"] = True
    attend: Any = varlen_attn
    return attend(*tokens, **bounds, **options)[None]


def _by_flash_attention(asked: _Asked) -> torch.Tensor:
    from flash_attn import flash_attn_varlen_func

    tokens, bounds = _as_kernels_take_them(asked, repeats=False)
    return flash_attn_varlen_func(
        *tokens,
        cu_seqlens_q=bounds["cu_seq_q"],
        cu_seqlens_k=bounds["cu_seq_k"],
        max_seqlen_q=bounds["max_q"],
        max_seqlen_k=bounds["max_k"],
        dropout_p=asked.dropout,
        softmax_scale=asked.scaling,
        causal=True,  # by the last token of queries and keys, so that a piece sees all of its prefix
        window_size=_window_of(asked),
    )[None]


def _window_of(asked: _Asked) -> tuple[int, int]:
    """Tokens seen to the left and to the right, as both kernels have it; -1: all."""
    return (-1 if asked.window is None else asked.window - 1, 0)


def _as_kernels_take_them(
    asked: _Asked, *, repeats: bool
) -> tuple[tuple[torch.Tensor, torch.Tensor, torch.Tensor], dict[str, Any]]:
    """Queries, keys and values as `(tokens, heads, width of a head)`, keys once for each piece that sees them; and bounds."""
    query, key, value = asked.query, asked.key, asked.value
    bounds = dict(asked.pieces.for_kernels(query.device))
    places = bounds.pop("key_places")
    if repeats:
        key, value = _for_all_heads(query, key, value)
    query, key, value = (each[0].transpose(0, 1) for each in (query, key, value))
    if places is not None:
        key, value = key[places], value[places]
    return (query, key, value), bounds


AttentionInterface.register(PACKED_ATTENTION, packed_attention)
AttentionMaskInterface.register(PACKED_ATTENTION, _mask)
