"""Messages of conversations, in few words."""

from typing import Any

IMAGE = {"type": "image"}


def text(content: str) -> dict[str, Any]:
    return {"type": "text", "text": content}


def turns(*contents: Any) -> list[dict[str, Any]]:
    """User, assistant, user, ..."""
    return [{"role": ("user", "assistant")[i % 2], "content": content} for i, content in enumerate(contents)]
