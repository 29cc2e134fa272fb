"""Conversations as they come, brought to the one shape that is rendered."""

from collections.abc import Mapping, Sequence
from typing import Any

from .video_frames import as_video

_PAYLOADS = ("image", "url", "path", "base64", "bytes")
_VIDEO_PAYLOADS = ("video", "frames", "url", "path", "bytes")


def normalize(conversation: Sequence[Mapping[str, Any]]) -> tuple[list[dict[str, Any]], list[Any]]:
    """Every content as a list of image and text blocks, and apart from it the images that the blocks carry, in order.

    A video block is an image block, and what it carries is `{"video": file}` or `{"frames": pictures}`.

    Keys without a value are dropped (`datasets` writes `{"type": "image", "text": None}`), and neighbouring texts are
    joined, so that no control string comes into being where two of them meet. The given messages are left as they are.

    Returns:
        `tuple[list[dict], list]`: The messages, and one entry an image block (None where it carries no image).

    Raises:
        ValueError: If a message has no role, or a block is neither image, video nor text.
    """
    messages, images = [], []
    for index, message in enumerate(getattr(conversation, "messages", conversation)):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise ValueError(f'message {index} is {message!r:.200}: give a dict with "role" and "content"')
        extra = {key: value for key, value in message.items() if value is not None}
        blocks: list[dict[str, Any]] = []
        for block in _blocks(message.get("content"), index):
            if block["type"] == "image":
                images.append(next((block[key] for key in _PAYLOADS if block.get(key) is not None), None))
                blocks.append({"type": "image"})
            elif block["type"] == "video":
                images.append(
                    as_video(next((block[key] for key in _VIDEO_PAYLOADS if block.get(key) is not None), None))
                )
                blocks.append({"type": "image"})
            elif not block.get("text"):
                continue
            elif blocks and blocks[-1]["type"] == "text":
                blocks[-1]["text"] += block["text"]
            else:
                blocks.append({"type": "text", "text": block["text"]})
        messages.append({**extra, "content": blocks})
    return messages, images


def _blocks(content: Any, index: int) -> list[Mapping[str, Any]]:
    if content is None:
        return []
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if isinstance(content, Mapping):
        content = [content]
    blocks = []
    for block in content:
        if isinstance(block, str):
            block = {"type": "text", "text": block}
        kind = block.get("type") if isinstance(block, Mapping) else None
        if kind == "image_url":  # as OpenAI's API writes it
            address = block["image_url"]
            block = {"type": "image", "url": address["url"] if isinstance(address, Mapping) else address}
        elif kind not in ("image", "video", "text"):
            raise ValueError(
                f'message {index} has a block {block!r:.200}: give {{"type": "image"}}, {{"type": "video"}} or {{"type": '
                '"text", "text": ...}'
            )
        blocks.append(block)
    return blocks


def flatten(messages: list[dict[str, Any]], image_token: str) -> list[dict[str, Any]]:
    """Contents as strings, for templates that do not read blocks: image tokens on lines of their own."""

    def text(blocks: list[dict[str, Any]]) -> str:
        return "\n".join(image_token if block["type"] == "image" else block["text"] for block in blocks)

    return [{**message, "content": text(message["content"])} for message in messages]


def texts_as_strings(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Contents of a single text block as strings, the others as they are."""

    def simple(blocks: list[dict[str, Any]]) -> Any:
        return blocks[0]["text"] if len(blocks) == 1 and blocks[0]["type"] == "text" else blocks

    return [{**message, "content": simple(message["content"])} for message in messages]


def shortened(messages: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """A conversation without its last exchange, without its last two, ... down to the first exchange.

    An exchange is a user message and all that follows it up to the next.
    """
    starts = [index for index, message in enumerate(messages) if message["role"] == "user"]
    # Two user messages in a row are one question: an exchange has an answer.
    starts = [index for index in starts[1:] if messages[index - 1]["role"] != "user"]
    return [messages[:index] for index in reversed(starts)]
