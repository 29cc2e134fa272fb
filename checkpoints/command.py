"""`llavakit init`: two backbones become an untrained LLaVA."""

import argparse

from ..processing.image_layouts import IMAGE_LAYOUTS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--vision", required=True, help="path or Hub id of the vision encoder")
    parser.add_argument("--language", required=True, help="path or Hub id of the language model")
    parser.add_argument("--output_dir", required=True, help="where the LLaVA goes")
    parser.add_argument("--projector_type", default="linear", help="linear (v1) or mlp2x_gelu (v1.5)")
    parser.add_argument(
        "--chat_template", default="vicuna_v1", help="a shipped name, a .jinja file, or 'tokenizer' for its own"
    )
    parser.add_argument(
        "--image_aspect_ratio",
        default="crop",
        choices=list(IMAGE_LAYOUTS),
        help="layout of images (v1: crop, v1.5: pad)",
    )
    parser.add_argument("--vision_feature_layer", type=int, nargs="+", default=[-2], help="hidden state(s) to read")
    parser.add_argument("--vision_feature_select_strategy", default="default", choices=("default", "full"))
    parser.add_argument("--dtype", default=None, help="of the weights; default: as the language model was saved")
    parser.add_argument("--seed", type=int, default=0, help="seed of the connector's fresh weights")
    parser.add_argument("--trust_remote_code", action="store_true", help="allow backbones that ship their own code")
    parser.set_defaults(run=_init)


def _init(args: argparse.Namespace) -> int:
    from transformers import set_seed

    from .building import build_llava, save_llava

    layers = args.vision_feature_layer
    set_seed(args.seed)
    model, processor = build_llava(
        args.vision,
        args.language,
        projector_type=args.projector_type,
        chat_template=None if args.chat_template == "tokenizer" else args.chat_template,
        image_aspect_ratio=args.image_aspect_ratio,
        vision_feature_layer=layers[0] if len(layers) == 1 else layers,
        vision_feature_select_strategy=args.vision_feature_select_strategy,
        dtype=args.dtype,
        trust_remote_code=args.trust_remote_code,
    )
    save_llava(model, processor, args.output_dir)
    tokens = f"{processor.num_image_tokens} tokens {'an image' if processor.layout.single_view else 'a view'}"
    print(f"{model.num_parameters():,} parameters, {tokens} -> {args.output_dir}")
    return 0
