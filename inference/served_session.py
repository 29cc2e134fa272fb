"""A chat with a model that a server has: the conversation of `ChatSession`, asked of OpenAI's chat format."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, overload

from ..endpoints.options import RequestOptions
from ..processing.video_frames import is_video
from ..rows.images import ImageSource, open_image
from ..rows.schema import BadRow
from .engine import Question
from .generation import Sampling
from .server_engine import ServerEngine
from .turns import Talk, sources_of


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


class ServedSession(Talk):
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
        super().__init__()
        self.model, self.server = model, server

    def set_image(self, image: ImageSource | Sequence[ImageSource] | None) -> None:
        """Talk about another image (or several, or none): the history starts anew.

        Raises:
            BadRow: It cannot be read, or is a video; the session stays as it was.
        """
        sources = sources_of(image)
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

    def _answer(self, text: str, sampling: Sampling) -> Iterator[str]:
        question = Question(
            "turn", messages=self._messages(text), images=self.images, max_new_tokens=sampling.max_new_tokens
        )
        # No fields of OpenAI's format, and taken by most servers all the same
        beyond = {"top_k": sampling.top_k or None, "seed": sampling.seed}
        given = {name: value for name, value in beyond.items() if value is not None}
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
        self._keep_turn(text, answer.text)
