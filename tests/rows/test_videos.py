"""A row with a video: how it is read in either format, and what becomes of one whose video cannot be used."""

import copy
import json
from pathlib import Path
from typing import Any

import datasets
import pytest
from PIL import Image

from llavakit import load_conversations
from llavakit.processing.video_frames import Video
from llavakit.rows.bad_rows import BadRows
from llavakit.rows.images import data_uri, image_size, open_image, open_visual, resolve_images, visual_size
from llavakit.rows.schema import BadRow, normalize_row

from ..video_files import grey, number_of, video

PICTURE = Image.new("RGB", (3, 2))
PLACE = {"type": "image"}
TEXT = {"type": "text", "text": "What happens?"}


def original(value: str = "<video>\nWhat happens?", **columns: Any) -> dict[str, Any]:
    turns = [{"from": "human", "value": value}, {"from": "gpt", "value": "A cat jumps."}]
    return {"id": "a", "conversations": turns, **columns}


def ecosystem(*blocks: Any, **columns: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": [*blocks, TEXT]}, {"role": "assistant", "content": "A cat jumps."}]
    return {"id": "a", "messages": messages, **columns}


def read(row: dict[str, Any]) -> tuple[list[Any], list[Any]]:
    """The images of a row, and the blocks of its first question."""
    before = copy.deepcopy(row)
    found = normalize_row(row)
    assert row == before
    return found["images"], found["messages"][0]["content"]


# ---- formats ----


@pytest.mark.parametrize("place", ["<video>", "<image>"])  # the second as LLaVA-NeXT-Video's files have it
@pytest.mark.parametrize(
    ("given", "image"),
    [
        ("a.mp4", {"video": "a.mp4"}),
        ({"bytes": b"x", "path": None}, {"video": {"bytes": b"x", "path": None}}),
        (["1.png", PICTURE], {"frames": ["1.png", PICTURE]}),
        ({"frames": ["1.png"]}, {"frames": ["1.png"]}),
    ],
)
def test_the_original_form(place: str, given: Any, image: Any) -> None:
    assert read(original(f"{place}\nWhat happens?", video=given)) == ([image], [PLACE, TEXT])
    assert read(original(f"What happens?\n{place}", video=given, image=None)) == ([image], [TEXT, PLACE])


def test_images_and_videos_take_their_own_places() -> None:
    row = original("<image>\n<video>\n<image>\nWhat happens?", image=["1.jpg", "2.jpg"], video="a.mp4")
    assert read(row) == (["1.jpg", {"video": "a.mp4"}, "2.jpg"], [PLACE, PLACE, PLACE, TEXT])
    row = original("<image><image>\nWhat happens?", image="1.jpg", video="a.mp4")
    assert read(row) == (["1.jpg", {"video": "a.mp4"}], [PLACE, PLACE, TEXT])
    blocks = [{"type": "video"}, {"type": "image"}, {"type": "video", "path": "own.mp4"}, {"type": "video"}]
    row = ecosystem(*blocks, images=["1.jpg"], videos=["a.mp4", ["f.png"]])
    expected = [{"video": "a.mp4"}, "1.jpg", {"video": "own.mp4"}, {"frames": ["f.png"]}]
    assert read(row) == (expected, [PLACE] * 4 + [TEXT])


@pytest.mark.parametrize(
    ("block", "image"),
    [
        ({"video": "a.mp4"}, {"video": "a.mp4"}),
        ({"path": "a.mp4", "text": None}, {"video": "a.mp4"}),
        ({"video": ["1.png", "2.png"]}, {"frames": ["1.png", "2.png"]}),
        ({"frames": ["1.png"]}, {"frames": ["1.png"]}),
        ({"bytes": b"x"}, {"video": b"x"}),
    ],
)
def test_a_video_in_its_block(block: dict[str, Any], image: Any) -> None:
    assert read(ecosystem({"type": "video", **block})) == ([image], [PLACE, TEXT])


def test_strings_say_nothing_of_the_place() -> None:
    """Images stand before the first question, as trl has it; and behind them videos."""
    row = {"images": ["1.jpg"], "videos": ["a.mp4"], "messages": [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Does <video> or <image> happen?"},
        {"role": "assistant", "content": "Yes."},
    ]}  # fmt: skip
    found = normalize_row(row)
    assert found["images"] == ["1.jpg", {"video": "a.mp4"}]
    asked = {"type": "text", "text": "Does <video> or <image> happen?"}
    assert found["messages"][1]["content"] == [PLACE, PLACE, asked]


def test_video_is_text_where_there_is_none() -> None:
    asked = {"type": "text", "text": "What does <video> mean?"}
    assert read(original("<image>\nWhat does <video> mean?", image="1.jpg")) == (["1.jpg"], [PLACE, asked])
    assert read(original("What does <video> mean?")) == ([], [asked])


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        (original("<video><video>", video="a.mp4"), "video count"),
        (original("<video><video>", video="a.mp4", image="1.jpg"), "video count"),
        (original("What happens?", video="a.mp4"), "image count"),
        (ecosystem({"type": "video"}), "video count"),
        (ecosystem({"type": "image"}, {"type": "image"}, {"type": "video"}, images=["1"], videos=["a", "b"]), "video count"),
        (ecosystem({"type": "video", "url": "https://127.0.0.1/a.mp4"}), "video path"),
    ],
)  # fmt: skip
def test_places_and_videos_belong_together(row: dict[str, Any], kind: str) -> None:
    with pytest.raises(BadRow, match="id 'a'") as caught:
        normalize_row(row)
    assert caught.value.kind == kind


# ---- paths and files ----


def test_no_video_leaves_its_folder_and_nothing_is_fetched(tmp_path: Path) -> None:
    inside = resolve_images([{"video": "a.mp4"}, {"frames": ["1.png", PICTURE]}], tmp_path, "row 3")
    assert inside == [{"video": str(tmp_path / "a.mp4")}, {"frames": [str(tmp_path / "1.png"), PICTURE]}]
    for image, kind in (({"video": "../a.mp4"}, "video path"), ({"frames": ["../a.png"]}, "image path")):
        with pytest.raises(BadRow, match=r"^row 3: the \w+ '../a.\w+' lies outside the image folder") as caught:
            resolve_images([image], tmp_path, "row 3")
        assert caught.value.kind == kind
    for address in ("https://127.0.0.1:9/a.mp4", "data:video/mp4;base64,AAAA"):
        for source in ({"video": address}, {"video": {"path": address, "bytes": None}}, {"frames": [address]}):
            for ask in (visual_size, open_visual):
                with pytest.raises(BadRow, match="^row 3: the .* is a URL, and those are not fetched") as caught:
                    ask(source, "row 3")
                assert caught.value.kind == ("image path" if "frames" in source else "video path")
        with pytest.raises(BadRow, match="is a URL"):
            resolve_images([{"video": address}], None, "row 3")


def test_where_only_an_image_is_taken_a_video_is_named() -> None:
    for ask in (open_image, image_size, data_uri):
        with pytest.raises(BadRow, match="^row 3: there is a video where only an image is taken"):
            ask({"video": "a.mp4"}, "row 3")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A whole video, one that ends early, frames, and rows that name them."""
    (tmp_path / "whole.mp4").write_bytes(video(20))
    (tmp_path / "early.mp4").write_bytes(video(20)[:-300])
    for number in range(3):
        Image.fromarray(grey(number)).save(tmp_path / f"{number}.png")
    rows = [
        original(video="whole.mp4"),
        original("<image>\nWhat happens?", video=[f"{number}.png" for number in range(3)]),
        original(video="early.mp4"),
        original(video="gone.mp4"),
        original("<image>\nWhat is it?", image="0.png"),
    ]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    return tmp_path


def test_a_table_has_videos_in_a_column_of_their_own(folder: Path) -> None:
    loaded = load_conversations(folder / "rows.json")
    assert loaded["videos"][0] == [{"bytes": None, "path": str(folder / "whole.mp4"), "frames": None}]
    assert loaded[0]["messages"][0]["content"][0] == {"type": "video", "text": None}
    assert [frame["path"] for frame in loaded[1]["videos"][0]["frames"]] == [
        str(folder / f"{number}.png") for number in range(3)
    ]
    assert (loaded[4]["videos"], len(loaded[4]["images"])) == ([], 1)
    # What is written so is read again
    for row in (loaded[0], loaded[1]):
        taken = open_visual(normalize_row(row)["images"][0], "row 0")
        assert isinstance(taken, Video) and len(taken.frames) in (3, 8)
    stream = load_conversations(folder / "rows.json", streaming=True)
    assert next(iter(stream)) == loaded[0]


def test_videos_of_datasets_are_read_without_decoding(folder: Path) -> None:
    whole = str(folder / "whole.mp4")
    features = datasets.Features({"videos": datasets.List(datasets.Video()), "messages": [
        {"role": datasets.Value("string"), "content": datasets.Value("string")}
    ]})  # fmt: skip
    rows = {
        "videos": [[whole]],
        "messages": [[{"role": "user", "content": "What?"}, {"role": "assistant", "content": "A"}]],
    }
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(folder / "saved")
    loaded = load_conversations(folder / "saved")
    (stored,) = loaded[0]["videos"]
    assert stored["bytes"] == (folder / "whole.mp4").read_bytes()
    taken = open_visual(normalize_row(loaded[0])["images"][0], "row 0", 2)
    assert isinstance(taken, Video) and [number_of(frame) for frame in taken.frames] == [0, 19]


def test_a_video_that_ends_early_is_a_bad_row_and_left_out_by_skip(folder: Path) -> None:
    sources = {name: {"video": str(folder / name)} for name in ("whole.mp4", "early.mp4", "gone.mp4")}
    bad = BadRows("skip")
    sizes = list(bad.map(lambda item: visual_size(item[1], item[0], 5), sources.items()))
    assert sizes == [(64, 48, 5)] and len(bad.reasons) == 2
    assert bad.reasons[0].startswith(f"early.mp4: the video {str(folder / 'early.mp4')!r} ends early: ")
    assert bad.reasons[1].startswith(f"gone.mp4: there is no video {str(folder / 'gone.mp4')!r}. Correct the path.")
    with pytest.raises(BadRow, match=r"ends early.*Replace it, or write it anew\.$"):
        open_visual(sources["early.mp4"], "row 2")


def test_a_library_that_is_missing_is_no_fault_of_the_row(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(ValueError, match="Run: pip install av") as caught:
        open_visual({"video": str(folder / "whole.mp4")}, "row 2")
    assert not isinstance(caught.value, BadRow)
