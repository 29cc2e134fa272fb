"""One row of training data, from either format on disk to the one form that the rest of the library reads.

The original's row::

    {"id": "000001", "image": "a.jpg" or null, "conversations": [{"from": "human", "value": "<image>\\nWhat is it?"},
                                                                 {"from": "gpt", "value": "A cat."}]}

The ecosystem's row, and the form everything here works on::

    {"images": ["a.jpg"], "messages": [{"role": "user", "content": [{"type": "image"},
                                                                    {"type": "text", "text": "What is it?"}]},
                                       {"role": "assistant", "content": [{"type": "text", "text": "A cat."}]}]}

In the original's human turns ``<image>`` is a placeholder, and whether it stands before or after the question is
data (equation 2 of arXiv:2304.08485), so it becomes a block in its place. Everywhere else ``<image>`` is text.

A video is an image whose views are its frames. A row names it under ``video`` (the ecosystem's under ``videos``, or in
a block of type ``video``), as a path or as a list of frames. Its place is ``<video>``, or ``<image>`` where there is no
``<video>``, as in LLaVA-NeXT-Video's files; in a row without a video ``<video>`` is text. In the one form it stands among
the images, as ``{"video": path}`` or ``{"frames": [...]}``.
"""

import hashlib
import itertools
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

from ..processing.video_frames import as_video, is_video

IMAGE_PLACEHOLDER = "<image>"
VIDEO_PLACEHOLDER = "<video>"
SPEAKERS = ("human", "gpt")
ROLES = {"human": "user", "gpt": "assistant", "system": "system"}

Row = dict[str, Any]

_SURROGATE = re.compile(r"[\ud800-\udfff]")


BAD_ROW_KINDS = {
    "format": "not a row of either format",
    "turns": "roles unknown or out of turn",
    "empty answer": "an answer without text",
    "image count": "images and places for them differ in number",
    "image path": "an image path that is not allowed",
    "image missing": "an image file that is not there",
    "image unreadable": "an image that cannot be read",
    "image format": "an image in a format that is not read here (HEIC, AVIF, SVG)",
    "image too large": "an image large enough to be a decompression bomb",
    "video count": "videos and places for them differ in number",
    "video path": "a video path that is not allowed",
    "video missing": "a video file that is not there",
    "video unreadable": "a video that cannot be read, or ends early",
    "video too large": "a video of too many pixels or frames",
    "template": "the chat template refuses the conversation",
    "too long": "the first exchange is longer than max_length",
    "too many tokens": "images that take more tokens than the language model has positions",
    "nothing supervised": "the chat template marks nothing as supervised",
}


class BadRow(ValueError):
    """A row that cannot be trained on. The message names the row, the value at fault and the remedy.

    Args:
        message: All of that.
        kind: What sort of fault it is: a key of `BAD_ROW_KINDS`.
    """

    def __init__(self, message: str, kind: str = "format"):
        super().__init__(message)
        self.kind = kind


def row_name(row: Mapping[str, Any], index: int | None = None) -> str:
    """What an error calls this row: its position in the file, its id, or both."""
    names = [] if index is None else [f"row {index}"]
    if row.get("id") is not None:
        names.append(f"id {row['id']!r}")
    return ", ".join(names) or "a row without an id"


def make_row(
    row_id: str, image: Any, exchanges: Iterable[tuple[str, str]], *, image_first: bool = True, **described: Any
) -> Row:
    """A row of the original's format.

    Args:
        row_id: Names it.
        image: What its picture is found by; None for a conversation without one.
        exchanges: Questions with their answers.
        image_first: Whether the placeholder stands before the first question or after it (equation 2 of
            arXiv:2304.08485).
        described: What else is said of the row, such as its `type`; it stands after the id.
    """
    values = [value for exchange in exchanges for value in exchange]
    if image is not None:
        asked = (IMAGE_PLACEHOLDER, values[0]) if image_first else (values[0], IMAGE_PLACEHOLDER)
        values[0] = "\n".join(asked)
    turns = [
        {"from": speaker, "value": value} for speaker, value in zip(itertools.cycle(SPEAKERS), values, strict=False)
    ]
    return {"id": row_id, **described, "image": image, "conversations": turns}


def normalize_row(row: Mapping[str, Any], index: int | None = None) -> Row:
    """Read a row of either format.

    Args:
        row: A row as section "formats" of the README has it. It is not changed.
        index: Position in its file or data set, for error messages.

    Returns:
        `{"id": str or None, "images": list, "messages": list}`. Every content is a list of blocks
        `{"type": "image"}` or `{"type": "text", "text": str}`; each image has its block. A video is one of the images.

    Raises:
        BadRow: Unknown role, turns that do not alternate, an empty answer, no answer at all, or a number of image
            places that differs from the number of images.
    """
    if not isinstance(row, Mapping):
        raise BadRow(f"row {index} is {row!r:.100}; it must be an object with 'conversations' or 'messages'.")
    name = row_name(row, index)
    if row.get("conversations") is not None:
        images, messages = _read_original(row, name)
    elif row.get("messages") is not None:
        images, messages = _read_messages(row, name)
    else:
        raise BadRow(f"{name} has neither 'conversations' nor 'messages' (keys: {sorted(row)}); see README, formats.")
    _check_turns(messages, name)
    num_places = sum(block["type"] == "image" for message in messages for block in message["content"])
    if num_places != len(images):
        raise BadRow(
            f"{name} has {len(images)} image(s) but {num_places} place(s) for one. Write {IMAGE_PLACEHOLDER!r} once per "
            "image in the human turns ('conversations'), or one {'type': 'image'} block per image ('messages').",
            kind="image count",
        )
    row_id = row.get("id")
    return {"id": None if row_id is None else str(row_id), "images": images, "messages": messages}


def _read_original(row: Mapping[str, Any], name: str) -> tuple[list[Any], list[dict[str, Any]]]:
    messages: list[dict[str, Any]] = []
    images, videos = _as_list(row.get("image")), videos_of(row)
    own: list[tuple[str, Any]] = []
    for turn in _turns(row, "conversations", name):
        speaker, value = turn.get("from"), turn.get("value")
        if speaker not in ROLES:
            raise BadRow(f"{name}: unknown role {speaker!r} in 'from'; known are {sorted(ROLES)}.", kind="turns")
        if not isinstance(value, str):
            raise BadRow(f"{name}: the 'value' of a {speaker!r} turn is {value!r}; it must be a string.")
        if speaker == "gpt" and not messages:
            continue  # ShareGPT rows can open with the assistant; nothing precedes that turn, so nothing is supervised
        content = [{"type": "text", "text": value}]
        if speaker == "human":
            content = _blocks_of_human_turn(value, own, with_videos=bool(videos))
        messages.append({"role": ROLES[speaker], "content": content})
    if videos and all(kind == "image" for kind, _ in own):
        return [*images, *videos], messages
    return _in_places(own, images, videos, name), messages


def _turns(row: Mapping[str, Any], key: str, name: str) -> list[Mapping[str, Any]]:
    turns = row[key]
    if not isinstance(turns, list | tuple) or not all(isinstance(turn, Mapping) for turn in turns):
        raise BadRow(f"{name}: {key!r} is {turns!r:.100}; it must be a list of objects, one a turn.")
    return list(turns)


def images_of(row: Mapping[str, Any]) -> list[Any]:
    """The images of a row of either format, as they stand there: none, one, or several."""
    return _as_list(row["images"] if row.get("images") is not None else row.get("image"))


def videos_of(row: Mapping[str, Any]) -> list[Any]:
    """The videos of a row of either format, each as `{"video": file}` or `{"frames": pictures}`."""
    videos = row["videos"] if row.get("videos") is not None else [row.get("video")]
    return [as_video(video) for video in videos if video is not None]


def _in_places(own: list[tuple[str, Any]], images: list[Any], videos: list[Any], name: str) -> list[Any]:
    """Images and videos in the order of their places: what a place carries itself, else the next of the row's.

    Raises:
        BadRow: Videos and places for them differ in number.
    """
    others = {"image": iter(images), "video": iter(videos)}
    found = [next(others[kind], None) if one is None else one for kind, one in own]
    found += [*others["image"], *others["video"]]
    found = [one for one in found if one is not None]
    num_videos, num_places = sum(map(is_video, found)), sum(kind == "video" for kind, _ in own)
    if num_videos != num_places:
        raise BadRow(
            f"{name} has {num_videos} video(s) but {num_places} place(s) for one. Write {VIDEO_PLACEHOLDER!r} once per video "
            "in the human turns ('conversations'), or one {'type': 'video'} block per video ('messages').",
            kind="video count",
        )
    return found


def _as_list(images: Any) -> list[Any]:
    return [] if images is None else list(images) if isinstance(images, list | tuple) else [images]


def _blocks_of_human_turn(value: str, own: list[tuple[str, Any]], with_videos: bool) -> list[dict[str, str]]:
    """The blocks of a human turn; to `own` goes what each placeholder is for."""
    placeholders = {IMAGE_PLACEHOLDER: "image"} | ({VIDEO_PLACEHOLDER: "video"} if with_videos else {})
    pieces = re.split(f"({'|'.join(placeholders)})", value)
    if len(pieces) == 1:
        return [{"type": "text", "text": value}]
    blocks: list[dict[str, str]] = []
    for piece in pieces:
        if piece in placeholders:
            own.append((placeholders[piece], None))
            blocks.append({"type": "image"})
        # The line break between a picture and its text is the template's to write, as in the original's preparation
        elif piece.strip():
            blocks.append({"type": "text", "text": piece.strip()})
    return blocks


def _read_messages(row: Mapping[str, Any], name: str) -> tuple[list[Any], list[dict[str, Any]]]:
    images, videos = images_of(row), videos_of(row)
    turns = _turns(row, "messages", name)
    own: list[tuple[str, Any]] = []
    messages: list[dict[str, Any]] = [
        {"role": turn.get("role"), "content": _blocks(turn.get("content"), name, own)} for turn in turns
    ]
    first_user = next((message for message in messages if message["role"] == "user"), None)
    # As trl has it: strings say nothing of the place, so what has no block of its kind stands before the first question
    unplaced = [
        (kind, None)
        for kind, given in (("image", images), ("video", videos))
        if all(kind != placed for placed, _ in own)
        for _ in given
    ]
    if unplaced and first_user is not None:
        before = itertools.takewhile(lambda message: message is not first_user, messages)
        start = sum(block["type"] == "image" for message in before for block in message["content"])
        own[start:start] = unplaced
        first_user["content"] = [{"type": "image"} for _ in unplaced] + first_user["content"]
    return _in_places(own, images, videos, name), messages


def _blocks(content: Any, name: str, own: list[tuple[str, Any]]) -> list[dict[str, str]]:
    """The blocks of a content; to `own` goes the kind of each place, and the picture or video that it carries, or None."""
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if not isinstance(content, list | tuple):
        raise BadRow(f"{name}: a 'content' is {content!r}; it must be a string or a list of blocks.")
    blocks = []
    for block in content:
        if not isinstance(block, Mapping):
            raise BadRow(f"{name}: a block of a 'content' is {block!r:.100}; it must be an object with a 'type'.")
        if block.get("type") in ("image", "image_url"):
            own.append(("image", _image_of_block(block, name)))
            blocks.append({"type": "image"})
        elif block.get("type") == "video":
            own.append(("video", _video_of_block(block, name)))
            blocks.append({"type": "image"})
        elif block.get("type") == "text" and isinstance(block.get("text"), str):
            blocks.append({"type": "text", "text": block["text"]})
        else:
            raise BadRow(
                f"{name}: unknown content block {block!r}; use {{'type': 'image'}}, {{'type': 'video'}} or {{'type': "
                "'text', 'text': ...}."
            )
    return blocks


def _image_of_block(block: Mapping[str, Any], name: str) -> Any:
    """The picture inside a block, or None.

    Raises:
        BadRow: It is an address.
    """
    _refuse_address(block, name, "image")
    if block.get("bytes") is not None:
        return {"bytes": block["bytes"], "path": None}
    return block["image"] if block.get("image") is not None else block.get("path")


def _video_of_block(block: Mapping[str, Any], name: str) -> Any:
    """The video inside a block, or None.

    Raises:
        BadRow: It is an address.
    """
    _refuse_address(block, name, "video")
    return as_video(
        next((block[key] for key in ("video", "frames", "path", "bytes") if block.get(key) is not None), None)
    )


def _refuse_address(block: Mapping[str, Any], name: str, kind: str) -> None:
    if address := block.get("url") or block.get(f"{kind}_url"):
        raise BadRow(
            f"{name}: a block names its {kind} by the address {address!r:.100}, and those are not fetched. Download it and "
            f"give its path: {{'type': '{kind}', 'path': ...}}.",
            kind=f"{kind} path",
        )


def _check_turns(messages: list[dict[str, Any]], name: str) -> None:
    expected = "user"
    for position, message in enumerate(messages):
        role = message["role"]
        if role == "system" and position == 0:
            continue
        if role not in ("user", "assistant"):
            raise BadRow(
                f"{name}: unknown role {role!r} in turn {position}; known are 'system' (first), 'user', 'assistant'.",
                kind="turns",
            )
        if role != expected:
            raise BadRow(
                f"{name}: turn {position} is the {role}'s where the {expected}'s was due (two {role} turns in a row, or a "
                f"row that opens with the {role}). Join or drop one of them.",
                kind="turns",
            )
        text = "".join(block["text"] for block in message["content"] if block["type"] == "text")
        if half := _SURROGATE.search(text):
            raise BadRow(
                f"{name}: turn {position} holds {half[0]!r}, half of a character, which no tokenizer reads. Write the "
                "text anew."
            )
        if role == "assistant" and not text.strip():
            raise BadRow(
                f"{name}: the answer in turn {position} is empty ({text!r}). Write it, or drop the row.",
                kind="empty answer",
            )
        if role == "assistant" and any(block["type"] == "image" for block in message["content"]):
            raise BadRow(
                f"{name}: turn {position} is an answer with an image in it. Move the image to a user turn.",
                kind="image count",
            )
        expected = "assistant" if role == "user" else "user"
    if expected == "assistant" or not messages:
        raise BadRow(
            f"{name}: the last turn has no answer, so there is nothing to learn from. Add it, or drop the turn.",
            kind="turns",
        )
    if all(message["role"] == "system" for message in messages):
        raise BadRow(f"{name} has no question and no answer.", kind="turns")


def image_key(image: Any) -> str:
    """What a picture of a row is known by before it is opened: its path, or what it holds."""
    if isinstance(image, Mapping):
        return str(image["path"]) if image.get("bytes") is None else hashlib.sha256(image["bytes"]).hexdigest()
    return os.fspath(image) if isinstance(image, str | os.PathLike) else f"picture {id(image)}"
