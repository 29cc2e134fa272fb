"""Small real videos whose frames tell which they are: frame n is grey, n * STEP + DARKEST bright."""

import tempfile
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from PIL import Image

av: Any = pytest.importorskip("av", reason="the extra `video` is not installed")

DARKEST, STEP = 6, 4
MOST = 60  # frames that can be told apart
# Container -> encoder
CODECS = {
    "mp4": "libx264",
    "mov": "mpeg4",
    "matroska": "libx264",
    "webm": "libvpx-vp9",
    "avi": "mpeg4",
    "flv": "flv1",
    "mpegts": "libx264",
}


def grey(number: int, size: tuple[int, int] = (64, 48)) -> np.ndarray:
    return np.full((*size[::-1], 3), DARKEST + STEP * number, np.uint8)


def number_of(frame: Image.Image) -> int:
    """Which frame it is."""
    return round((np.asarray(frame).mean() - DARKEST) / STEP)


def video(
    num_frames: int | Sequence[np.ndarray] = 20,
    container: str = "mp4",
    codec: str | None = None,
    *,
    ticks: Sequence[int] | None = None,
    rotation: tuple[float, bool, bool] | None = None,
    pix_fmt: str = "yuv420p",
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
) -> bytes:
    """A file.

    Args:
        num_frames: Grey frames; or the frames themselves.
        ticks: When each is shown, in hundredths of a second. Default: every tenth.
        rotation: Degrees counterclockwise, and flips across and down, that the container asks for.
    """
    pictures = [grey(number) for number in range(num_frames)] if isinstance(num_frames, int) else num_frames
    with tempfile.NamedTemporaryFile() as file, _writing(file.name, container, container_options) as out:
        stream = out.add_stream(codec or CODECS[container], rate=10, options=options or {})
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt, stream.bit_rate = pix_fmt, 4_000_000
        if ticks is not None:
            stream.codec_context.time_base = Fraction(1, 100)
        if rotation is not None:
            stream.set_display_rotation(rotation[0], hflip=rotation[1], vflip=rotation[2])
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            if ticks is not None:
                frame.pts, frame.time_base = ticks[number], Fraction(1, 100)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
        out.close()
        return file.read()


def huge() -> bytes:
    """A small file that says its frames have 60,000 x 60,000 pixels."""

    def size(width: int, height: int) -> bytes:
        return width.to_bytes(4, "little") + height.to_bytes(4, "little", signed=True)

    plain = video(3, "avi", "rawvideo", pix_fmt="bgr24")
    assert size(64, -48) in plain  # a bitmap from its top down
    return plain.replace(size(64, -48), size(60_000, -60_000))


def sound() -> bytes:
    """A file of sound alone."""
    with tempfile.NamedTemporaryFile() as file, _writing(file.name, "mp4") as out:
        stream = out.add_stream("aac", rate=16000)
        stream.layout = "mono"
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        silence.sample_rate = 16000
        for _ in range(10):
            out.mux(stream.encode(silence))
        out.mux(stream.encode())
        out.close()
        return file.read()


def _writing(path: str, container: str, options: dict[str, str] | None = None) -> Any:
    return av.open(path, "w", format=container, options=options or {})
