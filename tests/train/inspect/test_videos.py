"""Rows with videos: each kind of fault is found and counted, and what is taken of a video is shown."""

import base64
import io
import json
from pathlib import Path

import numpy as np
from PIL import Image

from llavakit import LlavaProcessor
from llavakit.rows.schema import BAD_ROW_KINDS

from ...video_files import grey, huge, video
from .inspected_rows import Row, inspected


def row(row_id: str, given: object, first: str = "<video>\n") -> Row:
    turns = [{"from": "human", "value": f"{first}what is it"}, {"from": "gpt", "value": "a cat"}]
    return {"id": row_id, "video": given, "conversations": turns}


def files(folder: Path) -> list[Row]:
    (folder / "good.mp4").write_bytes(video(20))
    (folder / "early.mp4").write_bytes(video(20)[:-300])
    (folder / "huge.avi").write_bytes(huge())
    (folder / "text.mp4").write_text("no video")
    Image.fromarray(grey(7)).save(folder / "7.png")
    return [
        row("good", "good.mp4"),
        row("frames", ["7.png", "7.png", "7.png"], "<image>\n"),
        row("early", "early.mp4"),
        row("text", "text.mp4"),
        row("huge", "huge.avi"),
        row("missing", "none.mp4"),
        row("leaves", "../secret.mp4"),
        row("url", "https://127.0.0.1/a.mp4"),
        row("count", "good.mp4", "<video><video>\n"),
        row("again", "good.mp4", "<image>\n"),
    ]


def test_every_kind_of_fault_of_a_video_is_found_and_counted(processor: LlavaProcessor, tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text(json.dumps(files(tmp_path)))
    found = inspected(tmp_path / "rows.json", processor)
    unusable = {kind: [row.id for row in listing.rows] for kind, listing in found.unusable.items()}
    assert unusable == {
        "video count": ["count"],
        "video path": ["leaves", "url"],
        "video missing": ["missing"],
        "video unreadable": ["early", "text"],
        "video too large": ["huge"],
    }
    assert set(unusable) == {kind for kind in BAD_ROW_KINDS if kind.startswith("video ")}
    assert (found.num_rows, found.num_usable) == (10, 3)
    assert found.image_faults == {"video missing": 1, "video unreadable": 2, "video too large": 1}
    assert (found.num_images, found.num_distinct_images) == (9, 8)  # one file is named twice


def test_the_frames_that_are_taken_are_shown(processor: LlavaProcessor, tmp_path: Path) -> None:
    rows = files(tmp_path)[:2]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    shown = inspected(tmp_path / "rows.json", processor, num_rows=2).shown
    (good,), (frames,) = (one.pictures for one in shown)
    assert good.text == f"video of 64 x 48 pixels: 8 frames, {good.num_tokens} tokens"
    assert (good.num_views, frames.num_views, shown[1].num_images) == (8, 3, 1)
    sheet = np.asarray(Image.open(io.BytesIO(base64.b64decode(good.address.partition(",")[2]))).convert("L")).astype(
        int
    )
    side = processor.image_size[0]
    gap = max(1, round(0.05 * side))
    middles = [
        sheet[row * (side + gap) + side // 2, column * (side + gap) + side // 2]
        for row in (0, 1)
        for column in range(4)
    ]
    expected = [grey(number)[0, 0, 0] for number in np.linspace(0, 19, 8, dtype=int)]
    assert np.abs(np.array(middles) - expected).max() <= 3
