"""What a vision encoder and a language model must be to serve as backbones, and what is done to them for it."""

import logging
import os
from typing import Any

import torch
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_QUESTION_ANSWERING_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING,
    MODEL_MAPPING,
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    PreTrainedModel,
)

# Matrix sizes that GPUs like; also what the vocabulary can be split by.
VOCABULARY_MULTIPLE = 64

# What a classifier is called: its body may be a causal language model's, its training was not
CLASSIFIERS = (
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING,
    MODEL_FOR_QUESTION_ANSWERING_MAPPING,
)

# Pooling on top of an encoder. It adds nothing to the grid features, so a checkpoint may lack it.
POOLING_MODULES = ("pooler", "head")

# Where the models of transformers that answer questions about images keep their encoder: pattern -> what becomes of it
TOWER_NAMES = {r"^model\.vision_tower\.": "", r"^vision_tower\.": ""}

# The remedy where a vision encoder cannot serve
ENCODERS_THAT_WORK = "a vision transformer that returns a token for each patch, such as CLIP, SigLIP or DINOv2"

logger = logging.getLogger(__name__)


def load_language_model(language: str | os.PathLike, **kwargs: Any) -> PreTrainedModel:
    """Load a causal language model.

    Raises:
        ValueError: if it is a model of another kind, if weights are missing, or if its head is not one matrix.
    """
    hub = {name: kwargs[name] for name in ("revision", "trust_remote_code")}
    _check_is_causal(language, AutoConfig.from_pretrained(language, **hub))
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
    if getattr(causal.config, "output_router_logits", False):
        logger.warning(
            "%s asks for a loss of its routers (output_router_logits=True). A LLaVA has none: its routers learn from "
            "the loss of the next token alone.",
            language,
        )
    return causal


def _check_is_causal(language: str | os.PathLike, config: Any) -> None:
    """Refuse a checkpoint that its config says to be something else than a causal language model.

    Raises:
        ValueError: It is; the message says what it is, and what to give instead.
    """
    what = f"{language} (model_type {config.model_type!r})"
    architecture = next(iter(config.architectures or ()), None)
    if config.is_encoder_decoder:
        raise ValueError(
            f"{what} is an encoder-decoder, and image features stand among the tokens of a decoder that reads all of "
            "them. Give a causal language model, such as a Llama, Mistral, Qwen or Gemma."
        )
    if architecture in {name for table in CLASSIFIERS for name in _class_names(table, config)}:
        raise ValueError(
            f"{what} is a {architecture}, trained to classify and not to write. Give the causal language model that "
            "it was made of."
        )
    if "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {}):
        return  # its own code says what it is
    causal: Any = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    text = config.get_text_config(decoder=True)
    if text is not config and (causal is None or causal.config_class is type(config)):
        raise ValueError(
            f"{what} is itself multimodal, and a LLaVA joins a vision encoder to a language model alone. Give a "
            f"checkpoint of its language model (model_type {text.model_type!r}), or another causal language model."
        )
    if causal is None:
        raise ValueError(
            f"{what} is no causal language model: AutoModelForCausalLM has no class for it. Give one, such as a "
            "Llama, Mistral, Qwen or Gemma."
        )


def _class_names(table: Any, config: Any) -> list[str]:
    """Names of the classes that a table of transformers has for a config."""
    found = table.get(type(config), ())
    return [one.__name__ for one in (found if isinstance(found, tuple) else (found,))]


def load_vision_tower(vision: str | os.PathLike, **kwargs: Any) -> PreTrainedModel:
    """Load a vision encoder, also out of a checkpoint that holds a text encoder or a language model beside it.

    Raises:
        ValueError: if it is no vision encoder, or weights of the encoder are missing.
    """
    hub = {name: kwargs[name] for name in ("revision", "trust_remote_code")}
    config = AutoConfig.from_pretrained(vision, **hub)
    if (tower_config := getattr(config, "vision_config", None)) is not None:
        config, kwargs["key_mapping"] = tower_config, TOWER_NAMES
    if type(config) not in MODEL_MAPPING and "AutoModel" not in (getattr(config, "auto_map", None) or {}):
        raise ValueError(
            f"{vision} has an encoder of model_type {config.model_type!r}, which AutoModel does not load by itself. "
            f"Give {ENCODERS_THAT_WORK}."
        )
    tower, loaded = AutoModel.from_pretrained(vision, config=config, output_loading_info=True, **kwargs)
    if tower.main_input_name != "pixel_values":
        raise ValueError(
            f"{vision} is a {type(tower).__name__}, which reads {tower.main_input_name} and no images. Give "
            f"{ENCODERS_THAT_WORK}."
        )
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
    """Check that the LLaVA scores plain text as the language model does, and that this reads from left to right.

    Raises:
        ValueError: if not: the language model does more to its scores than the head, or a token sees later ones.
    """
    text = torch.arange(4, device=causal.device)[None]
    scores = causal.eval()(text).logits

    def close(one: torch.Tensor, other: torch.Tensor) -> bool:
        return torch.allclose(one, other, rtol=1e-2, atol=1e-3)

    if not close(causal(text[:, :2]).logits, scores[:, :2]):
        raise ValueError(
            f"{type(causal).__name__} is not causal: what it says of a token depends on later ones (its config may say "
            "is_decoder=False, or use_bidirectional_attention=True). Give a language model that writes from left to "
            "right."
        )
    if not close(model(text).logits, scores):
        raise ValueError(
            f"{type(causal).__name__} does more to its scores than multiply by the head (scaling, say), which "
            "LlavaForConditionalGeneration would leave out. Give another language model."
        )


def _some(names: list[str], shown: int = 3) -> str:
    """The first few of a list of names, and how many more there are."""
    names = sorted(names)
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more
