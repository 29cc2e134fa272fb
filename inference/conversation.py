"""One visitor's conversation with one model or several side by side: the same picture and the same questions for each."""

import contextlib
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ..reports.image_cuts import ImageCut
from .picture import UploadedPicture
from .served_session import ServedSession, Server
from .session import ChatSession

Turns = list[dict[str, str]]


class ChatModel(Protocol):
    """A model to talk with.

    Attributes:
        name: What it is called.
        processor: Its processor, where that is at hand.
    """

    @property
    def name(self) -> str: ...
    @property
    def processor(self) -> Any | None: ...
    def session(self) -> ChatSession | ServedSession:
        """A new conversation with it."""
        ...


@dataclass(frozen=True)
class NamedModel:
    """A model in this process.

    Attributes:
        name: Path or Hub id of its checkpoint.
        model: The model, in eval mode.
        processor: Its processor.
    """

    name: str
    model: Any
    processor: Any

    def session(self) -> ChatSession:
        return ChatSession(self.model, self.processor)


@dataclass(frozen=True)
class ServedModel:
    """A model that a server has.

    Attributes:
        name: As the server names it.
        server: Where it is.
    """

    name: str
    server: Server
    processor: None = None

    def session(self) -> ServedSession:
        return ServedSession(self.name, self.server)


class Conversation:
    """A conversation in which every model has been asked the same: a question counts when all have answered it.

    Its methods may be called from any thread. Whatever changes the conversation first stops an answer that still runs.

    Args:
        models: One or more.

    Attributes:
        picture: What the conversation is about.
    """

    def __init__(self, models: Sequence[ChatModel]) -> None:
        self.models = list(models)
        self.picture: UploadedPicture | None = None
        self._sessions = [named.session() for named in self.models]
        self._settings: list[dict[str, Any]] = []  # those of each answered question
        self._id = uuid.uuid4().hex
        self._stopping = False
        # Held from a question to the end of its answers
        self._busy = threading.Lock()

    @property
    def histories(self) -> list[Turns]:
        """The turns with each model."""
        return [session.history for session in self._sessions]

    @property
    def cuts(self) -> list[ImageCut]:
        """What each model's processor makes of the picture; none without one, and of a server none is known."""
        if self.picture is None:
            return []
        size = self.picture.image.size
        return [ImageCut.of(named.processor, *size) for named in self.models if named.processor is not None]

    def show(self, picture: UploadedPicture | None) -> None:
        """Talk about another picture, or none: the conversation starts anew."""
        with self._alone():
            for session in self._sessions:
                session.set_image(None if picture is None else picture.image)
            self.picture = picture
            self._settings = []
            self._id = uuid.uuid4().hex

    def ask(self, question: str, settings: Mapping[str, Any]) -> Iterator[list[Turns]]:
        """Ask every model, and read their answers as they come.

        Args:
            question: The same for all.
            settings: Fields of `Sampling`.

        Yields:
            The turns with each model, the unfinished ones too. A stream that is stopped or closed early takes the
            question back, and so does a failure.

        Raises:
            ValueError: The question does not fit one of the models, or a setting is out of range; the message names
                the model. The conversation goes on as before.
        """
        with self._alone():
            before = self.histories
            streams: list[Iterator[str]] = []
            try:
                for named, session in zip(self.models, self._sessions, strict=True):
                    try:
                        streams.append(session.ask(question, **settings))
                    except ValueError as error:
                        raise ValueError(f"{named.name}: {error}") from error
                for answers in self._together(streams):
                    yield [
                        [*turns, {"role": "user", "content": question}, {"role": "assistant", "content": answer}]
                        for turns, answer in zip(before, answers, strict=True)
                    ]
            finally:
                for session in self._sessions:
                    session.stop()
                if all(len(session.history) > len(before[0]) for session in self._sessions):
                    self._settings.append(dict(settings))
                else:
                    self._take_back(len(before[0]))

    def stop(self) -> None:
        """End an answer that still runs, if there is one; its question is taken back."""
        self._stopping = True

    def undo(self) -> str | None:
        """Take back the last question with its answers.

        Returns:
            The question, or None where there is nothing to take back.
        """
        with self._alone():
            if not self._settings:
                return None
            self._settings.pop()
            return [session.undo() for session in self._sessions][0]

    def reset(self) -> None:
        """Forget the conversation; the picture stays."""
        with self._alone():
            for session in self._sessions:
                session.reset()
            self._settings = []
            self._id = uuid.uuid4().hex

    def answer(self, model: int, place: int) -> dict[str, Any] | None:
        """What there is to say about one answer.

        Args:
            model: Whose, by its place among the models.
            place: Of the answer among the turns.

        Returns:
            `{"id", "model", "messages", "sampling"}`, the messages up to the answer; None where no answer stands.
        """
        turns = self._sessions[model].history
        if not 0 <= place < len(turns) or turns[place]["role"] != "assistant":
            return None
        name = f"{self._id}-{model}-{place // 2}"
        messages, sampling = turns[: place + 1], self._settings[place // 2]
        return {"id": name, "model": self.models[model].name, "messages": messages, "sampling": sampling}

    def _together(self, streams: Sequence[Iterator[str]]) -> Iterator[list[str]]:
        """The answers so far, after each round of one piece from every model that still speaks."""
        answers = [""] * len(streams)
        speaking = dict(enumerate(streams))
        yield list(answers)
        while speaking and not self._stopping:
            for number, stream in list(speaking.items()):
                piece = next(stream, None)
                if piece is None:
                    del speaking[number]
                else:
                    answers[number] += piece
            yield list(answers)

    def _take_back(self, num_turns: int) -> None:
        for session in self._sessions:
            while len(session.history) > num_turns:
                session.undo()

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """The conversation for one caller: an answer that still runs is stopped and waited for."""
        self._stopping = True
        with self._busy:
            self._stopping = False
            yield
