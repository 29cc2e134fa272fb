"""`llavakit chat --web`: a page in the browser to talk with a checkpoint, or with two side by side."""

import ipaddress
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..rows.extras import require
from ..rows.images import MAX_IMAGE_PIXELS
from .chat import load_llava
from .conversation import ChatModel, NamedModel, ServedModel
from .feedback import Feedback
from .generation import Sampling
from .picture import UploadLimits
from .served_session import Server

if TYPE_CHECKING:
    from gradio import Blocks

TALKS = 100  # that are kept; the longest unused one goes first


@dataclass(frozen=True)
class Address:
    """Where the page is to be had, and by whom.

    Attributes:
        host: Address to bind to. Any other than this machine's own needs `auth`.
        port: A free one.
        auth: `user:password`. Default: everybody who reaches the address.
    """

    host: str = "127.0.0.1"
    port: int = 7860
    auth: str | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.port <= 65535:
            raise ValueError(f"--port {self.port}: give 1 to 65535.")
        if self.auth is not None and not all(self.credentials or ("",)):
            raise ValueError("--auth must be USER:PASSWORD, neither of them empty.")
        if self.auth is None and not _is_loopback(self.host):
            raise ValueError(
                f"--host {self.host} lets others reach the page: add --auth USER:PASSWORD, or leave --host out to be "
                "reached from this machine alone."
            )

    @property
    def credentials(self) -> tuple[str, str] | None:
        """User and password."""
        if self.auth is None:
            return None
        user, _, password = self.auth.partition(":")
        return user, password


def chat_in_browser(
    model_paths: Sequence[str],
    *,
    host: str = "127.0.0.1",
    port: int = 7860,
    auth: str | None = None,
    feedback: str | os.PathLike = "feedback.jsonl",
    max_upload_mb: float = 20,
    max_pixels: int | None = None,
    max_new_tokens: int = 256,
    temperature: float = 0.0,
    trust_remote_code: bool = False,
    server: Server | None = None,
) -> None:
    """Serve the page until it is interrupted.

    Args:
        model_paths: Folder or Hub id of one checkpoint, or of two to be asked side by side.
        host: Address to bind to; any other than this machine's own needs `auth`.
        port: A free one.
        auth: `user:password`.
        feedback: The `.jsonl` file that thumbs go to.
        max_upload_mb: Largest file of a picture, in millions of bytes.
        max_pixels: Most pixels of a picture. Default: `train.images.MAX_IMAGE_PIXELS`, which is also the most.
        max_new_tokens: Longest answer in tokens, to begin with.
        temperature: Of sampling, to begin with; 0 is greedy.
        trust_remote_code: Needed only for backbones that ship their own code.
        server: That has the models, by the names that `model_paths` gives. Default: they are loaded here.

    Raises:
        ValueError: An argument is out of range, or gradio is not installed.
        OSError: There is no checkpoint of that name, or the port is taken.
    """
    if not 1 <= len(set(model_paths)) == len(model_paths) <= 2:
        raise ValueError(f"{' '.join(model_paths)!r}: name one checkpoint, or two different ones to compare.")
    address = Address(host, port, auth)
    limits = UploadLimits(
        max_bytes=int(max_upload_mb * 1_000_000),
        max_pixels=MAX_IMAGE_PIXELS if max_pixels is None else max_pixels,
    )
    settings = Sampling(max_new_tokens=max_new_tokens, temperature=temperature)
    kept = Feedback(feedback)
    require("gradio", "web")
    from .web_page import build_page

    models: list[ChatModel] = [
        NamedModel(path, *load_llava(path, trust_remote_code)) if server is None else ServedModel(path, server)
        for path in model_paths
    ]
    with upload_folder():
        page = build_page(models, kept, limits, settings)
        launch(page, address, limits)
        print(f"Talk at http://{host}:{port} (Ctrl-C ends it); thumbs go to {kept.path}", flush=True)
        page.block_thread()


def launch(page: "Blocks", address: Address, limits: UploadLimits) -> None:
    """Start the server of a page, in a thread of its own.

    Raises:
        OSError: The port is taken.
    """
    from .web_page import STYLE, THEME

    page.launch(
        server_name=address.host,
        server_port=address.port,
        auth=address.credentials,
        max_file_size=limits.max_bytes,
        theme=THEME,
        css=STYLE,
        state_session_capacity=TALKS,
        prevent_thread_lock=True,
        # Nothing leaves this machine, and there is no more to reach than the page
        share=False,
        enable_monitoring=False,
        mcp_server=False,
        run_history=False,
        ssr_mode=False,
        footer_links=[],
        quiet=True,
    )


@contextmanager
def upload_folder() -> Iterator[None]:
    """Uploads go to a folder that only this user may read and that is gone at the end."""
    with tempfile.TemporaryDirectory(prefix="llavakit-web-") as folder:
        before = os.environ.get("GRADIO_TEMP_DIR")
        os.environ["GRADIO_TEMP_DIR"] = folder
        try:
            yield
        finally:
            os.environ.pop("GRADIO_TEMP_DIR")
            if before is not None:
                os.environ["GRADIO_TEMP_DIR"] = before


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name, which may resolve to anything
        return False
