"""The turns of a conversation about images, whoever answers."""

from collections.abc import Sequence
from typing import Any

from ..rows.images import ImageSource
from .engine import FinishReason, user_turn


class Talk:
    """The turns so far, and what they are about.

    Args:
        system: System message. Default: the chat template's own.

    Attributes:
        images: The images that the conversation is about, opened.
        finish_reason: How the last answer ended: `"stop"`, or `"length"` where `max_new_tokens` cut it.
    """

    def __init__(self, system: str | None = None) -> None:
        self.system = system
        self.images: list[Any] = []
        self.finish_reason: FinishReason | None = None
        self._turns: list[dict[str, str]] = []

    @property
    def history(self) -> list[dict[str, str]]:
        """The turns so far, a copy: `[{"role": "user", "content": "..."}, {"role": "assistant", ...}, ...]`."""
        return [dict(turn) for turn in self._turns]

    def stop(self) -> None:
        """End an answer that is still being streamed: the model stops, and the question does not count as asked."""

    def undo(self) -> str | None:
        """Take back the last question with its answer.

        Returns:
            The question, or None where there is nothing to take back.
        """
        self.stop()
        if not self._turns:
            return None
        *self._turns, question, _ = self._turns
        return question["content"]

    def reset(self) -> None:
        """Forget the conversation; the image stays, and stays read."""
        self.stop()
        self._turns = []

    def _messages(self, question: str) -> list[dict[str, Any]]:
        """The whole conversation with a new question; the images stand before the first one."""
        messages: list[dict[str, Any]] = [] if self.system is None else [{"role": "system", "content": self.system}]
        first, *rest = [*self._turns, {"role": "user", "content": question}]
        return [*messages, user_turn(first["content"], len(self.images)), *rest]

    def _keep_turn(self, question: str, answer: str) -> None:
        """The turn joins the history."""
        self._turns += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def sources_of(image: ImageSource | Sequence[ImageSource] | None) -> Sequence[Any]:
    """One image, several or none, as a sequence."""
    return [] if image is None else image if isinstance(image, list | tuple) else [image]
