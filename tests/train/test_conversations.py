"""load_conversations reads both formats from each kind of place, lazily, and names what it cannot read."""

import json
from pathlib import Path

import datasets
import pytest

from llavakit import load_conversations
from llavakit.rows.schema import BadRow


@pytest.fixture
def reference(rows_file: Path) -> list[dict]:
    return list(load_conversations(rows_file).select_columns(["id", "messages"]))


def test_images_decode_when_looked_at(rows_file: Path):
    rows = load_conversations(rows_file)
    (rows_file.parent / "3.png").write_bytes(b"no image")
    assert rows[0]["images"][0].size == (30, 40)
    assert rows[5]["images"] == []
    assert len(rows) == 12


def test_jsonl_parquet_folder_disk_and_streaming_agree(rows_file: Path, reference: list[dict], tmp_path: Path):
    raw = json.loads(rows_file.read_text())
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "folder").mkdir(parents=True)
    jsonl = elsewhere / "rows.jsonl"
    jsonl.write_text("\n".join(json.dumps(row) for row in raw))
    (elsewhere / "folder" / "part.json").write_text(rows_file.read_text())
    original_parquet = elsewhere / "original.parquet"
    datasets.Dataset.from_list(raw).to_parquet(original_parquet)
    loaded = load_conversations(rows_file)
    loaded.save_to_disk(str(elsewhere / "disk"))
    own_parquet = elsewhere / "own.parquet"
    loaded.to_parquet(own_parquet)

    for place in (jsonl, elsewhere / "folder", original_parquet, own_parquet, elsewhere / "disk"):
        for streaming in (False, True):
            rows = load_conversations(place, image_folder=rows_file.parent, streaming=streaming)
            assert isinstance(rows, datasets.IterableDataset) == streaming
            assert list(rows.select_columns(["id", "messages"])) == reference, place
            assert next(iter(rows))["images"][0].size == (30, 40)


def test_the_ecosystems_rows_are_read(rows_file: Path, tmp_path: Path):
    path = tmp_path / "messages.jsonl"
    messages = [{"role": "user", "content": "what is it"}, {"role": "assistant", "content": "a cat"}]
    path.write_text(json.dumps({"images": ["0.png"], "messages": messages}))
    row = load_conversations(path)[0]
    assert [block["type"] for block in row["messages"][0]["content"]] == ["image", "text"]
    assert row["images"][0].size == (30, 40)


def test_a_changed_file_is_read_again(rows_file: Path):
    assert len(load_conversations(rows_file)) == 12
    rows_file.write_text(json.dumps(json.loads(rows_file.read_text())[:3]))
    assert len(load_conversations(rows_file)) == 3


@pytest.mark.parametrize("streaming", [False, True])
def test_a_bad_row_is_named_or_skipped(rows_file: Path, caplog: pytest.LogCaptureFixture, streaming: bool):
    raw = json.loads(rows_file.read_text())
    raw[4]["conversations"][1]["value"] = ""
    rows_file.write_text(json.dumps(raw))
    with pytest.raises(BadRow, match="row 4, id 'r4': the answer in turn 1 is empty"):
        list(load_conversations(rows_file, streaming=streaming))
    kept = list(load_conversations(rows_file, streaming=streaming, on_bad_row="skip"))
    assert len(kept) == 11
    assert "1 row(s) left out" in caplog.text and "row 4, id 'r4'" in caplog.text


@pytest.mark.parametrize(
    ("image", "named"),
    [
        ("../secret.png", "outside the image folder"),
        ("/etc/passwd", "outside the image folder"),
        ("link/secret.png", "outside the image folder"),
        ("http://127.0.0.1/a.png", "is a URL"),
        ("data:image/png;base64,AAAA", "is a URL"),
    ],
)
def test_image_paths_stay_in_their_folder(rows_file: Path, tmp_path: Path, image: str, named: str):
    outside = tmp_path.parent / "outside"
    outside.mkdir(exist_ok=True)
    (tmp_path / "link").symlink_to(outside)
    raw = json.loads(rows_file.read_text())
    raw[2]["image"] = image
    rows_file.write_text(json.dumps(raw))
    with pytest.raises(BadRow, match="row 2, id 'r2'") as caught:
        load_conversations(rows_file)
    assert named in str(caught.value)


def test_places_that_hold_no_rows_are_named(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        load_conversations(tmp_path / "none.json")
    with pytest.raises(ValueError, match="folder without"):
        load_conversations(tmp_path)
    (tmp_path / "broken.json").write_text("[{")
    with pytest.raises(ValueError, match="is not JSON"):
        load_conversations(tmp_path / "broken.json")
    (tmp_path / "broken.jsonl").write_text('{"id": 1}\n{oh')
    with pytest.raises((ValueError, BadRow), match="line 2 is not JSON|row 0"):
        load_conversations(tmp_path / "broken.jsonl")
    (tmp_path / "rows.txt").write_text("x")
    with pytest.raises(ValueError, match="none of"):
        load_conversations(tmp_path / "rows.txt")
    with pytest.raises(ValueError, match="on_bad_row='maybe'"):
        load_conversations(tmp_path / "broken.json", on_bad_row="maybe")
