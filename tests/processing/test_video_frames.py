"""From a video to frames: which are taken, how they are turned, and what is refused."""

import io
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from llavakit.processing import video_frames
from llavakit.processing.image_files import PictureError
from llavakit.processing.video_frames import Video, as_video, is_video, open_video, spread, video_size

from ..video_files import CODECS, MOST, av, grey, huge, number_of, sound, video


def numbers(content: bytes, most_frames: int) -> list[int]:
    return [number_of(frame) for frame in open_video({"video": content}, most_frames).frames]


@given(frames=st.integers(1, 5000), most=st.integers(1, 200))
def test_frames_are_spread_evenly(frames: int, most: int) -> None:
    taken = spread(frames, most)
    assert len(taken) == min(frames, most) and taken[0] == 0
    gaps = np.diff(taken)
    if len(taken) > 1:  # the first and the last, and between any two as many as between any others, but for one
        assert taken[-1] == frames - 1 and gaps.min() >= 1 and gaps.max() - gaps.min() <= 1
    # as LLaVA-NeXT-Video takes them
    assert taken == np.linspace(0, frames - 1, min(frames, most), dtype=int).tolist()


@pytest.mark.parametrize("container", CODECS)
@pytest.mark.parametrize("most", [1, 2, 7, 20, 64])
def test_the_frames_taken_are_those_of_the_rule(container: str, most: int) -> None:
    content = video(20, container)
    assert numbers(content, most) == spread(20, most)
    assert video_size({"video": content}, most) == (64, 48, min(most, 20)) == open_video({"video": content}, most).size


@pytest.mark.parametrize("container", ["mp4", "matroska", "mpegts", "webm"])
def test_seeking_finds_what_decoding_all_finds(container: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Key frames every seven, and frames that stand in the file before those they are shown after."""
    options = {"g": "7", "bf": "3"} if CODECS[container] == "libx264" else {"g": "7"}
    content = video(MOST, container, options=options)
    decoded = []
    frames = video_frames._File._frames

    def counting(self: Any) -> Any:
        for frame in frames(self):
            decoded.append(frame.pts)
            yield frame

    monkeypatch.setattr(video_frames._File, "_frames", counting)
    for most in (1, 2, 3, 5, 11, 60):
        decoded.clear()
        assert numbers(content, most) == spread(MOST, most)
        if most <= 3 and container != "mpegts":  # whose seeks land early
            assert len(decoded) < 10 * most  # and not all of them


def test_frames_are_counted_as_they_are_shown_whatever_the_time_between_them() -> None:
    ticks = [0, 3, 4, 5, 6, 7, 50, 51, 52, 200, 201, 390]
    for container in ("mp4", "matroska", "webm"):
        content = video(12, container, ticks=ticks)
        with av.open(io.BytesIO(content)) as opened:
            times = [round(100 * frame.time) for frame in opened.decode(video=0)]
        assert times == ticks  # the file is of the kind that it is to be
        for most in (1, 3, 5, 12):
            assert numbers(content, most) == spread(12, most)


def corners(picture: Any) -> list[str]:
    """The colours of the four corners: top left, top right, bottom right, bottom left."""
    pixels = np.asarray(picture).astype(int)
    names = {(1, 0, 0): "red", (0, 1, 0): "green", (0, 0, 1): "blue", (1, 1, 1): "white"}
    return [names[tuple((pixels[y, x] > 127).astype(int))] for y, x in ((4, 4), (4, -5), (-5, -5), (-5, 4))]


@pytest.mark.parametrize(
    ("rotation", "expected"),
    [
        ((0, False, False), ["red", "green", "blue", "white"]),
        ((90, False, False), ["green", "blue", "white", "red"]),  # counterclockwise
        ((180, False, False), ["blue", "white", "red", "green"]),
        ((270, False, False), ["white", "red", "green", "blue"]),
        ((0, True, False), ["green", "red", "white", "blue"]),
        ((0, False, True), ["white", "blue", "green", "red"]),
        ((90, True, False), ["blue", "green", "red", "white"]),
        ((270, True, False), ["red", "white", "blue", "green"]),
    ],
)
def test_frames_stand_upright(rotation: tuple[float, bool, bool], expected: list[str]) -> None:
    scene = np.zeros((48, 64, 3), np.uint8)
    scene[:24, :32], scene[:24, 32:] = (255, 0, 0), (0, 255, 0)
    scene[24:, 32:], scene[24:, :32] = (0, 0, 255), (255, 255, 255)
    content = video([scene] * 3, rotation=rotation, pix_fmt="yuv444p")
    opened = open_video({"video": content}, 2)
    assert [corners(frame) for frame in opened.frames] == [expected] * 2
    size = (48, 64, 2) if rotation[0] in (90, 270) else (64, 48, 2)
    assert opened.size == video_size({"video": content}, 2) == size


# ---- what is refused ----


def refused(content: Any, most_frames: int = 64) -> PictureError:
    for ask in (video_size, open_video):
        with pytest.raises(PictureError) as caught:
            ask({"video": content}, most_frames)
    return caught.value


@pytest.mark.parametrize(
    ("container", "options"),
    [
        ("mp4", {}),
        ("mp4", {"movflags": "faststart"}),
        ("mp4", {"movflags": "frag_keyframe+empty_moov"}),
        ("mov", {}),
        ("matroska", {}),
        ("webm", {}),
        ("avi", {}),
        ("flv", {}),
    ],
)
def test_a_video_that_ends_early_is_refused_wherever_it_was_cut(container: str, options: dict[str, str]) -> None:
    encoding = {"g": "4", "bf": "2"} if CODECS[container] == "libx264" else {"g": "4"}
    content = video(20, container, options=encoding, container_options=options)
    assert numbers(content, 20) == list(range(20))
    for share in range(40):
        cut = content[: len(content) * share // 40]
        index = content.rfind(b"mfra") - 4
        if 0 < index <= len(cut):  # of fragments, behind the last of them: nothing that is shown is missing
            assert numbers(cut, 20) == list(range(20))
            continue
        error = refused(cut)
        assert error.kind == "video unreadable", share
        assert str(error).endswith("Replace it, or write it anew."), error


def test_a_cut_is_named(tmp_path: Path) -> None:
    content = video(20, container_options={"movflags": "faststart"})
    path = tmp_path / "clip.mp4"
    path.write_bytes(content[:-200])
    assert str(refused(path)).startswith(f"the video {str(path)!r} ends early: it is to have {len(content):,} bytes")
    webm = video(20, "webm")
    live = webm.replace(webm[webm.index(b"\x18\x53\x80\x67") :][:12], b"\x18\x53\x80\x67\x01" + b"\xff" * 7)
    assert numbers(live, 3) == [0, 9, 19]  # of a size that is not known
    assert "its header says 2.00 s and it has" in str(refused(live[: len(live) // 2]))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "the file is empty"),
        (b"just words", "cannot be read as a video, or is damaged"),
        (b"<!DOCTYPE html><html>404 Not Found</html>", "cannot be read as a video"),
    ],
)
def test_what_is_no_video_is_named(content: bytes, says: str) -> None:
    assert says in str(refused(content))


def test_sound_and_pictures_are_no_video(tmp_path: Path) -> None:
    assert "is no video: it holds sound alone" in str(refused(sound()))
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    refused(tmp_path / "a.png")
    missing = refused(tmp_path / "b.mp4")
    assert missing.kind == "video missing" and str(tmp_path / "b.mp4") in str(missing)
    assert refused(tmp_path).kind == "image unreadable"


def test_no_other_file_is_opened_and_nothing_is_fetched(tmp_path: Path) -> None:
    """A play list is what FFmpeg would follow."""
    clip = tmp_path / "clip.ts"
    clip.write_bytes(video(20, "mpegts"))
    for name, text in {
        "list.m3u8": f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{clip}\n#EXT-X-ENDLIST\n",
        "list.ffconcat": f"ffconcat version 1.0\nfile {clip}\n",
    }.items():
        (tmp_path / name).write_text(text)
        refused(tmp_path / name)
    for address in ("http://127.0.0.1:9/a.mp4", "file:///a.mp4", f"concat://{clip}"):
        with pytest.raises(ValueError, match="is an address, and those are not fetched"):
            open_video({"video": address})
    refused(f"concat:{clip}|{clip}")  # the name of a file, and there is none


def test_absurd_sizes_cost_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    forged = huge()
    tracemalloc.start()
    error = refused(forged)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert error.kind == "video too large" and "Scale it down" in str(error) and peak < 50_000_000
    content = video(20)
    monkeypatch.setattr(video_frames, "MAX_IMAGE_PIXELS", 64 * 48 - 1)
    assert refused(content).kind == "video too large"
    monkeypatch.undo()
    monkeypatch.setattr(video_frames, "MAX_VIDEO_FRAMES", 19)
    assert "has more than 19 frames. Cut it" in str(refused(content))


MISSING = """
import sys
sys.modules["av"] = None
from llavakit.processing.video_frames import open_video, video_size
print(open_video({"frames": ["%s"]}).size)
open_video({"video": "%s"})
"""


def test_only_files_need_av_and_the_remedy_is_said(tmp_path: Path) -> None:
    Image.new("RGB", (8, 6)).save(tmp_path / "a.png")
    (tmp_path / "a.mp4").write_bytes(video(3))
    code = MISSING % (tmp_path / "a.png", tmp_path / "a.mp4")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "(8, 6, 1)\n"
    assert "a.mp4' is read by the library av, which is not installed. Run: pip install av" in done.stderr


# ---- frames that come as such, and forms ----


def test_frames_in_a_list_are_taken_by_the_same_rule(tmp_path: Path) -> None:
    pictures: list[Any] = [Image.fromarray(grey(number)) for number in range(10)]
    pictures[9].save(tmp_path / "9.png")
    pictures[9] = str(tmp_path / "9.png")
    taken = open_video({"frames": pictures}, 4)
    assert [number_of(frame) for frame in taken.frames] == [0, 3, 6, 9]
    assert taken.size == video_size({"frames": pictures}, 4) == (64, 48, 4)
    assert open_video(taken, 8) == taken and len(open_video(taken, 2).frames) == 2
    with pytest.raises(PictureError, match="a video of 0 frames"):
        open_video({"frames": []})


def test_what_may_name_a_video() -> None:
    assert as_video("a.mp4") == as_video({"video": "a.mp4"}) == {"video": "a.mp4"}
    assert as_video(b"x") == {"video": b"x"}
    assert as_video(["1.png", "2.png"]) == as_video({"frames": ["1.png", "2.png"]}) == {"frames": ["1.png", "2.png"]}
    stored = {"bytes": None, "path": "a.mp4", "frames": None}
    assert as_video(stored) == {"video": stored}
    assert as_video({"bytes": None, "path": None, "frames": [stored]}) == {"frames": [stored]}
    assert is_video({"video": "a.mp4"}) and is_video(Video([])) and not is_video({"bytes": b"", "path": None})
    assert not is_video("a.mp4") and not is_video({"bytes": b"", "video": None, "frames": None})
