"""The original code's checkpoints (github.com/haotian-liu/LLaVA): v1, 1.5 and NeXT; whole, LoRA, or a connector alone.

config.json          the language model's config, with what is said of images in `mm_*` fields
model*.safetensors   model.layers…, lm_head…            the language model, by its own names
pytorch_model*.bin   model.mm_projector.0.weight…       the connector: layers at the even places of a Sequential
                     model.vision_tower.vision_tower.…  the encoder, where it was trained or saved with the rest
                     model.image_newline                what ends a row of features (NeXT)
adapter_model.*, non_lora_trainables.bin                LoRA on a language model that lies elsewhere, and the rest
mm_projector.bin                                        the connector, of stage 1
"""

import ast
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING, AddedToken, AutoTokenizer
from transformers.models.auto.image_processing_auto import AutoImageProcessor

from ...modeling_llava import LlavaConfig, LlavaForConditionalGeneration
from ...processing import LlavaProcessor
from ...processing.chat_templates import template_text
from ...processing.image_plan import view_size
from ...rows.registry import look_up
from ...rows.schema import IMAGE_PLACEHOLDER
from ..backbones import grow_vocabulary, load_language_model, load_vision_tower
from ..building import join_parts, processor_for
from ..checkpoint_files import ADAPTER_CONFIG, read_json
from ..measuring import measure_image_tokens
from ..proof.proving import Mismatch
from ..stop_tokens import add_stop_tokens
from .connector_names import LINE_BREAK
from .format_base import Given, Reader
from .image_marks import with_image_marks
from .native import check_all_known
from .tensor_files import read_tensors

# `model_type` -> that of the language model. "llava" is of the first versions.
LANGUAGE = {"llava": "llama", "llava_llama": "llama", "llava_mistral": "mistral", "llava_qwen": "qwen2"}
# Language model -> the conversation that the original code has for it
TEMPLATES = {"llama": "vicuna_v1", "mistral": "mistral", "qwen2": "chatml"}
CONNECTORS = ("linear", "mlp2x_gelu", "mlp3x_gelu", "mlp4x_gelu")
STRATEGIES: dict[str, Any] = {"patch": "default", "cls_patch": "full"}
# What begins the names of a part
PARTS = {
    "connector": "model.mm_projector.",
    "vision": "model.vision_tower.vision_tower.",
    "newline": "model.image_newline",
}
BUFFERS = re.compile(r"rotary_emb\.inv_freq$|embeddings\.position_ids$")  # computed anew, whoever loads them
IM_PATCH, IM_START, IM_END = "<im_patch>", "<im_start>", "<im_end>"


class OriginalReader(Reader):
    """Reads them as a LLaVA."""

    def recognises(self, config: Mapping[str, Any]) -> bool:
        return config.get("model_type") in LANGUAGE and "mm_vision_tower" in config

    def read(self, folder: Path, given: Given) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
        said = read_json(folder / "config.json")
        projector_type = said.get("mm_projector_type") or "linear"
        if projector_type not in CONNECTORS:
            raise ValueError(
                f"{folder}: mm_projector_type={projector_type!r} is no connector that is read: "
                f"{', '.join(map(repr, CONNECTORS))} are."
            )
        strategy = look_up(STRATEGIES, said.get("mm_vision_select_feature", "patch"), "mm_vision_select_feature")
        parts = split(read_tensors(folder))
        causal, tokenizer, base = _language_model(folder, said, parts["language"], given.base)
        vision = given.vision or said["mm_vision_tower"]
        tower = _vision_tower(folder, vision, parts["vision"], causal.dtype)
        image_processor = AutoImageProcessor.from_pretrained(vision)

        _add_tokens(tokenizer, said)
        image_token_id = tokenizer.convert_tokens_to_ids(IMAGE_PLACEHOLDER)
        grow_vocabulary(causal, image_token_id + 1)
        connector = {connector_name(name, said): tensor for name, tensor in parts["connector"].items()}
        if parts["newline"]:
            connector[LINE_BREAK] = parts["newline"][""]
        config = LlavaConfig(
            vision_config=tower.config,
            text_config=causal.config,
            image_token_index=image_token_id,
            view_size=view_size(image_processor),
            projector_type=projector_type,
            vision_feature_layer=said["mm_vision_select_layer"],
            vision_feature_select_strategy=strategy,
            image_line_break=layout_of(said)[0] == "anyres",
            provenance={"backbones": {"vision": str(vision)} | ({"language": str(base)} if base else {})},
        )
        model = join_parts(config, tower, causal.base_model, causal.get_output_embeddings(), str(folder))
        _fill(model.model.multi_modal_projector, connector, folder, causal.dtype)
        model.generation_config = causal.generation_config
        model.config.image_seq_length = measure_image_tokens(model.eval())
        processor = _processor(model.config, said, image_processor, tokenizer, given)
        add_stop_tokens(model, processor)  # the template is chosen here
        return model, processor

    def prove(self, source: Path, target: Path, view_size: tuple[int, int]) -> list[list[str]]:
        """Every tensor of theirs is in ours, to the bit; where an adapter was merged, all but what it changes."""
        return tensors_kept(source, target)


def split(tensors: Mapping[str, torch.Tensor]) -> dict[str, dict[str, torch.Tensor]]:
    """The tensors by part, without what begins their names; those of the language model keep theirs."""
    parts: dict[str, dict[str, torch.Tensor]] = {name: {} for name in (*PARTS, "language")}
    for name, tensor in tensors.items():
        part, rest = part_and_rest(name)
        if not BUFFERS.search(name):
            parts[part][rest] = tensor
    return parts


def part_and_rest(name: str) -> tuple[str, str]:
    """The part that a tensor is of, and its name without what begins those of the part."""
    for part, start in PARTS.items():
        if name.startswith(start):
            return part, name.removeprefix(start)
    return "language", name


def layout_of(said: Mapping[str, Any]) -> tuple[str, dict[str, Any] | None]:
    """The layout of images and its options.

    Raises:
        ValueError: The config names one that we do not have.
    """
    name = said.get("image_aspect_ratio") or "square"
    if name in ("square", "pad"):
        return ("crop" if name == "square" else "pad"), None
    merged = said.get("mm_patch_merge_type", "flat")
    most = re.fullmatch(r"anyres(?:_max_(\d+))?", name)
    if most is None or merged != "spatial_unpad":
        raise ValueError(
            f"image_aspect_ratio={name!r} with mm_patch_merge_type={merged!r} is no layout of images that is read: "
            "'square', 'pad', and 'anyres' or 'anyres_max_N' with 'spatial_unpad' are."
        )
    grids = said["image_grid_pinpoints"]
    canvases = ast.literal_eval(grids) if isinstance(grids, str) else grids
    options: dict[str, Any] = {"candidates": [[height, width] for width, height in canvases]}  # theirs have it first
    return "anyres", options | ({"max_views": int(most[1])} if most[1] else {})


def connector_name(name: str, said: Mapping[str, Any]) -> str:
    """Our name for a tensor of the connector: `0.weight`, `2.weight` are `linear_1.weight`, `linear_2.weight`."""
    if (said.get("mm_projector_type") or "linear") == "linear":
        return f"linear.{name}"
    return re.sub(r"^\d+", lambda place: f"linear_{int(place[0]) // 2 + 1}", name)


def _language_model(
    folder: Path, said: Mapping[str, Any], weights: dict[str, Any], base: str | None
) -> tuple[Any, Any, str | None]:
    """The language model and its tokenizer: the checkpoint's own, or the base with what it adds; and the base's name."""
    adapter = read_json(folder / ADAPTER_CONFIG)
    if "lm_head.weight" in weights or "model.norm.weight" in weights:
        if base is not None:
            raise ValueError(f"--base {base}: {folder} holds a language model of its own. Leave the flag out.")
        model_type = LANGUAGE[said["model_type"]]
        fields = {name: value for name, value in said.items() if not name.startswith("mm_")}
        config = CONFIG_MAPPING[model_type](**{**fields, "model_type": model_type, "architectures": None})
        model_class: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
        causal = _with_weights(model_class, config, weights, next(iter(weights.values())).dtype, folder)
        return causal, AutoTokenizer.from_pretrained(folder, config=config), None
    base = base or (adapter or {}).get("base_model_name_or_path") or said.get("_name_or_path")
    if not base:
        raise ValueError(f"{folder} holds no language model and names none: give it by --base.")
    causal = load_language_model(base, dtype="auto", revision="main", trust_remote_code=False)
    tokenizer = AutoTokenizer.from_pretrained(base)
    if weights:  # embeddings that were trained beside the adapter
        unknown = causal.load_state_dict(weights, strict=False).unexpected_keys
        if unknown:
            raise ValueError(f"{folder} has, beside those of its config, {unknown[0]}, which {base} has no place for.")
    if adapter is not None:
        merged: Any = PeftModel.from_pretrained(causal, str(folder))
        causal = merged.merge_and_unload()
    return causal, tokenizer, base


def _vision_tower(folder: Path, vision: str, weights: dict[str, torch.Tensor], dtype: torch.dtype) -> Any:
    """The encoder that the config names, with the checkpoint's weights where it has them."""
    tower: Any = load_vision_tower(vision, dtype=dtype, revision="main", trust_remote_code=False)
    if not weights:
        return tower
    return _with_weights(type(tower), tower.config, weights, dtype, folder)


def _with_weights(
    model_class: Any, config: Any, weights: dict[str, torch.Tensor], dtype: torch.dtype, folder: Path
) -> Any:
    """A model of a class of transformers with weights from a checkpoint, which are all that it has, and no others."""
    model, info = model_class.from_pretrained(
        None, config=config, state_dict=weights, dtype=dtype, output_loading_info=True, ignore_mismatched_sizes=True
    )
    check_all_known(folder, info)
    return model


def _add_tokens(tokenizer: Any, said: Mapping[str, Any]) -> None:
    """The tokens that the original code adds when it loads, in its order, and ours after them."""
    added = [IM_PATCH] if said.get("mm_use_im_patch_token", False) else []
    added += [IM_START, IM_END] if said.get("mm_use_im_start_end", False) else []
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=True) for token in (*added, IMAGE_PLACEHOLDER)])


def _fill(connector: Any, weights: Mapping[str, torch.Tensor], folder: Path, dtype: torch.dtype) -> None:
    """Give the connector its weights.

    Raises:
        ValueError: They are not those of the connector that the config names.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in connector.state_dict().items()}
    there = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    if expected != there:
        raise ValueError(
            f"{folder}: its config asks for a connector of {expected}, and its weights have {there} (by our names). Save "
            "or download them anew, together."
        )
    connector.load_state_dict({name: tensor.to(dtype) for name, tensor in weights.items()}, assign=True)


def _processor(
    config: LlavaConfig, said: Mapping[str, Any], image_processor: Any, tokenizer: Any, given: Given
) -> LlavaProcessor:
    layout, options = layout_of(said)
    template = template_text(given.chat_template or TEMPLATES[LANGUAGE[said["model_type"]]])
    if said.get("mm_use_im_start_end", False):
        template = with_image_marks(template, IMAGE_PLACEHOLDER, IM_START, IM_END)
    return processor_for(
        config,
        image_processor,
        tokenizer,
        chat_template=template,
        image_aspect_ratio=layout,
        image_layout_options=options,
    )


def our_name(name: str, said: Mapping[str, Any]) -> str:
    """What a tensor of theirs is called in ours."""
    part, rest = part_and_rest(name)
    if part == "newline":
        return f"model.multi_modal_projector.{LINE_BREAK}"
    if part == "connector":
        return f"model.multi_modal_projector.{connector_name(rest, said)}"
    if part == "vision":
        return f"model.vision_tower.{rest.removeprefix('vision_model.')}"
    if said.get("tie_word_embeddings") and rest == "lm_head.weight":
        rest = "model.embed_tokens.weight"
    return re.sub(r"^model\.", "model.language_model.", rest)


def tensors_kept(source: Path, target: Path) -> list[list[str]]:
    """A table of what of a checkpoint of theirs is in ours, part by part.

    Raises:
        Mismatch: A tensor is not there, or is another; it is named.
    """
    said, ours = read_json(source / "config.json"), read_tensors(target)
    counts: dict[str, int] = {}
    for name, tensor in read_tensors(source).items():
        if BUFFERS.search(name):
            continue
        mine = ours.get(our_name(name, said))
        # The vocabulary has grown by the image token
        if mine is None or not torch.equal(mine[: tensor.shape[0]] if tensor.ndim else mine, tensor.to(mine.dtype)):
            raise Mismatch(f"{name} of {source} is not in what was made of it. Nothing was kept.")
        part, _ = part_and_rest(name)
        counts[part] = counts.get(part, 0) + 1
    return [["part", "tensors", "in ours"], *([part, f"{count:,}", "same bits"] for part, count in counts.items())]
