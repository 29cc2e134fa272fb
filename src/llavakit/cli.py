"""The command line: verbs to functions. Each verb imports what it needs when it runs."""

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path

from ._version import __version__

# The modules of data_generation that hold the steps of `llavakit data`, in the order in which data flows
DATA_STEPS = (
    "steps_of_contexts",
    "steps_of_teachers",
    "steps_of_filters",
    "steps_of_rules",
    "steps_of_viewing",
    "steps_of_mixing",
)

EVAL_STEPS = ("steps_of_evaluation", "steps_of_judging", "steps_of_ensemble")


def main(argv: Sequence[str] | None = None) -> int:
    """Run `llavakit VERB ...`.

    Args:
        argv: Arguments without the program's name. Default: those of the process.

    Returns:
        The exit status: 0 on success, 1 for an error of the user's that the message explains.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = _parser()
    if argv[:1] == ["sft"]:  # its flags are trl's, accelerate's and ours: all left to the parsers that know them
        return _sft(argv[1:])
    args = parser.parse_args(argv)
    run: Callable[[argparse.Namespace], int] | None = getattr(args, "run", None)
    if run is None:
        parser.print_help()
        return 0
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for quiet in ("httpx", "httpx2", "huggingface_hub", "filelock"):
        logging.getLogger(quiet).setLevel(logging.WARNING)
    try:
        return run(args)
    except (ValueError, OSError) as error:
        print(f"llavakit {args.verb}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="llavakit", description="Build, train, inspect and talk to your own LLaVA.")
    parser.add_argument("--version", action="version", version=f"llavakit {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB")

    quickstart = verbs.add_parser("quickstart", help="watch a small model learn to see: no network, no GPU, minutes")
    quickstart.add_argument(
        "--output_dir", default="runs/quickstart", help="where everything goes (default: %(default)s)"
    )
    quickstart.add_argument("--seed", type=int, default=0, help="seed of the world and the training")
    quickstart.set_defaults(run=_quickstart)

    ablations = verbs.add_parser(
        "ablations", help="measure what each part of the recipe is worth, on the quickstart's world"
    )
    ablations.add_argument(
        "--output_dir", default="runs/ablations", help="where everything goes (default: %(default)s)"
    )
    ablations.add_argument(
        "--seeds",
        type=int,
        nargs="+",
        default=[0],
        help="of the worlds and the training; more show how much is chance",
    )
    ablations.add_argument(
        "--scale", type=float, default=1.0, help="share of the steps, scenes and questions; 0.02 is a smoke run"
    )
    ablations.set_defaults(run=_ablations)

    init = verbs.add_parser("init", help="join a vision encoder and a language model: an untrained LLaVA")
    init.add_argument("--vision", required=True, help="path or Hub id of the vision encoder")
    init.add_argument("--language", required=True, help="path or Hub id of the language model")
    init.add_argument("--output_dir", required=True, help="where the LLaVA goes")
    init.add_argument("--projector_type", default="linear", help="linear (v1) or mlp2x_gelu (v1.5)")
    init.add_argument(
        "--chat_template", default="vicuna_v1", help="a shipped name, a .jinja file, or 'tokenizer' for its own"
    )
    init.add_argument("--image_aspect_ratio", default="crop", choices=("crop", "pad"), help="crop (v1) or pad (v1.5)")
    init.add_argument("--vision_feature_layer", type=int, nargs="+", default=[-2], help="hidden state(s) to read")
    init.add_argument("--vision_feature_select_strategy", default="default", choices=("default", "full"))
    init.add_argument("--dtype", default=None, help="of the weights; default: as the language model was saved")
    init.add_argument("--seed", type=int, default=0, help="seed of the connector's fresh weights")
    init.add_argument("--trust_remote_code", action="store_true", help="allow backbones that ship their own code")
    init.set_defaults(run=_init)

    verbs.add_parser(
        "sft", help="train a stage: every flag of `trl sft` and ours (llavakit sft --help)", add_help=False
    )

    inspect = verbs.add_parser(
        "inspect", help="check data before a GPU is rented: counts, lengths, what is in the loss"
    )
    inspect.add_argument("data", help="a .json, .jsonl or .parquet file, a folder, or a Hub id")
    inspect.add_argument("--model", required=True, help="the checkpoint whose processor will read the data")
    inspect.add_argument("--image_folder", default=None, help="where image paths start (default: the data's folder)")
    inspect.add_argument("--max_length", type=int, default=2048, help="longest sequence in training")
    inspect.add_argument("--rows", type=int, default=8, help="rows to show, spread over the data")
    inspect.add_argument("--html", default=None, help="also write a page here")
    inspect.add_argument("--chat_template", default=None, help="read with this template in place of the checkpoint's")
    inspect.add_argument("--split", default="train", help="split of a Hub data set")
    inspect.add_argument("--num_proc", type=int, default=None, help="processes that share the work")
    inspect.add_argument("--trust_remote_code", action="store_true")
    inspect.set_defaults(run=_inspect)

    chat = verbs.add_parser("chat", help="ask a checkpoint about an image, in the terminal or in the browser")
    chat.add_argument("model", nargs="+", help="path or Hub id of the checkpoint; with --web also a second one")
    chat.add_argument("--image", default=None, help="path of an image")
    chat.add_argument("--question", default=None, help="ask this, print the answer, and leave; else a loop")
    chat.add_argument("--max_new_tokens", type=int, default=256)
    chat.add_argument("--temperature", type=float, default=0.0, help="0 is greedy")
    chat.add_argument("--trust_remote_code", action="store_true")
    chat.add_argument("--web", action="store_true", help="a page in the browser; the flags below are its own")
    chat.add_argument("--host", default="127.0.0.1", help="address to bind to; any but this machine's needs --auth")
    chat.add_argument("--port", type=int, default=7860)
    chat.add_argument("--auth", default=None, metavar="USER:PASSWORD", help="ask visitors for it")
    chat.add_argument("--feedback", default="feedback.jsonl", help="where thumbs go (default: %(default)s)")
    chat.add_argument("--max_upload_mb", type=float, default=20, help="largest picture file (default: %(default)s)")
    chat.add_argument("--max_pixels", type=int, default=None, help="largest picture (default: about 89 million)")
    chat.set_defaults(run=_chat)

    data = verbs.add_parser("data", help="make training rows from annotated images")
    steps = data.add_subparsers(dest="step", metavar="STEP", required=True)
    for name in DATA_STEPS:
        import_module(f".data_generation.{name}", __package__).add_parsers(steps)

    evaluate = verbs.add_parser("eval", help="measure a checkpoint, or score answers, on the papers' benchmarks")
    steps = evaluate.add_subparsers(dest="step", metavar="STEP", required=True)
    for name in EVAL_STEPS:
        import_module(f".evaluation.{name}", __package__).add_parsers(steps)
    return parser


def _quickstart(args: argparse.Namespace) -> int:
    from .quickstart import run_quickstart

    run_quickstart(args.output_dir, seed=args.seed)
    return 0


def _ablations(args: argparse.Namespace) -> int:
    from .ablations import run_ablations

    run_ablations(args.output_dir, seeds=args.seeds, scale=args.scale)
    return 0


def _init(args: argparse.Namespace) -> int:
    from transformers import set_seed

    from .train.initialize import build_llava, save_llava

    template = None if args.chat_template == "tokenizer" else args.chat_template
    if template is not None and template.endswith((".jinja", ".j2")):
        template = Path(template).read_text(encoding="utf-8")
    layers = args.vision_feature_layer
    set_seed(args.seed)
    model, processor = build_llava(
        args.vision,
        args.language,
        projector_type=args.projector_type,
        chat_template=template,
        image_aspect_ratio=args.image_aspect_ratio,
        vision_feature_layer=layers[0] if len(layers) == 1 else layers,
        vision_feature_select_strategy=args.vision_feature_select_strategy,
        dtype=args.dtype,
        trust_remote_code=args.trust_remote_code,
    )
    save_llava(model, processor, args.output_dir)
    print(
        f"{model.num_parameters():,} parameters, {model.config.num_image_tokens} tokens an image -> {args.output_dir}"
    )
    return 0


def _sft(argv: list[str]) -> int:
    from .train.launch import launch_sft

    return launch_sft(argv)


def _inspect(args: argparse.Namespace) -> int:
    from .train.inspection import inspect_data

    inspect_data(
        args.data,
        args.model,
        image_folder=args.image_folder,
        max_length=args.max_length,
        num_rows=args.rows,
        html=args.html,
        chat_template=args.chat_template,
        split=args.split,
        num_proc=args.num_proc,
        trust_remote_code=args.trust_remote_code,
    )
    return 0


def _chat(args: argparse.Namespace) -> int:
    if args.web:
        return _chat_in_browser(args)
    from .inference.chat import chat

    if len(args.model) > 1:
        raise ValueError(f"{' '.join(args.model)!r}: two checkpoints are shown side by side with --web only.")
    chat(
        args.model[0],
        image=args.image,
        question=args.question,
        max_new_tokens=args.max_new_tokens,
        temperature=args.temperature,
        trust_remote_code=args.trust_remote_code,
    )
    return 0


def _chat_in_browser(args: argparse.Namespace) -> int:
    from .inference.web import chat_in_browser

    if args.image is not None or args.question is not None:
        raise ValueError("--image and --question go without --web: on the page they are given by hand.")
    chat_in_browser(
        args.model,
        host=args.host,
        port=args.port,
        auth=args.auth,
        feedback=args.feedback,
        max_upload_mb=args.max_upload_mb,
        max_pixels=args.max_pixels,
        max_new_tokens=args.max_new_tokens,
        temperature=args.temperature,
        trust_remote_code=args.trust_remote_code,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
