"""The forward of a training step, in the place of trl's: scores at supervised positions alone, and packs of rows.

trl's trainer calls `model(**batch, fused_lm_head=True)` and reads log-probabilities of the supervised tokens. On some devices
it scores every position for them. Here it is those that have a label, on every device, wherever the rows of a pack lie. It
runs within whatever wraps the model: DDP, FSDP, PEFT.
"""

import contextlib
import functools
import types
from collections.abc import Iterator
from typing import Any

import torch
from torch.distributed.tensor import DTensor
from transformers.modeling_outputs import BaseModelOutputWithPooling
from trl.trainer.utils import FusedCausalLMOutput, maybe_gather_lm_head_ctx

from ...modeling_llava.fusions import FUSIONS
from ...modeling_llava.image_features import connect
from ..batching import IGNORE_INDEX
from ..packing.attention import PACKED_ATTENTION, CannotPack, packed
from ..packing.pieces import Pieces
from .feature_cache import FEATURES
from .supervised_head import score_tokens


def install_training_forward(llava: Any, *, alike: bool) -> None:
    """Have a LLaVA that trl's trainer was given answer `fused_lm_head=True` by this module.

    Args:
        llava: A `LlavaForConditionalGeneration`.
        alike: The loss weighs all supervised tokens alike (trl's loss "nll").
    """
    otherwise = llava.forward

    @functools.wraps(type(llava).forward)  # `generate` reads what it may pass
    def forward(self: Any, *args: Any, fused_lm_head: bool = False, **inputs: Any) -> Any:
        pieces = inputs.get("pieces")
        if pieces is not None:
            _check_alone(inputs)
        with _shown(self, inputs) as shown:
            if not fused_lm_head:
                _take_features(self, shown)
                return otherwise(*args, **shown)
            if inputs.get("output_router_logits"):  # trl adds the loss that balances experts
                _check_unshared(pieces)
                _take_features(self, shown)
                return otherwise(*args, fused_lm_head=True, **shown)
            labels = shown.pop("labels")
            _take_features(self, shown)
            hidden = self.model(*args, **shown).last_hidden_state  # (B, S, D)
        return _scored(self, hidden, labels, pieces, alike)

    llava.forward = types.MethodType(forward, llava)


@contextlib.contextmanager
def training_forward(llava: Any, *, attention: str | None = None) -> Iterator[Any]:
    """A LLaVA of nobody's training with this forward meanwhile, its language model attending by `attention`."""
    language_model = llava.model.language_model
    before, own_forward = language_model.config._attn_implementation, vars(llava).get("forward")
    install_training_forward(llava, alike=True)
    language_model.set_attn_implementation(attention or PACKED_ATTENTION)
    try:
        yield llava
    finally:
        language_model.set_attn_implementation(before)
        if own_forward is None:
            del llava.forward
        else:
            llava.forward = own_forward


def _shown(llava: Any, inputs: dict[str, Any]) -> contextlib.AbstractContextManager[dict[str, Any]]:
    if inputs.get("pieces") is None:
        return contextlib.nullcontext(inputs)
    embedding = llava.get_input_embeddings().weight
    return packed(llava.model.language_model, inputs, embedding.dtype)


def _check_alone(inputs: dict[str, Any]) -> None:
    """A pack says by its pieces alone who sees whom.

    Raises:
        CannotPack: Something else says it too, or a cache would hold the rows of one for the next.
    """
    if inputs.get("attention_mask") is not None:
        raise CannotPack("a pack of rows came with an attention_mask, by which they would see one another: pass none.")
    if inputs.get("use_cache") is not False:
        raise CannotPack("a pack of rows needs use_cache=False: with a cache its rows would be taken for one text.")
    if inputs.get("position_ids") is None:
        raise CannotPack("a pack of rows came without position_ids: rows behind the first would be read from far off.")
    for name in ("cu_seq_lens_q", "cu_seq_lens_k"):
        if inputs.get(name) is not None:
            raise CannotPack(f"a pack of rows came with {name} besides its pieces: pass one of both.")


def _check_unshared(pieces: Pieces | None) -> None:
    if pieces is not None and any(prefix is not None for prefix in pieces.prefixes):
        raise CannotPack(
            "the loss that balances experts (router_aux_loss_coef) is trl's, which knows no shared prefixes: set "
            "--share_images false."
        )


def _take_features(llava: Any, inputs: dict[str, Any]) -> None:
    """Features that were kept go through the connector, in the place of pictures."""
    if (features := inputs.pop(FEATURES, None)) is None:
        return
    config, places = llava.config, inputs.pop("feature_places", None)
    images = connect(llava.model.multi_modal_projector, features, places, [config.patch_grid] * len(features))
    outputs = BaseModelOutputWithPooling()
    outputs["pooler_output"] = FUSIONS[config.image_fusion].as_tokens(images)
    inputs["mm_encoder_outputs"] = {"image": outputs}


def _scored(llava: Any, hidden: torch.Tensor, labels: torch.Tensor, pieces: Pieces | None, alike: bool) -> Any:
    """What trl reads: of each supervised token, not of each position."""
    if pieces is None:
        supervised = labels[:, 1:] != IGNORE_INDEX
        states, targets = hidden[:, :-1][supervised], labels[:, 1:][supervised]
    else:
        places, targets = pieces.predictors(labels[0])
        states = hidden[0].index_select(0, places)
    head = llava.get_output_embeddings()
    weight, bias = head.weight, head.bias
    if isinstance(weight, DTensor):  # FSDP2 holds a part of it
        weight, bias = weight.full_tensor(), None if bias is None else bias.full_tensor()
    with maybe_gather_lm_head_ctx(weight, bias):
        scores = score_tokens(
            states.to(weight.device),
            weight,
            bias,
            targets.to(weight.device),
            softcap=getattr(llava.config.text_config, "final_logit_softcapping", None),
            alike=alike,
        )
    return FusedCausalLMOutput(
        loss=-scores.log_probs.mean(),
        log_probs=scores.log_probs,
        entropy=scores.entropy,
        is_top1=scores.is_top1,
        label_mask=torch.ones_like(scores.is_top1),
    )
