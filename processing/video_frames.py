"""The one way from a video to pixels: some of its frames, evenly spread, each upright and RGB.

    file  ── read ──────>  when each frame is shown; packets are read, and nothing is decoded
    times ── spread ────>  those of the frames that are taken
          ── decode ────>  `Video`, from the key frame before each of them on

The frames taken are those of LLaVA-NeXT-Video: `numpy.linspace(0, frames - 1, most_frames)`, rounded down, so that the first
and the last are among them; all of a video that has no more. They are counted as they are shown, whatever the time between
them. A video that ends before the end that its container promises is refused, also where what is left could be shown.

Needs `av`, imported when a file of a video is opened. It brings its FFmpeg along, where torchcodec needs one of the system.
"""

import bisect
import contextlib
import importlib
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from .image_files import MAX_IMAGE_PIXELS, PictureError, describe
from .image_inputs import to_rgb, upright_size
from .video_containers import promised_bytes

MOST_FRAMES = 8  # taken of a video unless something else is said
MAX_VIDEO_FRAMES = 1_000_000  # nine hours at 30 a second

# Containers that hold what they show; FFmpeg reads play lists too, which name other files and addresses
CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,flv,asf,ogg,mpegts,mpeg,gif"
_PROMISES_NOTHING = ("mpegts", "mpeg", "gif")  # FFmpeg works their duration out from what is there
# Turns of a display matrix, the signs of its (a, b, c, d): a point (x, y) is shown at (ax + cy, bx + dy)
_TURNS = {
    (-1, 0, 0, 1): Image.Transpose.FLIP_LEFT_RIGHT,
    (-1, 0, 0, -1): Image.Transpose.ROTATE_180,
    (1, 0, 0, -1): Image.Transpose.FLIP_TOP_BOTTOM,
    (0, 1, 1, 0): Image.Transpose.TRANSPOSE,
    (0, 1, -1, 0): Image.Transpose.ROTATE_270,
    (0, -1, -1, 0): Image.Transpose.TRANSVERSE,
    (0, -1, 1, 0): Image.Transpose.ROTATE_90,
}
_REMEDY = "Replace it, or write it anew."


@dataclass(frozen=True)
class Video:
    """Frames that were taken of a video.

    Attributes:
        frames (`list[PIL.Image.Image]`): Upright and RGB, in their order; at least one.
    """

    frames: list[Image.Image]

    @property
    def size(self) -> tuple[int, int, int]:
        """Width and height of the first frame, and how many were taken: what `video_size` says before they are."""
        return (*self.frames[0].size, len(self.frames))


def as_video(video: Any) -> Any:
    """What names a video, in the form that stands where an image may stand.

    Args:
        video: A file, a list of pictures, or what has that form. A file is a path, bytes, or `{"bytes", "path"}`; the last
            may have frames too, as a table stores videos of both kinds.
    """
    if isinstance(video, Mapping):
        if video.get("frames") is not None:
            return {"frames": video["frames"]}
        return video if "video" in video else {"video": video}
    if isinstance(video, np.ndarray) or (
        isinstance(video, Sequence) and not isinstance(video, str | bytes | bytearray)
    ):
        return {"frames": video}
    return video if video is None or isinstance(video, Video) else {"video": video}


def is_video(image: Any) -> bool:
    """Whether what stands where an image may stand is a video: `{"video": file}`, `{"frames": pictures}`, or a `Video`."""
    if isinstance(image, Mapping):
        return image.get("video") is not None or image.get("frames") is not None
    return isinstance(image, Video)


def files_of(video: Mapping[str, Any]) -> Sequence[Any]:
    """What a video is read from: the pictures of its frames, or its one file."""
    return [video["video"]] if video.get("frames") is None else video["frames"]


def open_video(video: Any, most_frames: int = MOST_FRAMES) -> Video:
    """Take frames of a video.

    Args:
        video: `{"video": file}`, where a file is a path, bytes, or `{"bytes", "path"}`; `{"frames": pictures}`, where a
            picture is what `to_rgb` takes; or frames that were taken before.
        most_frames: How many are taken at most.

    Raises:
        PictureError: It is missing, no video, damaged, ends early, has no frame, or more pixels a frame or frames than
            `MAX_IMAGE_PIXELS` and `MAX_VIDEO_FRAMES`. The kind is "video missing", "video unreadable" or "video too large".
        ValueError: It is none of what `video` may be, or a frame is an address.
        ImportError: `av`, which reads files of videos, is not installed.
    """
    if (pictures := _pictures_of(video)) is not None:
        return Video([to_rgb(pictures[index]) for index in spread(len(pictures), most_frames)])
    for seeks in (True, False):  # not every container finds its key frames; then all frames up to the last are decoded
        with _opened(video) as file:
            outline = file.read()
            wanted = [outline.times[index] for index in spread(len(outline.times), most_frames)]
            frames = file.decode(wanted, outline.key_frames if seeks else [])
            if frames is not None:
                return Video(frames)
    raise _damaged(video, "a frame of it cannot be decoded")


def video_size(video: Any, most_frames: int = MOST_FRAMES) -> tuple[int, int, int]:
    """Width and height, upright, of the first frame of a video, and how many frames `open_video` takes.

    The packets of a file are read and its first frame decoded, which finds all but damage within a frame.

    Args and raises: As `open_video`.
    """
    if (pictures := _pictures_of(video)) is not None:
        return (*upright_size(pictures[0]), len(spread(len(pictures), most_frames)))
    with _opened(video) as file:
        outline = file.read()
        frames = file.decode(outline.times[:1], [])
        if frames is None:
            raise _damaged(video, "its first frame cannot be decoded")
    return (*frames[0].size, len(spread(len(outline.times), most_frames)))


def spread(num_frames: int, most_frames: int) -> list[int]:
    """Which of so many frames are taken, at most `most_frames`: evenly spread, the first and the last among them."""
    taken = min(num_frames, most_frames)
    return np.linspace(0, num_frames - 1, taken, dtype=int).tolist()


# ---------------------------------------------------------------------------------------------------- files


@dataclass
class _Outline:
    """When frames are shown, and where decoding can begin, in ticks of the stream."""

    times: list[int] = field(default_factory=list)
    key_frames: list[tuple[int, int]] = field(default_factory=list)  # when it is shown, and what to seek for


@dataclass
class _File:
    """An open container and the stream of its frames."""

    video: Any
    container: Any
    stream: Any

    def read(self) -> _Outline:
        """Read all packets.

        Raises:
            PictureError: The container promises more than it holds, or it holds no frame or far too many.
        """
        outline, end, count = _Outline(), 0.0, 0
        for packet in self.container.demux():
            time = packet.pts if packet.pts is not None else packet.dts
            if packet.is_corrupt:
                raise _ends_early(self.video, "its last packet is cut")
            if time is None:  # what flushes a decoder
                continue
            end = max(end, float((time + (packet.duration or 0)) * packet.time_base))
            if packet.stream.index != self.stream.index:
                continue
            count += 1
            if count > MAX_VIDEO_FRAMES:
                raise PictureError(
                    f"the video {_name(self.video)} has more than {MAX_VIDEO_FRAMES:,} frames. Cut it into pieces.",
                    "video too large",
                )
            if not packet.is_discard:  # outside of what an edit list shows
                outline.times.append(time)
            if packet.is_keyframe:
                outline.key_frames.append((time, time if packet.dts is None else packet.dts))
        outline.times = sorted(set(outline.times))
        outline.key_frames.sort()
        if not outline.times:
            raise PictureError(f"the video {_name(self.video)} has no frame. {_REMEDY}", "video unreadable")
        self._check_promises(outline.times, end, count)
        if not self.stream.codec_context.width:  # as `max_pixels` leaves it
            raise _too_large(self.video)
        return outline

    def _check_promises(self, times: Sequence[int], end: float, count: int) -> None:
        """Compare what was read with what the container says of itself: its frames, or its duration."""
        kind, duration = self.container.format.name, self.container.duration
        if kind == "avi" and self.stream.frames > count:
            raise _ends_early(self.video, f"its header says {self.stream.frames} frames and it has {count}")
        if kind in _PROMISES_NOTHING or self.stream.frames or duration is None:
            return
        # Containers round, and the last frame of some has no duration
        gaps = np.diff(np.array(times, dtype=np.int64))
        leeway = 1.5 * float(gaps.max() * self.stream.time_base) if len(gaps) else 0.0
        if end + leeway < duration / 1_000_000:
            raise _ends_early(self.video, f"its header says {duration / 1_000_000:.2f} s and it has {end:.2f} s")

    def decode(self, wanted: Sequence[int], key_frames: Sequence[tuple[int, int]]) -> list[Image.Image] | None:
        """What is shown at some times, in ticks and in order.

        Args:
            wanted: The times.
            key_frames: Where decoding may begin, see `_Outline`. None of them: at the beginning.

        Returns:
            The frames; None if one cannot be had this way.
        """
        found: list[Image.Image] = []
        frames: Iterator[Any] = iter(())
        if not key_frames:
            self.container.seek(0)
            frames = self._frames()
        shown, ahead = None, next(frames, None)
        for time in wanted:
            before = bisect.bisect_right(key_frames, (time, np.inf)) - 1
            if before >= 0 and (ahead is None or key_frames[before][0] > ahead.pts):
                self.container.seek(key_frames[before][1], stream=self.stream)
                frames = self._frames()
                shown, ahead = None, next(frames, None)
            while ahead is not None and ahead.pts <= time:
                shown, ahead = ahead, next(frames, None)
            # A packet in the midst may give no picture, the last one must
            if shown is None or shown.is_corrupt or (ahead is None and shown.pts < time):
                return None
            found.append(_upright(shown))
        return found

    def _frames(self) -> Iterator[Any]:
        """Frames from where the file is, with the time at which they are shown."""
        for frame in self.container.decode(self.stream):
            if frame.width * frame.height > MAX_IMAGE_PIXELS:
                raise _too_large(self.video)
            if frame.pts is not None:
                yield frame


@contextlib.contextmanager
def _opened(video: Any) -> Iterator[_File]:
    """The file of a video, open, and errors with its name on them."""
    source = video["video"] if isinstance(video, Mapping) else video
    name = _name(video)
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(_content(source, name))
        try:
            av = importlib.import_module("av")
        except ModuleNotFoundError as error:
            raise ImportError(
                f"the video {name} is read by the library av, which is not installed. Run: pip install av"
            ) from error
        num_bytes = file.seek(0, io.SEEK_END)
        if not num_bytes:
            raise _damaged(video, "the file is empty")
        if (promised := promised_bytes(file)) > num_bytes:
            raise _ends_early(video, f"it is to have {promised:,} bytes and has {num_bytes:,}")
        # Nothing but this file is opened, and no decoder makes a picture that would not be taken
        options = {"format_whitelist": CONTAINERS, "protocol_whitelist": "none", "max_pixels": str(MAX_IMAGE_PIXELS)}
        try:
            container = stack.enter_context(av.open(file, options=options))
            stream = next((one for one in container.streams.video if not _is_cover(av, one)), None)
            if stream is None and container.streams.audio:
                raise PictureError(f"{name} is no video: it holds sound alone. Give a video.", "video unreadable")
            if stream is None:
                raise _damaged(video, "there are no frames in it")
            if (codec := stream.codec_context) is None:
                raise _damaged(video, "its codec is not known")
            if codec.width * codec.height > MAX_IMAGE_PIXELS:
                raise _too_large(video)
            yield _File(video, container, stream)
        except (av.FFmpegError, EOFError) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise _damaged(video, reason) from error


def _content(source: Any, name: str) -> Any:
    """The file of a video, to be read."""
    if isinstance(source, Mapping):
        source = source["bytes"] if source.get("bytes") is not None else source.get("path")
    if isinstance(source, bytes | bytearray):
        return io.BytesIO(source)
    if not isinstance(source, str | os.PathLike):
        raise ValueError(
            f"video of type {type(source).__name__} is not understood. Pass a path, bytes, or a list of frames."
        )
    path = os.fspath(source)
    if "://" in path:
        raise ValueError(f"the video {name} is an address, and those are not fetched. Download it and give its path.")
    try:
        return open(path, "rb")
    except FileNotFoundError as error:
        raise PictureError(f"there is no video {name}. Correct the path.", "video missing") from error
    except (OSError, ValueError) as error:
        raise PictureError(f"the video {name} cannot be opened ({error}). Give the path of a file.") from error


def _pictures_of(video: Any) -> Sequence[Any] | None:
    """The frames of a video that comes as such; None for a file.

    Raises:
        PictureError: There are none, or far too many.
    """
    if isinstance(video, Video):
        return video.frames
    pictures = video.get("frames") if isinstance(video, Mapping) else None
    if pictures is None:
        return None
    if not 0 < len(pictures) <= MAX_VIDEO_FRAMES:
        raise PictureError(
            f"a video of {len(pictures)} frames is not taken. Give 1 to {MAX_VIDEO_FRAMES:,}.", "video unreadable"
        )
    return pictures


def _upright(frame: Any) -> Image.Image:
    """A decoded frame as RGB, turned as the container says."""
    picture = frame.to_image()
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return picture
    a, b, _, c, d = np.frombuffer(bytes(matrix), dtype=np.int32)[:5].tolist()
    turn = _TURNS.get(tuple(round(value / 65536) for value in (a, b, c, d)))
    return picture if turn is None else picture.transpose(turn)


def _is_cover(av: Any, stream: Any) -> bool:
    """Whether a stream is the one picture on the cover of a song."""
    return bool(stream.disposition & av.stream.Disposition.attached_pic)


def _name(video: Any) -> str:
    return describe(video["video"])


def _damaged(video: Any, reason: str) -> PictureError:
    return PictureError(
        f"the video {_name(video)} cannot be read as a video, or is damaged ({reason}). {_REMEDY}", "video unreadable"
    )


def _ends_early(video: Any, found: str) -> PictureError:
    return PictureError(f"the video {_name(video)} ends early: {found}. {_REMEDY}", "video unreadable")


def _too_large(video: Any) -> PictureError:
    return PictureError(
        f"the video {_name(video)} has frames of more than the {MAX_IMAGE_PIXELS:,} pixels that guard against decompression "
        "bombs, or does not say how large they are. Scale it down.",
        "video too large",
    )
