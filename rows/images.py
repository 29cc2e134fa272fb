"""The picture of a row: its path checked, its file opened by the one way to pixels, and sent on as a data URI.

How a file becomes pixels is said in `processing/image_inputs.py` and, of videos, in `processing/video_frames.py`, which ship
with checkpoints; here errors get the name of the row, and addresses are refused: what a data set names is never fetched.
"""

import base64
import contextlib
import hashlib
import io
import os
from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from ..processing.image_files import MAX_IMAGE_PIXELS, PictureError, describe, naming, opened, too_large
from ..processing.image_inputs import shows_alike, to_rgb, upright_size
from ..processing.video_containers import looks_like_video
from ..processing.video_frames import MOST_FRAMES, Video, files_of, is_video, open_video, video_size
from .schema import BadRow

URL_SCHEMES = ("http://", "https://", "ftp://", "s3://", "hf://", "data:")
# Pillow's format -> the type of what chat endpoints take as it is; everything else is written anew
SENT_AS_IT_IS = {
    "JPEG": "image/jpeg",
    "MPO": "image/jpeg",  # what phones write: a JPEG with more pictures behind the first
    "PNG": "image/png",
    "WEBP": "image/webp",
    "GIF": "image/gif",
}
LOSSY = ("JPEG", "MPO", "WEBP", "AVIF", "HEIF")  # written anew as JPEG: as PNG a photograph grows tenfold

DRAFTED = (8, 4, 2)  # parts of its size that a JPEG is decoded at without making all pixels

ImageSource = Image.Image | str | os.PathLike | Mapping[str, Any]


def resolve_image_path(path: str, image_folder: str | os.PathLike | None, name: str, kind: str = "image") -> str:
    """Join a row's image path to its folder.

    Args:
        path: As the row has it.
        image_folder: The folder that relative paths start from. Where it is given, no path may leave it.
        name: What to call the row in an error.
        kind: What it is the path of: "image" or "video".

    Returns:
        The joined path. The file may be missing; see `open_image`.

    Raises:
        BadRow: A URL, or a path that leaves the folder by `..`, by being absolute, or through a symbolic link.
    """
    _refuse_url(path, name, kind)
    if image_folder is None:
        return path
    joined = os.path.join(os.fspath(image_folder), path)
    root = os.path.realpath(image_folder)
    try:
        stays = os.path.commonpath([root, os.path.realpath(joined)]) == root
    except ValueError as error:  # a null character or half a character in it, another drive
        raise BadRow(
            f"{name}: the {kind} {path!r} is no path ({error}). Write it anew.", kind=f"{kind} path"
        ) from error
    if not stays:
        raise BadRow(
            f"{name}: the {kind} {path!r} lies outside the image folder {os.fspath(image_folder)!r}. Move it in, or name "
            f"a folder that holds all {kind}s with --image_folder.",
            kind=f"{kind} path",
        )
    return joined


def resolve_images(images: Sequence[Any], image_folder: str | os.PathLike | None, name: str) -> list[Any]:
    """The images of a row, with paths joined to their folder (see `resolve_image_path`); videos and their frames too.

    Raises:
        BadRow: Also for an entry that is no image at all.
    """
    resolved: list[Any] = []
    for image in images:
        if isinstance(image, Mapping) and image.get("frames") is not None:
            resolved.append({"frames": resolve_images(image["frames"], image_folder, name)})
        elif is_video(image) and isinstance(file := image["video"], str | os.PathLike):
            resolved.append({"video": resolve_image_path(os.fspath(file), image_folder, name, "video")})
        elif isinstance(image, str | os.PathLike):
            resolved.append(resolve_image_path(os.fspath(image), image_folder, name))
        elif isinstance(image, Mapping | Image.Image):
            resolved.append(image)
        else:
            raise BadRow(f"{name}: an image is {image!r:.100}; it must be a path, or bytes as `datasets` stores them.")
    return resolved


def visual_at(path: str) -> Any:
    """What a path names to `open_visual`: a video if the file begins as one does, whatever it is called, else an image."""
    try:
        with open(path, "rb") as file:
            return {"video": path} if looks_like_video(file.read(16)) else path
    except (OSError, ValueError):  # whoever opens it says why it cannot be
        return path


def open_visual(
    source: Any, name: str, video_frames: int = MOST_FRAMES, shorter_side: int | None = None
) -> Image.Image | Video:
    """Open an image, or take frames of a video, safely.

    Args:
        source: As for `open_image`, or a video: `{"video": file}` or `{"frames": images}`.
        name: What to call the row in an error.
        video_frames: How many frames are taken of a video at most.
        shorter_side: As for `open_image`; frames of videos are whole.

    Raises:
        BadRow: As `open_image`; of a video, also where it ends early.
        ValueError: The library that reads videos is not installed.
    """
    if not is_video(source):
        return open_image(source, name, shorter_side)
    with _as_bad_row(source, name):
        return open_video(source, video_frames)


def visual_size(source: Any, name: str, video_frames: int = MOST_FRAMES) -> tuple[int, ...]:
    """The `size` of what `open_visual` returns, from header and packets: width and height; of a video, also its frames.

    Args and raises: As `open_visual`.
    """
    if not is_video(source):
        return image_size(source, name)
    with _as_bad_row(source, name):
        return video_size(source, video_frames)


def image_key(source: Any) -> Hashable | None:
    """What tells an image's file from others; equal only for the same picture. None for a video, which has none."""
    if is_video(source):
        return None
    if isinstance(source, Mapping):
        content, path = source.get("bytes"), source.get("path")
        return path if content is None else hashlib.blake2b(content, digest_size=16).digest()
    return os.fspath(source) if isinstance(source, str | os.PathLike) else id(source)


def open_image(source: ImageSource, name: str, shorter_side: int | None = None) -> Image.Image:
    """Open an image safely.

    Args:
        source: An open image, a path, or `{"bytes": ..., "path": ...}` as `datasets` stores one.
        name: What to call the row in an error.
        shorter_side: Where it is given, the file of a JPEG is decoded at a half, a quarter or an eighth of its size, the
            smallest at which its shorter side has as many pixels (`smallest_draft`). They are about those of the whole
            scaled down.

    Returns:
        The image as `to_rgb` makes it: upright, RGB.

    Raises:
        BadRow: A missing, truncated or non-image file, one of more than `MAX_IMAGE_PIXELS` pixels, an address, or a video.
    """
    if is_video(source):
        raise BadRow(
            f"{name}: there is a video where only an image is taken. Give one of its frames.", kind="video path"
        )
    with _as_bad_row(source, name):
        if isinstance(source, Image.Image) and source.size[0] * source.size[1] > MAX_IMAGE_PIXELS:
            raise too_large(describe(source), source.size)
        if shorter_side is None or isinstance(source, Image.Image):
            return to_rgb(source)
        with opened(source) as picture:
            width, height = picture.size
            if picture.format == "JPEG" and width * height <= MAX_IMAGE_PIXELS:
                with naming(source):
                    picture.draft(None, smallest_draft((width, height), shorter_side))
                    return to_rgb(picture).copy()
        return to_rgb(source)


def smallest_draft(size: tuple[int, int], shorter_side: int) -> tuple[int, int]:
    """What an image of this size measures when it is opened with `shorter_side`, if it is a JPEG.

    Only whole numbers of pixels are made of it: of 13 a half would be 7, and what is cut from the centre would move.
    """
    width, height = size
    for parts in DRAFTED:
        if width % parts == height % parts == 0 and min(size) >= shorter_side * parts:
            return width // parts, height // parts
    return size


def image_size(source: ImageSource, name: str) -> tuple[int, int]:
    """Width and height of what `open_image` returns, from the header: far quicker than reading the pixels.

    Args:
        source, name: As for `open_image`.

    Raises:
        BadRow: As `open_image`. A truncated file passes unless its end is visibly missing.
    """
    if not isinstance(source, Image.Image) and not is_video(source):
        with _as_bad_row(source, name):
            size = upright_size(source)
            if not _end_is_missing(source):
                return size
    return open_image(source, name).size


def data_uri(source: ImageSource, name: str) -> str:
    """An image as a `data:` URI, for a page or a chat endpoint; whoever decodes it sees what `open_image` returns.

    The file itself, if its format is one of `SENT_AS_IT_IS` and no program can show it in another way; else written
    anew, upright and RGB: as JPEG where it was one, as PNG otherwise. The type is that of the content, whatever the file
    is called.

    Raises:
        BadRow: As `open_image`: what is no picture is not sent.
    """
    image = open_image(source, name)
    if isinstance(source, Image.Image):
        return encoded_uri(image)
    with _as_bad_row(source, name), opened(source) as picture:
        kind = picture.format or ""
        if kind in SENT_AS_IT_IS and shows_alike(picture):
            return _uri(SENT_AS_IT_IS[kind], _content(source))
        return encoded_uri(image, "JPEG" if kind in LOSSY else "PNG")


def encoded_uri(image: Image.Image, kind: str = "PNG", quality: int = 95) -> str:
    """An open image as a `data:` URI.

    Args:
        image: RGB.
        kind: "PNG" or "JPEG".
        quality: Of the JPEG, up to 95.
    """
    buffer = io.BytesIO()
    image.save(buffer, kind, **({"quality": quality, "subsampling": 0} if kind == "JPEG" else {}))
    return _uri(SENT_AS_IT_IS[kind], buffer.getvalue())


def _uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _content(source: str | os.PathLike | Mapping[str, Any]) -> bytes:
    if isinstance(source, Mapping):
        if source.get("bytes") is not None:
            return source["bytes"]
        source = source["path"]
    return Path(source).read_bytes()  # type: ignore[arg-type]


@contextlib.contextmanager
def _as_bad_row(source: Any, name: str) -> Iterator[None]:
    for file in _files_of(source):
        path = file.get("path") if isinstance(file, Mapping) and file.get("bytes") is None else file
        if isinstance(path, str | os.PathLike):
            _refuse_url(os.fspath(path), name, "video" if file is not source and "video" in source else "image")
    try:
        yield
    except PictureError as error:
        folder = " Check --image_folder too." if error.kind.endswith(" missing") else ""
        raise BadRow(f"{name}: {error}{folder}", kind=error.kind) from error
    except ImportError as error:  # that says nothing of the row
        raise ValueError(f"{name}: {error}") from error
    except ValueError as error:  # not an image of any form
        raise BadRow(
            f"{name}: {error}", kind="video unreadable" if is_video(source) else "image unreadable"
        ) from error


def _files_of(source: Any) -> Sequence[Any]:
    """What an image or a video is read from."""
    if not isinstance(source, Mapping) or not is_video(source):
        return [source]
    return files_of(source)


def _refuse_url(path: str, name: str, kind: str = "image") -> None:
    if path.lower().startswith(URL_SCHEMES):
        raise BadRow(
            f"{name}: the {kind} {path!r:.200} is a URL, and those are not fetched. Download it and give its path.",
            kind=f"{kind} path",
        )


def _end_is_missing(source: str | os.PathLike | Mapping[str, Any]) -> bool:
    """Whether a JPEG or PNG lacks its end marker. Some whole files do too, so it is a reason to decode, no verdict."""
    if isinstance(source, Mapping) and source.get("bytes") is not None:
        head, tail = source["bytes"][:8], source["bytes"][-64:]
    else:
        path = source["path"] if isinstance(source, Mapping) else source
        with open(path, "rb") as file:
            head = file.read(8)
            file.seek(max(0, os.fstat(file.fileno()).st_size - 64))
            tail = file.read()
    if head.startswith(b"\xff\xd8"):
        return b"\xff\xd9" not in tail
    if head.startswith(b"\x89PNG"):
        return b"IEND" not in tail
    return True
