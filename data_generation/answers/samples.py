"""What filters look at: the questions and answers about one image, beside what the teacher was told of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..prompts import DATA_TYPES
from .forms import Exchange


@dataclass(frozen=True)
class Sample:
    """A parsed answer.

    Attributes:
        id: Of the row that it may become.
        type: Kind of data (a key of `DATA_TYPES`); None for a row that states none.
        image: Path of the image, or of the images; None for a sample of text.
        exchanges: Questions with their answers, in order.
        context: Captions and boxes that the teacher saw; None where they are not known (rows made elsewhere).
    """

    id: str
    type: str | None
    image: str | list[Any] | None
    exchanges: list[Exchange]
    context: Mapping[str, Any] | None = None

    @property
    def answers(self) -> list[str]:
        return [answer for _, answer in self.exchanges]

    @property
    def own_texts(self) -> list[str]:
        """Everything that the teacher wrote: where it wrote the questions too, these as well."""
        data_type = DATA_TYPES.get(self.type or "")
        if data_type is not None and data_type.writes_questions:
            return [text for exchange in self.exchanges for text in exchange]
        return self.answers


def quoted(text: str, limit: int = 80) -> str:
    """A piece of text for a reason, shortened."""
    text = " ".join(text.split())
    return repr(text if len(text) <= limit else f"{text[: limit - 3]}...")
