"""What is asked of a model: one answer."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..rows.images import data_uri

Message = dict[str, Any]


@dataclass(frozen=True)
class Request:
    """One call to a model.

    Attributes:
        key: `<context id>/<type>`, unique in a run.
        context_id: Id of the context.
        type: Kind of data asked for, a folder under `prompts/`.
        context: The context itself; a teacher that works by rule answers from it.
        messages: The chat in OpenAI's format. A picture stands in it as a content part whose URL is still a path;
            `chat_messages` puts the picture's bytes in its place, so that waiting requests stay small.
        max_tokens: Longest answer, in tokens.
        question: The question that the answer is for, where it was drawn beforehand and not left to the teacher.
        image: Path of the picture that goes along; None for a teacher that sees text only.
        response_format: OpenAI's `response_format`, where the answer must keep to a JSON schema.
        fields: Further fields of the call's body.
    """

    key: str
    context_id: str
    type: str
    context: Mapping[str, Any]
    messages: list[Message]
    max_tokens: int
    question: str | None = None
    image: str | None = None
    response_format: dict[str, Any] | None = None
    fields: Mapping[str, Any] | None = None

    def chat_messages(self) -> list[Message]:
        """The messages as an endpoint takes them, the picture as a data URI.

        Raises:
            ValueError: The picture is missing, or the file is none.
        """
        if self.image is None:
            return self.messages
        uri = data_uri(self.image, self.key)
        return [{**message, "content": _with_picture(message["content"], uri)} for message in self.messages]


def _with_picture(content: str | list[dict[str, Any]], uri: str) -> str | list[dict[str, Any]]:
    if isinstance(content, str):
        return content
    return [{**part, "image_url": {"url": uri}} if part["type"] == "image_url" else part for part in content]
