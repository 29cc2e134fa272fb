"""Vision tower and connector in llama.cpp's words: the `mmproj` file, of the projector type that it calls "mlp".

    v.patch_embd, v.position_embd, v.pre_ln, v.blk.K ──feature_layer──> mm.0 ──GELU──> mm.2

A CLIP is written as `gguf_class_token` says.
"""

import re
from collections.abc import Iterator
from typing import Any

import torch

from ...modeling_llava import LlavaConfig, LlavaForConditionalGeneration
from ...processing import LlavaProcessor
from ...rows.extras import require
from .format_base import CannotExpress, check_known
from .gguf_class_token import Room, class_token_last, num_front_layers, read_mean
from .gguf_file import GgufTensor, as_is
from .gguf_language import ELSEWHERE

TOWERS = ("clip_vision_model", "siglip_vision_model")
CONNECTORS = ("linear", "mlp2x_gelu")
# What stands between the layers of a tower -> llama.cpp's flag. It has one GELU, by tanh; the exact one differs by 5e-4.
ACTIVATIONS = {
    "quick_gelu": None,
    "gelu": "clip.use_gelu",
    "gelu_pytorch_tanh": "clip.use_gelu",
    "silu": "clip.use_silu",
}
MARGIN = (122, 116, 104)  # beside a picture that is no square
BICUBIC = 3
UNREAD = ("post_layernorm.", "head.")  # what sums a picture up in one vector
# GELU leaves numbers as they are from about 10 on, and makes 0 of them below -10. A power of two, so that no bit is lost.
FAR = 2.0**16


def check_vision(config: LlavaConfig, processor: LlavaProcessor) -> None:
    """Refuse a tower, a connector or a layout that llama.cpp computes otherwise.

    Raises:
        CannotExpress: With the reason and a remedy.
    """
    tower = config.vision_config
    pooled = (config.projector_options or {}).get("pooled_tokens")
    layers = feature_layers(config)
    settings = processor.image_processor.to_dict()
    known: tuple[tuple[str, Any, tuple[Any, ...]], ...] = (
        ("image_fusion", config.image_fusion, ("splice",)),
        ("vision encoder", tower.model_type, TOWERS),
        ("its activation", tower.hidden_act, tuple(ACTIVATIONS)),
        ("projector_type", config.projector_type, CONNECTORS),
        ("projector_hidden_act", config.projector_hidden_act, ("gelu",)),
        ("pooled_tokens", pooled, (None,)),
        ("image_keep_rate", processor.image_keep_rate, (1.0,)),
        ("image_aspect_ratio", processor.image_aspect_ratio, ("crop", "pad", "squeeze")),
        ("resample", int(settings.get("resample", BICUBIC)), (BICUBIC,)),
        ("do_rescale", settings.get("do_rescale"), (True,)),
        ("do_normalize", settings.get("do_normalize"), (True,)),
        ("rescale_factor", round(1 / settings.get("rescale_factor", 1), 6), (255.0,)),
    )
    check_known("llama.cpp", known, ELSEWHERE)
    if config.vision_feature_select_strategy == "full" and config.num_additional_image_tokens:
        raise CannotExpress(
            "vision_feature_select_strategy='full' keeps the class token, which llama.cpp leaves out: train with "
            "'default'."
        )
    if layers != sorted(set(layers)):
        raise CannotExpress(
            f"vision_feature_layer={config.vision_feature_layer} joins layers in an order of its own, and llama.cpp from "
            "the first to the last: train with them in order."
        )
    if tower.model_type == "clip_vision_model" and tower.num_attention_heads < 2:
        raise CannotExpress(f"a CLIP with one attention head cannot be written for llama.cpp. {ELSEWHERE}")
    height, width = processor.image_size
    if not height == width == tower.image_size:
        raise CannotExpress(
            f"a view of {height} x {width} pixels for an encoder of {tower.image_size}: llama.cpp has squares of the "
            f"encoder's own size. {ELSEWHERE}"
        )


def check_layout(processor: LlavaProcessor) -> None:
    """Refuse a layout whose pictures, where they are not square, llama.cpp would show otherwise.

    Raises:
        CannotExpress: It is not `"pad"` with llama.cpp's colour.
    """
    layout = processor.image_aspect_ratio
    colour = tuple(int(255 * mean) for mean in processor.image_processor.image_mean)
    if layout == "pad" and colour == MARGIN:
        return
    own = {"crop": "takes the centre of a picture", "squeeze": "stretches a picture"}.get(
        layout, f"fills up with {colour}"
    )
    raise CannotExpress(
        f"image_aspect_ratio={layout!r} {own}, and llama.cpp shows a picture whole, on a square that it fills up with the "
        f"colour {MARGIN}: if all pictures that it will be shown are square, say --square_pictures; else train with 'pad' "
        "and an encoder of that mean, such as OpenAI's CLIPs."
    )


def feature_layers(config: LlavaConfig) -> list[int]:
    """After how many layers of the tower the features are taken, counted from its start."""
    chosen = config.vision_feature_layer
    count = config.vision_config.num_hidden_layers + 1  # hidden states, the first before all layers
    return [layer % count for layer in (chosen if isinstance(chosen, list | tuple) else [chosen])]


def vision_facts(config: LlavaConfig, processor: LlavaProcessor) -> dict[str, Any]:
    """Keys and values of the `mmproj` file."""
    tower, image_processor = config.vision_config, processor.image_processor
    room = room_of(tower)
    width, front = (tower.hidden_size, 0) if room is None else (room.width, num_front_layers(room))
    layers = [layer + front for layer in feature_layers(config)]
    flag = ACTIVATIONS[tower.hidden_act]
    return {
        "general.type": "mmproj",
        "clip.has_vision_encoder": True,
        "clip.has_llava_projector": True,
        "clip.projector_type": "mlp",
        **({flag: True} if flag else {}),
        "clip.vision.image_size": tower.image_size,
        "clip.vision.patch_size": tower.patch_size,
        "clip.vision.embedding_length": width,
        "clip.vision.feed_forward_length": tower.intermediate_size,
        "clip.vision.block_count": max(layers),  # those after the last that is read are left out
        "clip.vision.feature_layer": layers,
        "clip.vision.projection_dim": config.text_config.hidden_size,
        "clip.vision.attention.head_count": tower.num_attention_heads,
        "clip.vision.attention.layer_norm_epsilon": tower.layer_norm_eps * tower.hidden_size / width,
        "clip.vision.image_mean": [float(value) for value in image_processor.image_mean],
        "clip.vision.image_std": [float(value) for value in image_processor.image_std],
    }


def room_of(tower: Any) -> Room | None:
    """How rows are laid out where there is a class token among them."""
    if tower.model_type != "clip_vision_model":
        return None
    return Room(tower.hidden_size, tower.num_attention_heads, (tower.image_size // tower.patch_size) ** 2 + 1)


def vision_tensors(model: LlavaForConditionalGeneration) -> Iterator[GgufTensor]:
    """Tensors of the tower up to the last layer that is read, then the connector's."""
    gguf, config = require("gguf", "gguf"), model.config
    tower, last, front = config.vision_config, max(feature_layers(config)), 0
    weights = {
        name.removeprefix("vision_model."): tensor for name, tensor in model.model.vision_tower.state_dict().items()
    }
    if (room := room_of(tower)) is not None:
        weights, front = class_token_last(weights, room, tower.num_hidden_layers), num_front_layers(room)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.MMPROJ, last + front)
    for name, tensor in weights.items():
        layer = re.match(r"encoder\.layers\.(\d+)\.", name)
        if name.startswith(UNREAD) or (layer and int(layer[1]) >= last + front):
            continue
        theirs = names.get_name(f"vision_tower.vision_model.{name}", (".weight", ".bias"))
        if theirs is None:
            raise CannotExpress(f"{name} of the vision encoder has no name in llama.cpp. {ELSEWHERE}")
        if layer is None or int(layer[1]) < front:
            yield GgufTensor(theirs, tuple(tensor.shape), as_is(tensor), exact=True)
        else:
            width = tower.hidden_size if room is None else room.width
            yield GgufTensor(_swapped(theirs, tower.intermediate_size == width), tuple(tensor.shape), as_is(tensor))
    for name, tensor in connector_layers(model, room).items():
        yield GgufTensor(name, tuple(tensor.shape), as_is(tensor), exact=config.projector_type == "linear")


def _swapped(name: str, alike: bool) -> str:
    """llama.cpp takes the two matrices of a layer for each other where their widths do not tell them apart."""
    other = {"ffn_up": "ffn_down", "ffn_down": "ffn_up"}
    return ".".join(other.get(part, part) for part in name.split(".")) if alike else name


def connector_layers(model: LlavaForConditionalGeneration, room: Room | None) -> dict[str, torch.Tensor]:
    """The connector as two layers with GELU between them.

    A linear one y = W x + b is written as y and -y, far out where GELU leaves a number as it is or makes 0 of it, and their
    difference: gelu(s y) - gelu(-s y) = s y. With s a power of two, no bit is lost but of numbers below 1e-4.
    """
    config = model.config
    weights = model.model.multi_modal_projector.state_dict()
    if config.projector_type == "linear":
        weight = weights["linear.weight"].float()
        bias = weights["linear.bias"].float() if "linear.bias" in weights else torch.zeros(len(weight))
        identity = torch.eye(len(weight)) / FAR
        weights = {
            "linear_1.weight": torch.cat([weight, -weight]) * FAR,
            "linear_1.bias": torch.cat([bias, -bias]) * FAR,
            "linear_2.weight": torch.cat([identity, -identity], dim=1),
        }
    first, second = weights["linear_1.weight"].float(), weights["linear_2.weight"]
    if room is not None:
        first = torch.cat([read_mean(part, room) for part in first.split(room.own, dim=1)], dim=1)
    return {
        "mm.0.weight": first,
        "mm.0.bias": weights.get("linear_1.bias", torch.zeros(len(first))),
        "mm.2.weight": second,
        "mm.2.bias": weights.get("linear_2.bias", torch.zeros(len(second))),
    }
