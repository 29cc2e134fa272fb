"""The language model in llama.cpp's words: facts of its architecture, and its tensors under llama.cpp's names."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from ...modeling_llava import LlavaForConditionalGeneration
from ...rows.extras import require
from .format_base import CannotExpress
from .gguf_file import GgufTensor, as_is


@dataclass(frozen=True)
class Language:
    """A language model that llama.cpp has.

    Args:
        architecture: Its name there.
        interleaved: Rotary positions turn neighbouring numbers of a head there, in transformers those half a head apart:
            queries and keys are written in another order.
    """

    architecture: str
    interleaved: bool = False


LANGUAGES = {
    "llama": Language("llama", interleaved=True),
    "mistral": Language("llama", interleaved=True),
    "qwen2": Language("qwen2"),
    "qwen3": Language("qwen3"),
}
ELSEWHERE = "Serve our own class (trust_remote_code=True), or another format."


def check_language(config: Any) -> None:
    """Refuse a language model that llama.cpp computes otherwise.

    Raises:
        CannotExpress: With the reason.
    """
    if config.model_type not in LANGUAGES:
        known = " and ".join(map(repr, LANGUAGES))
        raise CannotExpress(
            f"the language model is a {config.model_type!r}, and GGUF is written for {known}. {ELSEWHERE}"
        )
    own_biases = {"attention_bias": False, "mlp_bias": False, "use_sliding_window": False, "hidden_act": "silu"}
    for name, expected in own_biases.items():
        if getattr(config, name, None) not in (expected, None):
            raise CannotExpress(
                f"{name}={getattr(config, name)!r} of the language model: what is written for llama.cpp has {expected!r} "
                f"there. {ELSEWHERE}"
            )
    kind = config.rope_parameters.get("rope_type", "default")
    if kind != "default" and (kind not in ("linear", "llama3") or not LANGUAGES[config.model_type].interleaved):
        raise CannotExpress(
            f"rope_type={kind!r} of a {config.model_type!r}: what is written for llama.cpp has 'default', and for Llama "
            f"and Mistral 'linear' and 'llama3'. {ELSEWHERE}"
        )


def language_facts(config: Any) -> dict[str, Any]:
    """Keys and values that say what the architecture is."""
    name, head = LANGUAGES[config.model_type].architecture, head_size(config)
    # Beyond a sliding window transformers forgets, and llama.cpp's Llama does not: within it they are the same
    context = min(config.max_position_embeddings, getattr(config, "sliding_window", None) or 1 << 31)
    return {
        f"{name}.context_length": context,
        f"{name}.embedding_length": config.hidden_size,
        f"{name}.block_count": config.num_hidden_layers,
        f"{name}.feed_forward_length": config.intermediate_size,
        f"{name}.attention.head_count": config.num_attention_heads,
        f"{name}.attention.head_count_kv": config.num_key_value_heads,
        f"{name}.attention.key_length": head,
        f"{name}.attention.value_length": head,
        f"{name}.attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
        f"{name}.rope.dimension_count": head,
        f"{name}.rope.freq_base": float(config.rope_parameters["rope_theta"]),
        f"{name}.vocab_size": config.vocab_size,
    }


def language_tensors(model: LlavaForConditionalGeneration) -> Iterator[GgufTensor]:
    """Its tensors, in the order of its layers."""
    gguf, config = require("gguf", "gguf"), model.config.text_config
    language = LANGUAGES[config.model_type]
    [architecture] = [key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == language.architecture]
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    weights = {f"model.{name}": tensor for name, tensor in model.model.language_model.state_dict().items()}
    if not model.config.tie_word_embeddings:
        weights["lm_head.weight"] = model.lm_head.weight
    for name, tensor in weights.items():
        theirs = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if theirs is None:
            raise CannotExpress(f"{name} of the language model has no name in llama.cpp. {ELSEWHERE}")
        heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
        part = theirs.rsplit(".", 2)[-2]
        if language.interleaved and part in heads:
            yield GgufTensor(theirs, tuple(tensor.shape), _interleaved(tensor, heads[part]))
        else:
            yield GgufTensor(theirs, tuple(tensor.shape), as_is(tensor))
    if (factors := _rope_factors(model.model.language_model)) is not None:
        yield GgufTensor("rope_freqs.weight", tuple(factors.shape), as_is(factors))


def head_size(config: Any) -> int:
    """Width of an attention head."""
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def _interleaved(tensor: torch.Tensor, heads: int) -> Any:
    """The first and the second half of each head's rows in turns."""
    return lambda: tensor.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)


def _rope_factors(body: Any) -> torch.Tensor | None:
    """By how much slower each pair of numbers turns than it would without scaling; None where none is scaled."""
    parameters = body.config.rope_parameters
    if parameters.get("rope_type", "default") == "default":
        return None
    scaled = body.rotary_emb.inv_freq.float()
    exponents = torch.arange(len(scaled), device=scaled.device) / len(scaled)
    return parameters["rope_theta"] ** -exponents.double() / scaled.double()
