"""`llavakit chat`: ask a checkpoint about an image, in the terminal or in the browser."""

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .served_session import Server


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", nargs="+", help="path or Hub id of the checkpoint; with --web also a second one")
    parser.add_argument("--image", default=None, help="path of an image or a video")
    parser.add_argument("--question", default=None, help="ask this, print the answer, and leave; else a loop")
    parser.add_argument("--max_new_tokens", type=int, default=256)
    parser.add_argument("--temperature", type=float, default=0.0, help="0 is greedy")
    parser.add_argument(
        "--draw_boxes", default=None, metavar="FILE", help="save the picture here with the boxes of an answer on it"
    )
    parser.add_argument("--trust_remote_code", action="store_true")
    parser.add_argument(
        "--base_url", default=None, metavar="URL", help="of an OpenAI-compatible server (.../v1) that has the model"
    )
    parser.add_argument("--api_key_env", default="OPENAI_API_KEY", help="variable with the server's key (%(default)s)")
    parser.add_argument("--web", action="store_true", help="a page in the browser; the flags below are its own")
    parser.add_argument("--host", default="127.0.0.1", help="address to bind to; any but this machine's needs --auth")
    parser.add_argument("--port", type=int, default=7860)
    parser.add_argument("--auth", default=None, metavar="USER:PASSWORD", help="ask visitors for it")
    parser.add_argument("--feedback", default="feedback.jsonl", help="where thumbs go (default: %(default)s)")
    parser.add_argument("--max_upload_mb", type=float, default=20, help="largest picture file (default: %(default)s)")
    parser.add_argument("--max_pixels", type=int, default=None, help="largest picture (default: about 89 million)")
    parser.set_defaults(run=_chat)


def _chat(args: argparse.Namespace) -> int:
    if args.web:
        return _chat_in_browser(args)
    from .chat import chat

    if len(args.model) > 1:
        raise ValueError(f"{' '.join(args.model)!r}: two checkpoints are shown side by side with --web only.")
    chat(
        args.model[0],
        image=args.image,
        question=args.question,
        max_new_tokens=args.max_new_tokens,
        temperature=args.temperature,
        trust_remote_code=args.trust_remote_code,
        draw_boxes=args.draw_boxes,
        server=_server(args),
    )
    return 0


def _server(args: argparse.Namespace) -> "Server | None":
    """Where the models are served, if they are."""
    from ..endpoints.client import api_key_from
    from .served_session import Server

    if args.base_url is None:
        return None
    if args.draw_boxes is not None:
        raise ValueError("--draw_boxes goes without --base_url: a server does not say how its model writes boxes.")
    return Server(args.base_url, api_key_from(args.api_key_env, args.base_url))


def _chat_in_browser(args: argparse.Namespace) -> int:
    from .web import chat_in_browser

    if args.image is not None or args.question is not None:
        raise ValueError("--image and --question go without --web: on the page they are given by hand.")
    if args.draw_boxes is not None:
        raise ValueError("--draw_boxes goes without --web: the page shows boxes by itself.")
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
        server=_server(args),
    )
    return 0
