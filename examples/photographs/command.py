"""`llavakit photographs`."""

import argparse
from dataclasses import replace

from ..modeling_llava.connectors import CONNECTORS, PatchwiseConnector
from .recipe import PRECISIONS, Recipe


def add_arguments(parser: argparse.ArgumentParser) -> None:
    recipe = Recipe()
    parser.add_argument("folder", help="FOLDER/train/LABEL/* and FOLDER/validation/LABEL/*, or FOLDER/LABEL/*")
    parser.add_argument(
        "--output_dir", default="runs/photographs", help="where everything goes (default: %(default)s)"
    )
    parser.add_argument(
        "--vision", default=recipe.vision, help="path or Hub id of the vision encoder (default: %(default)s)"
    )
    parser.add_argument(
        "--language", default=recipe.language, help="path or Hub id of the language model (default: %(default)s)"
    )
    parser.add_argument(
        "--image_size",
        type=int,
        default=recipe.image_size,
        help="pixels of a side, for an encoder that interpolates its positions; 0 for the size of its image processor "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--projector_type",
        default=recipe.projector_type,
        choices=list(CONNECTORS),
        help="connector (default: %(default)s)",
    )
    parser.add_argument(
        "--pooled_tokens",
        type=int,
        help="average the patches of a photograph to so many tokens, a square number; 0 for a token a patch (default: "
        f"{recipe.pooled_tokens}, but for a connector with a number of its own)",
    )
    parser.add_argument(
        "--vision_feature_layer",
        type=int,
        nargs="+",
        default=[*recipe.vision_feature_layers],
        help="hidden state(s) of the encoder that the connector reads (default: %(default)s; -1 is the last)",
    )
    parser.add_argument(
        "--chat_template",
        default=recipe.chat_template,
        help="a shipped name, a .jinja file, or 'tokenizer' for the language model's own (default: ChatML "
        "without a system prompt)",
    )
    parser.add_argument(
        "--align_epochs", type=float, default=recipe.align.epochs, help="of stage 1 (default: %(default)s)"
    )
    parser.add_argument(
        "--instruct_epochs", type=float, default=recipe.instruct.epochs, help="of stage 2 (default: %(default)s)"
    )
    parser.add_argument(
        "--precision", default="auto", choices=PRECISIONS, help="of the arithmetic; the weights are float32"
    )
    parser.add_argument(
        "--mirrored",
        action=argparse.BooleanOptionalAction,
        default=recipe.mirrored,
        help="learn from each training photograph a second time, left and right exchanged; not for labels that tell "
        "left from right (default: %(default)s)",
    )
    parser.add_argument(
        "--crops",
        type=int,
        default=recipe.crops,
        help="between the stages let the vision encoder learn too, from so many random crops of each training photograph "
        "(default: %(default)s, it stays as it is)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the rows and the training")
    parser.set_defaults(run=_photographs)


def _photographs(args: argparse.Namespace) -> int:
    from .pipeline import run_photographs

    pooled_tokens = args.pooled_tokens
    if pooled_tokens is None and issubclass(CONNECTORS[args.projector_type], PatchwiseConnector):
        pooled_tokens = Recipe().pooled_tokens
    recipe = Recipe(
        vision=args.vision,
        language=args.language,
        image_size=args.image_size or None,
        projector_type=args.projector_type,
        pooled_tokens=pooled_tokens or None,
        vision_feature_layers=tuple(args.vision_feature_layer),
        chat_template=args.chat_template,
        mirrored=args.mirrored,
        crops=args.crops,
        seed=args.seed,
    )
    recipe = replace(
        recipe,
        align=replace(recipe.align, epochs=args.align_epochs),
        instruct=replace(recipe.instruct, epochs=args.instruct_epochs),
    )
    run_photographs(args.folder, args.output_dir, recipe, args.precision)
    return 0
