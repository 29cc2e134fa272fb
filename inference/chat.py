"""Ask a checkpoint about an image: one question, or a conversation in the terminal."""

import contextlib
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import torch
from PIL import Image

from ..checkpoints.loading import load_model, load_processor
from ..rows.images import open_visual, visual_at
from .answer_boxes import check_suffix, lines_of, save_marked
from .served_session import ServedSession, Server
from .session import ChatSession

HELP = """Ask a question. A path of a picture or video, typed or pasted, shows it; a question may follow.
/image PATH  another picture       /undo   take the last question back    /history  the conversation so far
/reset       forget the conversation       /quit   leave                          Ctrl-C    stop an answer"""

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi")

_FIRST_WORD = re.compile(
    r"""\s*(?:"(?P<double>[^"]+)"|'(?P<single>[^']+)'|(?P<plain>(?:\\.|[^\s\\])+))\s*(?P<rest>.*)"""
)


def load_llava(path: str, trust_remote_code: bool = False) -> tuple[Any, Any]:
    """Load a checkpoint and its processor for answering, on the GPU where there is one.

    Args:
        path: Folder or Hub id.
        trust_remote_code: Needed only for backbones that ship their own code.

    Returns:
        The model in eval mode, and the processor.

    Raises:
        DamagedFile: A file of the checkpoint is damaged; it is named.
        OSError: There is no checkpoint of that name.
    """
    processor = load_processor(path, trust_remote_code=trust_remote_code)
    model = load_model(path, trust_remote_code=trust_remote_code)
    device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    return model.to(device).eval(), processor


def chat(
    model_path: str,
    *,
    image: str | None = None,
    question: str | None = None,
    max_new_tokens: int = 256,
    temperature: float = 0.0,
    trust_remote_code: bool = False,
    draw_boxes: str | None = None,
    server: Server | None = None,
    read: Callable[[str], str] = input,
) -> None:
    """`llavakit chat`: print the answer to one question, or talk until the user leaves.

    Args:
        model_path: Folder or Hub id of the checkpoint.
        image: Path of a picture, or of a video, to talk about.
        question: Ask this alone. Default: a conversation.
        max_new_tokens: Longest answer, in tokens.
        temperature: Of sampling; 0 is greedy.
        trust_remote_code: Needed only for backbones that ship their own code.
        draw_boxes: Where the picture goes with the boxes of an answer on it, each time an answer has any.
        server: That has the model, by the name that `model_path` is. Default: it is loaded here.
        read: Asks the user for a line.

    Raises:
        ValueError: The picture cannot be read, or the question does not fit the model (in a conversation these are printed,
            and it goes on).
        OSError: There is no checkpoint of that name.
    """
    if draw_boxes is not None:
        check_suffix(draw_boxes)
    picture = None if image is None else visual_at(image)
    if picture is not None:
        open_visual(picture, "--image")  # before a model is loaded
    session: ChatSession | ServedSession
    if server is None:
        session = ChatSession(*load_llava(model_path, trust_remote_code))
    else:
        session = ServedSession(model_path, server)
    session.set_image(picture)
    settings: dict[str, Any] = {"max_new_tokens": max_new_tokens, "temperature": temperature}
    if question is not None:
        _print_answer(session, question, settings, draw_boxes)
        return
    with contextlib.suppress(ImportError):  # there is none on Windows
        import readline  # noqa: F401  gives `input` the arrow keys
    print(HELP)
    while True:
        try:
            line = read("> ").strip()
        except EOFError:
            return
        if line == "/quit":
            return
        try:
            _follow(session, line, settings, draw_boxes)
        except ValueError as error:
            print(error, file=sys.stderr)


def _follow(
    session: ChatSession | ServedSession, line: str, settings: dict[str, Any], draw_boxes: str | None = None
) -> None:
    """Do what a line says: a command, a picture, a question.

    Raises:
        ValueError: It cannot be done; the session is as before.
    """
    path, rest = pasted_image(line)
    if path is not None:
        session.set_image(visual_at(path))
        print(f"(looking at {path})")
        line = rest
    if line == "/undo":
        taken = session.undo()
        print("(there is nothing to take back)" if taken is None else f"(took back: {taken})")
    elif line == "/reset":
        session.reset()
    elif line == "/history":
        for turn in session.history:
            print(f"{'> ' if turn['role'] == 'user' else ''}{turn['content']}")
    elif line == "/image" or line.startswith("/image "):
        session.set_image(visual_at(_path_of(line.removeprefix("/image").strip())))
    elif line.startswith("/"):
        print(HELP)
    elif line:
        _print_answer(session, line, settings, draw_boxes)


def _print_answer(
    session: ChatSession | ServedSession, question: str, settings: dict[str, Any], draw_boxes: str | None = None
) -> None:
    """Print an answer as it comes, and then where its boxes lie. Ctrl-C stops it, and the question does not count as
    asked.
    """
    pieces = session.ask(question, **settings)
    try:
        for piece in pieces:
            print(piece, end="", flush=True)
        print()
    except KeyboardInterrupt:
        session.stop()
        print("\n(stopped; the question is taken back)")
        return
    if isinstance(session, ServedSession):
        return
    if len(session.images) == 1 and isinstance(image := session.images[0], Image.Image):
        _print_boxes(session, image, draw_boxes)  # of several, or of frames, no text says which it speaks of


def _print_boxes(session: ChatSession, image: Image.Image, draw_boxes: str | None) -> None:
    answer = session.history[-1]["content"]
    for line in lines_of(answer, session.processor, image.size):
        print(f"({line})")
    if draw_boxes is not None and save_marked(answer, session.processor, image, draw_boxes):
        print(f"(drawn: {draw_boxes})")


def pasted_image(line: str) -> tuple[str | None, str]:
    """A picture's path at the start of a line, as terminals paste it: bare, quoted, escaped, or a `file://` address.

    Args:
        line: What the user typed.

    Returns:
        The path of the file, or None if the line does not start with one; and the rest of the line.
    """
    if _is_picture(_path_of(line)):
        return _path_of(line), ""
    match = _FIRST_WORD.fullmatch(line)
    if match is None:
        return None, line
    path = _path_of(match["double"] or match["single"] or re.sub(r"\\(.)", r"\1", match["plain"]))
    return (path, match["rest"]) if _is_picture(path) else (None, line)


def _path_of(text: str) -> str:
    text = text.strip()
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        text = text[1:-1]
    if text.startswith("file://"):
        return unquote(text.removeprefix("file://").removeprefix("localhost"))
    return str(Path(text).expanduser()) if text.startswith("~") else text


def _is_picture(path: str) -> bool:
    """Whether a file is there whose name ends like a picture's or a video's. What is in it shows when it is opened."""
    try:
        return Path(path).suffix.lower() in PICTURE_SUFFIXES + VIDEO_SUFFIXES and Path(path).is_file()
    except (OSError, ValueError):  # too long for a path, or with a null character
        return False
