"""An adapter and the LLaVA that it belongs to: the two loaded as PEFT's model, told apart, and made into one.

adapter, (A, B) a layer, and the connector  ──┐
base, W a layer, not quantized              ──┴──  merge_adapter  ──>  a LLaVA:  W + (alpha / r) B A,  the connector
"""

import logging
import os
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import Linear as LoraLinear

from .adapter_files import PROVENANCE_FILE, adapter_config, base_name, base_options, put_on, read_beside
from .loading import load_config, load_model, naming_damage
from .model_card import adapter_in_words

logger = logging.getLogger(__name__)


# The largest share of an adapter that a merge rounds off without being told to (see `Merged`). Adapters that were trained for
# long lose a few percent in bfloat16; one of a few small steps nearly all.
MOST_ROUNDED_OFF = 0.25


@dataclass(frozen=True)
class AdapterFacts:
    """What an adapter is, read without loading weights.

    Attributes:
        base: Folder or Hub id of the model that it belongs to.
        method: Such as `LoRA, r 128, alpha 256, dropout 0.05`.
        whole: Modules that it holds whole, in place of the base's.
        stage: That it was trained in last; None where nothing says so.
        dataset: That it was trained on last; None where nothing says so.
    """

    base: str
    method: str
    whole: tuple[str, ...]
    stage: str | None
    dataset: str | None


def adapter_facts(path: str | os.PathLike, **options: Any) -> AdapterFacts | None:
    """What an adapter is; None of a whole model.

    Args:
        path: Folder or Hub id.
        **options: Of `from_pretrained`; those that concern the Hub are used.

    Raises:
        OSError: The model that it belongs to is named by a folder that is not there.
    """
    base = base_name(path, **options)
    config = None if base is None else adapter_config(path, **options)
    if base is None or config is None:
        return None
    history = (read_beside(path, PROVENANCE_FILE, **options) or {}).get("training_history") or [{}]
    last = history[-1]
    whole = tuple(config.get("modules_to_save") or ())
    return AdapterFacts(base, adapter_in_words(config), whole, last.get("stage"), last.get("dataset"))


def load_adapter(path: str | os.PathLike, *, trainable: bool = False, **options: Any) -> PeftModel:
    """Load an adapter on the model that it belongs to, as PEFT's model.

    Its weights and those of the connector are read as they were saved; those below it as `options` have it.

    Args:
        path: Folder or Hub id of the adapter.
        trainable: Whether it will be trained further.
        **options: Of `from_pretrained`, for the model below it.

    Raises:
        ValueError: `path` is a whole model, or an adapter that lost weights which it should hold.
        DamagedFile: A file of either is damaged; it is named.
        OSError: There is no such adapter, or not the model that it belongs to.
    """
    base = base_name(path, **options)
    if base is None:
        raise ValueError(
            f"{path} is no adapter alone, but a whole model. If an adapter lies in the same folder, put its files "
            "(adapter_config.json, adapter_model.safetensors) into a folder of their own."
        )
    llava = load_model(base, **base_options(path, **options))
    with naming_damage(path, base):
        model = put_on(llava, path, trainable=trainable, **options)
    return model if trainable else model.eval()


@dataclass(frozen=True)
class Merged:
    """A LLaVA made of an adapter and the model that it belonged to.

    Attributes:
        model: In eval mode, in its final precision; its `provenance` names the training of both.
        facts: What the adapter was.
        rounded_off: Of what the adapter had learnt, the share that the precision of the weights cannot hold, as a ratio of
            norms over all adapted layers: 0 in float32, where the sum is taken.
    """

    model: Any
    facts: AdapterFacts
    rounded_off: float


@torch.no_grad()
def merge_adapter(path: str | os.PathLike, *, dtype: torch.dtype | str | None = None, **options: Any) -> Merged:
    """Merge an adapter into the model that it belongs to, never into a quantized one.

    The model is loaded in float32, where the sum is taken, and rounded once, to `dtype`. In float32 the scores of the
    merged model are those of the adapter up to the order of sums (1e-4 of the largest score).

    Args:
        path: Folder or Hub id of the adapter.
        dtype: Of the merged model, such as `"float32"`. Default, and `"auto"`: as the model below it was saved, where that
            can hold what the adapter learnt.
        **options: Of `from_pretrained`, for the model below it.

    Returns:
        The merged model and what it was made of.

    Raises:
        ValueError: `path` is a whole model; the adapter holds weights that are no numbers; no `dtype` was given and the
            model's own would round off more than `MOST_ROUNDED_OFF`; or `options` would load what it is merged into in fewer
            bits than it was saved in.
        DamagedFile, OSError: As `load_adapter`.
    """
    if options.get("quantization_config") is not None:
        raise ValueError(
            "quantization_config (--load_in_4bit, --load_in_8bit): an adapter is merged into the model as it was saved; leave "
            "it out."
        )
    facts = adapter_facts(path, **options)
    if facts is None:
        raise ValueError(f"{path} is a whole model: there is no adapter to merge.")
    wanted = load_config(facts.base, **base_options(path, **options)).dtype if dtype in (None, "auto") else dtype
    rounded_to = getattr(torch, wanted) if isinstance(wanted, str) else wanted or torch.float32
    model = load_adapter(path, **{**options, "dtype": torch.float32})
    rounded_off = _merge_layers(model, rounded_to)
    if dtype in (None, "auto") and rounded_off > MOST_ROUNDED_OFF:
        narrow = str(rounded_to).removeprefix("torch.")
        raise ValueError(
            f"{path}: merged into {narrow}, as {facts.base} was saved, {rounded_off:.0%} of what the adapter learnt would be "
            f"rounded off. --dtype float32 keeps it; --dtype {narrow} says that this is meant."
        )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="All adapters are already merged")  # what is left has yet to be
        llava: Any = model.merge_and_unload(safe_merge=True)
    llava = llava.to(rounded_to).eval()
    llava.config.dtype = rounded_to
    if rounded_off:
        logger.info(
            "Merged into %s, which rounds off %.1f%% of what the adapter learnt.", rounded_to, 100 * rounded_off
        )
    return Merged(llava, facts, rounded_off)


def _merge_layers(model: PeftModel, dtype: torch.dtype) -> float:
    """Merge the linear layers one by one; returns the share that rounding them to `dtype` will take (see `Merged`)."""
    learnt = lost = 0.0
    layers: list[Any] = [module for module in model.modules() if isinstance(module, LoraLinear)]
    for layer in layers:
        before = layer.get_base_layer().weight.detach().clone()
        layer.merge(safe_merge=True)
        after = layer.get_base_layer().weight.detach()
        learnt += float((after - before).double().square().sum())
        lost += float((after - after.to(dtype).to(after.dtype)).double().square().sum())
    return (lost / learnt) ** 0.5 if learnt else 0.0
