"""A chat with a model that a server has: the conversation of `ChatSession`, asked of OpenAI's chat format."""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, overload

from PIL import Image

from ..endpoints.options import RequestOptions
from ..processing.video_frames import is_video
from ..rows.images import ImageSource, open_image
from ..rows.schema import BadRow
from .engine import FinishReason, Question, text_block
from .generation import Sampling
from .server_engine import ServerEngine

SAMPLING = ("top_k", "seed")  # of `Sampling`, what is no field of OpenAI's format; most servers take them all the same


@dataclass(frozen=True)
class Server:
    """Where models are served.

    Args:
        base_url: Usually ending in `/v1`.
        api_key: Default: none, for a server that wants none.
        timeout: Most seconds of an answer.
    """

    base_url: str
    api_key: str | None = None
    timeout: float = 120.0


class ServedSession:
    """A conversation with a served model about one image, several, or none: the methods of `ChatSession`.

    The server reads the whole conversation with every turn. An answer comes as a whole.

    Args:
        model: As the server names it.
        server: Where it is.

    Attributes:
        images: The images that the conversation is about, opened.
        processor: None: what a server makes of a picture, and how its model writes boxes, it does not say.
        finish_reason: How the last answer ended: `"stop"`, or `"length"` where it was cut.
    """

    processor: None = None

    def __init__(self, model: str, server: Server) -> None:
        self.model, self.server = model, server
        self.images: list[Image.Image] = []
        self.finish_reason: FinishReason | None = None
        self._turns: list[dict[str, str]] = []

    @property
    def history(self) -> list[dict[str, str]]:
        """The turns so far, a copy."""
        return [dict(turn) for turn in self._turns]

    def set_image(self, image: ImageSource | Sequence[ImageSource] | None) -> None:
        """Talk about another image (or several, or none): the history starts anew.

        Raises:
            BadRow: It cannot be read, or is a video; the session stays as it was.
        """
        sources: Sequence[Any] = [] if image is None else image if isinstance(image, list | tuple) else [image]
        if any(is_video(source) for source in sources):
            raise BadRow("a server is shown pictures alone, and this is a video: show frames of it.", kind="video")
        images = [open_image(source, "image") for source in sources]
        self.reset()
        self.images = images

    @overload
    def ask(self, text: str, stream: Literal[True] = True, **sampling: Any) -> Iterator[str]: ...
    @overload
    def ask(self, text: str, stream: Literal[False], **sampling: Any) -> str: ...
    def ask(self, text: str, stream: bool = True, **sampling: Any) -> Iterator[str] | str:
        """Ask; the turn joins the history when the answer is read to its end. Arguments as in `ChatSession.ask`.

        Raises:
            ValueError: A setting is out of range, or no answer came: raised where the answer is read.
        """
        pieces = self._answer(text, Sampling(**sampling))
        return pieces if stream else "".join(pieces)

    def stop(self) -> None:
        """Nothing runs on between two pieces of an answer."""

    def undo(self) -> str | None:
        """Take back the last question with its answer; returns the question, or None where there is none."""
        if not self._turns:
            return None
        *self._turns, question, _ = self._turns
        return question["content"]

    def reset(self) -> None:
        """Forget the conversation; the image stays."""
        self._turns = []

    def _answer(self, text: str, sampling: Sampling) -> Iterator[str]:
        turns = [*self._turns, {"role": "user", "content": text}]
        first = {
            "role": "user",
            "content": [*({"type": "image"} for _ in self.images), text_block(turns[0]["content"])],
        }
        question = Question(
            "turn", messages=[first, *turns[1:]], images=self.images, max_new_tokens=sampling.max_new_tokens
        )
        given = {name: value for name in SAMPLING if (value := dataclasses.asdict(sampling)[name])}
        options = RequestOptions(sampling.temperature, sampling.top_p, extra_body=given or None)
        engine = ServerEngine(
            self.server.base_url,
            self.model,
            self.server.api_key,
            concurrency=1,
            timeout=self.server.timeout,
            max_retries=1,
            options=options,
        )
        [answer] = engine.answer([question])
        if answer.text is None:
            raise ValueError(f"{self.model} at {self.server.base_url}: {answer.error}")
        self.finish_reason = answer.finish_reason
        yield answer.text
        self._turns = [*turns, {"role": "assistant", "content": answer.text}]
