"""What a vision encoder and a language model must be to serve as backbones, and what is done to them for it."""

import os
from typing import Any

import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PreTrainedModel

# Matrix sizes that GPUs like; also what the vocabulary can be split by.
VOCABULARY_MULTIPLE = 64

# Pooling on top of an encoder. It adds nothing to the grid features, so a checkpoint may lack it.
POOLING_MODULES = ("pooler", "head")

# Where the models of transformers that answer questions about images keep their encoder: pattern -> what becomes of it
TOWER_NAMES = {r"^model\.vision_tower\.": "", r"^vision_tower\.": ""}


def load_language_model(language: str | os.PathLike, **kwargs: Any) -> PreTrainedModel:
    """Load a causal language model.

    Raises:
        ValueError: if weights are missing, or if its head is not one matrix.
    """
    pair: Any = AutoModelForCausalLM.from_pretrained(language, output_loading_info=True, **kwargs)
    causal, loaded = pair
    if loaded["missing_keys"]:
        raise ValueError(
            f"{language} lacks weights of a {type(causal).__name__}: {_some(loaded['missing_keys'])}. Give the "
            "checkpoint of a causal language model with its head."
        )
    head = causal.get_output_embeddings()
    if not isinstance(head, torch.nn.Linear) or head.bias is not None:
        raise ValueError(
            f"The head of {language} is {head}, but LlavaForConditionalGeneration holds a linear layer without bias "
            "there. Give another language model."
        )
    return causal


def load_vision_tower(vision: str | os.PathLike, **kwargs: Any) -> PreTrainedModel:
    """Load a vision encoder, also out of a checkpoint that holds a text encoder or a language model beside it.

    Raises:
        ValueError: if weights of the encoder are missing.
    """
    hub = {name: kwargs[name] for name in ("revision", "trust_remote_code")}
    config = AutoConfig.from_pretrained(vision, **hub)
    if (tower_config := getattr(config, "vision_config", None)) is not None:
        config, kwargs["key_mapping"] = tower_config, TOWER_NAMES
    tower, loaded = AutoModel.from_pretrained(vision, config=config, output_loading_info=True, **kwargs)
    missing = [name for name in loaded["missing_keys"] if not set(POOLING_MODULES) & set(name.split("."))]
    if missing:
        raise ValueError(
            f"{vision} lacks weights of a {type(tower).__name__}: {_some(missing)}. Give the checkpoint of a "
            "pretrained vision encoder, or of a model such as CLIP or InternVL that contains one."
        )
    return tower


@torch.no_grad()
def grow_vocabulary(causal: Any, num_tokens: int) -> None:
    """Make room for `num_tokens` ids, in a multiple of 64 rows; a new row is the mean of the old ones.

    The mean is where a new word is least surprising to the model; random rows would be likelier than any real word.
    """
    old = causal.get_input_embeddings().num_embeddings
    new = -(-max(old, num_tokens) // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE
    if new == old:
        return
    causal.resize_token_embeddings(new, mean_resizing=False)
    for module in (causal.get_input_embeddings(), causal.get_output_embeddings()):
        module.weight[old:] = module.weight[:old].float().mean(0).to(module.weight.dtype)


@torch.no_grad()
def check_scores(model: PreTrainedModel, causal: PreTrainedModel) -> None:
    """Check that the LLaVA scores plain text as the language model does.

    Raises:
        ValueError: if not: the language model does more to its scores than the head.
    """
    text = torch.arange(4, device=causal.device)[None]
    if not torch.allclose(model(text).logits, causal.eval()(text).logits, rtol=1e-2, atol=1e-3):
        raise ValueError(
            f"{type(causal).__name__} does more to its scores than multiply by the head (scaling, say), which "
            "LlavaForConditionalGeneration would leave out. Give another language model."
        )


def _some(names: list[str], shown: int = 3) -> str:
    """The first few of a list of names, and how many more there are."""
    names = sorted(names)
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more
