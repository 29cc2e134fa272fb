"""Questions and answers, and the one protocol of what answers them: a local model, or a server.

`local_engine.LocalEngine` is a model in this process; `server_engine.ServerEngine` any OpenAI-compatible server.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from ..rows.images import ImageSource

FinishReason = Literal["stop", "length"]
Message = Mapping[str, Any]


@dataclass(frozen=True)
class Question:
    """One question to a model.

    Attributes:
        id: Whatever names it; its answer carries the same.
        prompt: Text of the question; the images stand before it. Either this or `messages`.
        messages: A whole conversation that ends with the user's turn, contents being strings or lists of blocks.
        images: One for each image block in `messages`, in order: a path, an open image, or `{"bytes": ...}`.
            Questions with the same images share their work.
        max_new_tokens: Longest answer, in tokens.
        choices: Possible answers. The model's likeliest one is taken, by its log-likelihood after the prompt, and
            nothing is generated.
        system: System message before `prompt`. Default: the chat template's own.
    """

    id: str
    prompt: str | None = None
    messages: Sequence[Message] | None = None
    images: Sequence[ImageSource] = ()
    max_new_tokens: int = 256
    choices: Sequence[str] | None = None
    system: str | None = None

    def __post_init__(self) -> None:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError(f"question {self.id!r}: give either prompt or messages, and not both.")
        if self.system is not None and self.messages is not None:
            raise ValueError(f"question {self.id!r}: put the system message into messages, as the first of them.")
        if self.choices is not None and not (self.choices and all(self.choices)):
            raise ValueError(f"question {self.id!r}: choices={self.choices!r}: give at least one, and none empty.")
        if self.max_new_tokens < 1:
            raise ValueError(f"question {self.id!r}: max_new_tokens={self.max_new_tokens}: give 1 or more.")

    def conversation(self) -> list[dict[str, Any]]:
        """The messages to be rendered, also for a question given as `prompt`."""
        if self.messages is not None:
            return [dict(message) for message in self.messages]
        turn = user_turn(self.prompt or "", len(self.images))
        return [turn] if self.system is None else [{"role": "system", "content": self.system}, turn]


@dataclass(frozen=True)
class Answer:
    """What came back for one question.

    Attributes:
        id: That of the question.
        text: The answer without its stop; None if there is none.
        finish_reason: `"stop"` if the model ended it (or a choice was taken), `"length"` if it was cut.
        error: Why there is no answer. An answer has either a text or an error.
        scores: Log-likelihood of each choice, in nats, where the question has choices.
    """

    id: str
    text: str | None
    finish_reason: FinishReason | None = None
    error: str | None = None
    scores: dict[str, float] = field(default_factory=dict)


class Engine(Protocol):
    """What answers questions."""

    def answer(self, questions: Iterable[Question]) -> Iterator[Answer]:
        """Answer questions, one `Answer` each, as they get ready and in no particular order.

        A question that cannot be answered (its image, its length, the server) gives an `Answer` with an error, and the
        others go on.
        """
        ...

    def boxes_in(self, text: str, width: int, height: int) -> list[list[float]] | None:
        """The boxes and points in an answer about a picture, in its pixels; None: it is not known how the model writes
        them.
        """
        ...


def user_turn(text: str, num_images: int) -> dict[str, Any]:
    """A question: so many images, then its text."""
    return {"role": "user", "content": [*({"type": "image"} for _ in range(num_images)), text_block(text)]}


def text_block(text: str) -> dict[str, Any]:
    """A block of text of a message."""
    return {"type": "text", "text": text}
