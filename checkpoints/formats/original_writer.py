"""A LLaVA as the original code reads it: the encoder's weights beside the rest, as LLaVA-1.6 was published."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

from ...modeling_llava import LlavaConfig, LlavaForConditionalGeneration
from ...modeling_llava.model_parts import part_of
from ...processing import LlavaProcessor
from ...processing.layout_anyres import NEXT_GRIDS, ONEVISION_GRIDS
from ..proof.proving import Mismatch
from .connector_names import LINE_BREAK
from .format_base import CannotExpress, Given, Writer, check_known
from .llava_next import canvases_of
from .original import CONNECTORS, LANGUAGE, PARTS, STRATEGIES, TEMPLATES, OriginalReader
from .tensor_files import read_tensors

ARCHITECTURES = {
    "llama": "LlavaLlamaForCausalLM",
    "mistral": "LlavaMistralForCausalLM",
    "qwen2": "LlavaQwenForCausalLM",
}
MODEL_TYPES = {language: model_type for model_type, language in LANGUAGE.items() if model_type != "llava"}
RATIOS = {"crop": "square", "pad": "pad", "anyres": "anyres"}
ENCODERS = ("clip_vision_model", "siglip_vision_model")


class OriginalWriter(Writer):
    """Writes them."""

    def check(self, model: LlavaForConditionalGeneration, processor: LlavaProcessor) -> None:
        config = model.config
        pooled = (config.projector_options or {}).get("pooled_tokens")
        settings: tuple[tuple[str, Any, tuple[Any, ...]], ...] = (
            ("language model", config.text_config.model_type, tuple(TEMPLATES)),
            ("vision encoder", config.vision_config.model_type, ENCODERS),
            ("projector_type", config.projector_type, CONNECTORS),
            ("image_fusion", config.image_fusion, ("splice",)),
            ("image_aspect_ratio", processor.image_aspect_ratio, tuple(RATIOS)),
            ("pooled_tokens", pooled, (None,)),
            ("image_keep_rate", processor.image_keep_rate, (1.0,)),
            ("multimodal_projector_bias", config.multimodal_projector_bias, (True,)),
            ("projector_hidden_act", config.projector_hidden_act, ("gelu",)),
            ("vision_feature_layer", type(config.vision_feature_layer), (int,)),
        )
        check_known("the original code", settings, "Serve our own class (trust_remote_code=True).")
        if not vision_name(config):
            raise CannotExpress(
                f"provenance in config.json is {config.provenance} and names no vision encoder, which the original code loads "
                'by name: write its path or Hub id there, as {"backbones": {"vision": NAME}}.'
            )

    def write(
        self, model: LlavaForConditionalGeneration, processor: LlavaProcessor, folder: Path, max_shard_size: str
    ) -> None:
        said = config_of(model.config, processor)
        weights = dict(tensors_of(model))
        save_torch_state_dict(weights, folder, max_shard_size=max_shard_size)
        (folder / "config.json").write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")
        model.generation_config.save_pretrained(folder)
        processor.tokenizer.save_pretrained(folder)

    def prove(self, source: Path, target: Path, view_size: tuple[int, int]) -> list[list[str]]:
        """Read back, every tensor is what it was.

        Their classes are not at hand to be asked; that ours says what they say is what the project's tests show.
        """
        back, _ = OriginalReader().read(target, Given())
        return same_tensors(read_tensors(source), back)


def vision_name(config: LlavaConfig) -> str:
    """Path or Hub id of the encoder that a model was built from, or of a model that contains it; "" where none is known."""
    return str(((config.provenance or {}).get("backbones") or {}).get("vision", ""))


def config_of(config: LlavaConfig, processor: LlavaProcessor) -> dict[str, Any]:
    """Their `config.json`."""
    language = config.text_config.model_type
    fields = config.text_config.to_dict() | {
        "model_type": MODEL_TYPES[language],
        "architectures": [ARCHITECTURES[language]],
        "vocab_size": config.text_config.vocab_size,
        "use_mm_proj": True,
        "mm_hidden_size": config.vision_config.hidden_size,
        "mm_projector_type": config.projector_type,
        "mm_vision_tower": vision_name(config),
        "mm_vision_select_layer": config.vision_feature_layer,
        "mm_vision_select_feature": {ours: theirs for theirs, ours in STRATEGIES.items()}[
            config.vision_feature_select_strategy
        ],
        "mm_use_im_patch_token": False,
        "mm_use_im_start_end": False,
        "image_aspect_ratio": RATIOS[processor.image_aspect_ratio],
        "unfreeze_mm_vision_tower": True,  # its weights lie beside the rest
        "tune_mm_mlp_adapter": False,
    }
    if processor.image_aspect_ratio == "anyres":
        most = (processor.image_layout_options or {}).get("max_views")
        grids = canvases_of(processor, NEXT_GRIDS if most is None else ONEVISION_GRIDS)
        fields |= {
            "image_aspect_ratio": "anyres" if most is None else f"anyres_max_{most}",
            "mm_patch_merge_type": "spatial_unpad",
            "image_grid_pinpoints": [[width, height] for height, width in grids],
        }
    return fields


def tensors_of(model: LlavaForConditionalGeneration) -> Iterator[tuple[str, torch.Tensor]]:
    """Their names and the tensors."""
    with torch.device("meta"):
        model_class: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(model.config.text_config)]
        causal = model_class(model.config.text_config)
    causal.model, causal.lm_head = model.model.language_model, model.lm_head
    tied = model.config.tie_word_embeddings
    yield from (
        (name, tensor) for name, tensor in causal.state_dict().items() if not (tied and name == "lm_head.weight")
    )
    for name, tensor in model.model.multi_modal_projector.state_dict().items():
        if name == LINE_BREAK:
            yield PARTS["newline"], tensor
        else:
            name = re.sub(r"^linear_(\d+)", lambda layer: str(2 * (int(layer[1]) - 1)), name)
            yield PARTS["connector"] + name.removeprefix("linear."), tensor
    for name, tensor in model.model.vision_tower.state_dict().items():
        yield f"{PARTS['vision']}vision_model.{name.removeprefix('vision_model.')}", tensor


def same_tensors(ours: Mapping[str, torch.Tensor], back: Any) -> list[list[str]]:
    """A table of what a checkpoint and a model read back hold, part by part.

    Raises:
        Mismatch: A tensor differs, or one of the two has more; it is named.
    """
    theirs = back.state_dict()
    if back.config.tie_word_embeddings:  # one tensor by two names, of which a checkpoint has the first
        theirs.pop("lm_head.weight")
    for name in sorted(ours.keys() | theirs.keys()):
        if name not in ours or name not in theirs or not torch.equal(ours[name], theirs[name]):
            raise Mismatch(f"{name} is not what it was, read back. Nothing was written.")
    parts = [part_of(name) for name in ours]
    lines = [[part, str(parts.count(part)), "same bits"] for part in dict.fromkeys(parts)]
    return [["part", "tensors", "read back"], *lines]
