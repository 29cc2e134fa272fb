"""Build a LLaVA from two pretrained checkpoints, a vision encoder and a causal language model."""

import copy
import os
from typing import TYPE_CHECKING, Any

import torch
from transformers import AddedToken, AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from .configuration_llava import LlavaConfig

if TYPE_CHECKING:
    from .modeling_llava import LlavaForConditionalGeneration

IMAGE_TOKEN = "<image>"

# Matrix sizes that GPUs like; also what the vocabulary can be split by.
VOCABULARY_MULTIPLE = 64

# Pooling on top of an encoder. It adds nothing to the grid features, so a checkpoint may lack it.
POOLING_MODULES = ("pooler", "head")


def assemble(
    cls: type["LlavaForConditionalGeneration"],
    vision: str | os.PathLike,
    language: str | os.PathLike,
    *,
    dtype: torch.dtype | str | None,
    vision_revision: str | None,
    language_revision: str | None,
    trust_remote_code: bool,
    **config_kwargs: Any,
) -> "LlavaForConditionalGeneration":
    """See `LlavaForConditionalGeneration.from_backbones`, which this does the work of."""
    hub: dict[str, Any] = {"revision": language_revision, "trust_remote_code": trust_remote_code}
    tokenizer: Any = AutoTokenizer.from_pretrained(language, **hub)
    causal = load_language_model(language, dtype=dtype or "auto", **hub)
    # The processor adds the token to the same tokenizer, and gets the same id.
    tokenizer.add_tokens([AddedToken(IMAGE_TOKEN, normalized=False, special=True)])
    image_token_id = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)

    hub["revision"] = vision_revision
    tower = load_vision_tower(vision, dtype=causal.dtype, **hub)
    prefix = measure_prefix_tokens(tower)
    if config_kwargs.setdefault("num_additional_image_tokens", prefix) not in (prefix, None):
        raise ValueError(
            f"num_additional_image_tokens={config_kwargs['num_additional_image_tokens']}, but {vision} puts {prefix} "
            "tokens before its patch grid; leave the argument out."
        )

    grow_vocabulary(causal, image_token_id + 1)
    config = LlavaConfig(
        vision_config=tower.config,
        text_config=causal.config,
        image_token_index=image_token_id,
        backbones={"vision": str(vision), "language": str(language)},
        **config_kwargs,
    )
    # The two backbones are put into an empty shell, so that neither is initialised in vain nor held twice.
    with torch.device("meta"):
        model = cls._from_config(config, dtype=causal.dtype)
    if type(model.model.language_model) is not type(causal.base_model):
        raise ValueError(
            f"{language} is a {type(causal).__name__}, whose body is a {type(causal.base_model).__name__}; as a "
            f"text_config it would come back as a {type(model.model.language_model).__name__}. Give the checkpoint of "
            "a plain causal language model."
        )
    model.model.vision_tower = tower
    model.model.language_model = causal.base_model
    model.lm_head = causal.get_output_embeddings()
    connector = model.model.multi_modal_projector.to_empty(device=causal.device)
    connector.apply(model._init_weights)
    model.generation_config = causal.generation_config
    model.eval()
    check_scores(model, causal)
    if config.stage is not None:
        model.set_stage(config.stage)
    return model


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
    """Load a vision encoder, also out of a checkpoint that holds a text encoder beside it.

    Raises:
        ValueError: if weights of the encoder are missing.
    """
    hub = {name: kwargs[name] for name in ("revision", "trust_remote_code")}
    config = AutoConfig.from_pretrained(vision, **hub)
    config = getattr(config, "vision_config", config)
    tower, loaded = AutoModel.from_pretrained(vision, config=config, output_loading_info=True, **kwargs)
    missing = [name for name in loaded["missing_keys"] if not set(POOLING_MODULES) & set(name.split("."))]
    if missing:
        raise ValueError(
            f"{vision} lacks weights of a {type(tower).__name__}: {_some(missing)}. Give the checkpoint of a "
            "pretrained vision encoder, or of a model such as CLIP that contains one."
        )
    return tower


@torch.no_grad()
def measure_prefix_tokens(tower: PreTrainedModel) -> int:
    """Count the tokens before the patch grid in what the encoder returns, by showing it a black image.

    Raises:
        ValueError: if it does not return a sequence of patch features.
    """
    # A copy: to be part of another config clears which attention the tower runs with
    config = LlavaConfig(vision_config=copy.deepcopy(tower.config), num_additional_image_tokens=0)
    image = torch.zeros(1, *config.image_shape, dtype=tower.dtype, device=tower.device)
    states = tower(image, output_hidden_states=True, return_dict=True).hidden_states
    shape = tuple(states[-1].shape)
    if len(shape) != 3 or shape[1] < config.num_image_tokens:
        raise ValueError(
            f"The vision encoder {type(tower).__name__} returns features of shape {shape} for an image of "
            f"{config.num_image_tokens} patches; one that returns (batch, tokens, channels), with a token for each "
            "patch, is needed."
        )
    return shape[1] - config.num_image_tokens


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
def check_scores(model: "LlavaForConditionalGeneration", causal: PreTrainedModel) -> None:
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
