"""`llavakit init`: two backbones become an untrained LLaVA."""

import argparse
import dataclasses
import json
from typing import Any

from ..modeling_llava.connectors import CONNECTORS
from ..modeling_llava.fusions import FUSIONS
from ..processing.box_formats import BOX_FORMATS
from ..processing.chat_templates import SHIPPED_TEMPLATES
from ..processing.image_layouts import IMAGE_LAYOUTS
from ..processing.video_frames import MOST_FRAMES

OWN_TEMPLATE = "tokenizer"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags: those of `build_llava` by name, where the LLaVA goes, and a seed."""
    parser.add_argument("--vision", required=True, help="path or Hub id of the vision encoder")
    parser.add_argument("--language", required=True, help="path or Hub id of the language model")
    parser.add_argument("--output_dir", required=True, help="where the LLaVA goes")
    parser.add_argument(
        "--projector_type", default="linear", choices=list(CONNECTORS), help="connector (v1: linear, v1.5: mlp2x_gelu)"
    )
    parser.add_argument(
        "--chat_template",
        default="vicuna_v1",
        help=f"one of {', '.join(SHIPPED_TEMPLATES)}; a .jinja file; or {OWN_TEMPLATE!r} for the tokenizer's own "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--image_aspect_ratio",
        default="crop",
        choices=list(IMAGE_LAYOUTS),
        help="layout of images (v1: crop, v1.5: pad)",
    )
    parser.add_argument(
        "--image_fusion",
        default="splice",
        choices=list(FUSIONS),
        help="where image features enter the language model (LLaVA: splice, Flamingo: attend)",
    )
    kinds: dict[str, Any] = {**CONNECTORS, **FUSIONS}
    for option, of, names in (
        ("--image_layout_options", "the layout of images", _options_of_layouts()),
        ("--projector_options", "connector and fusion", {name: list(kind.OPTIONS) for name, kind in kinds.items()}),
    ):
        listed = "; ".join(f"{name}: {', '.join(options)}" for name, options in names.items() if options)
        parser.add_argument(
            option,
            type=_json_object,
            metavar="JSON",
            help=f"options of {of} as a JSON object ({listed or 'none yet'})",
        )
    parser.add_argument(
        "--box_format",
        default="llava",
        choices=list(BOX_FORMATS),
        help="how boxes and points stand in the text that it learns from (default: %(default)s, as LLaVA-1.5's data)",
    )
    parser.add_argument(
        "--video_frames", type=int, default=MOST_FRAMES, help="most frames taken of a video (default: %(default)s)"
    )
    parser.add_argument(
        "--video_pooling",
        type=int,
        default=2,
        help="so many rows, and columns, of the features of a frame become one (default: %(default)s)",
    )
    parser.add_argument("--vision_feature_layer", type=int, nargs="+", default=[-2], help="hidden state(s) to read")
    parser.add_argument("--vision_feature_select_strategy", default="default", choices=("default", "full"))
    parser.add_argument("--dtype", default=None, help="of the weights; default: as the language model was saved")
    parser.add_argument("--vision_revision", default=None, help="Git revision of the vision encoder on the Hub")
    parser.add_argument("--language_revision", default=None, help="Git revision of the language model on the Hub")
    parser.add_argument("--seed", type=int, default=0, help="seed of the connector's fresh weights")
    parser.add_argument("--trust_remote_code", action="store_true", help="allow backbones that ship their own code")
    parser.set_defaults(run=_init)


def _options_of_layouts() -> dict[str, list[str]]:
    layouts: dict[str, Any] = dict(IMAGE_LAYOUTS)
    return {name: [field.name for field in dataclasses.fields(layout)] for name, layout in layouts.items()}


def _json_object(text: str) -> dict[str, Any]:
    """The options of a flag.

    Raises:
        argparse.ArgumentTypeError: The text is no JSON object.
    """
    try:
        options = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f'{text!r} is no JSON ({error}); write {{"name": value}}') from error
    if not isinstance(options, dict):
        raise argparse.ArgumentTypeError(f'{text!r} is no JSON object; write {{"name": value}}')
    return options


def _init(args: argparse.Namespace) -> int:
    from transformers import set_seed

    from .building import build_llava, save_llava
    from .measuring import image_tokens_in_words

    # The other flags are arguments of `build_llava`, by the same names
    options = {name: value for name, value in vars(args).items() if name not in ("run", "output_dir", "seed")}
    if options["chat_template"] == OWN_TEMPLATE:
        options["chat_template"] = None
    if len(options["vision_feature_layer"]) == 1:
        (options["vision_feature_layer"],) = options["vision_feature_layer"]
    set_seed(args.seed)
    model, processor = build_llava(**options)
    save_llava(model, processor, args.output_dir)
    tokens = image_tokens_in_words(model.config, processor.layout.single_view)
    print(f"{model.num_parameters():,} parameters, {tokens} -> {args.output_dir}")
    return 0
