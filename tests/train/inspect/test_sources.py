"""The inspection of files, folders, data sets and streams, by one process and by several."""

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from llavakit import LlavaCollator, LlavaProcessor, load_conversations
from llavakit.rows.loading import read_raw_rows
from llavakit.train.inspect import (
    Inspection,
    inspect_rows,
    reading,
    shown_rows,
)

from .inspected_rows import Row, inspected, png_of, raw_rows, talk, text_row


def comparable(found: Inspection) -> Row:
    return {key: value for key, value in dataclasses.asdict(found).items() if key != "data"}


def test_all_sources_agree(processor: LlavaProcessor, rows_file: Path, tmp_path: Path):
    import datasets

    raw = raw_rows(rows_file)
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "folder").mkdir(parents=True)
    (elsewhere / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in raw))
    (elsewhere / "folder" / "part.json").write_text(rows_file.read_text())
    datasets.Dataset.from_list(raw).to_parquet(elsewhere / "rows.parquet")
    loaded = load_conversations(rows_file)
    loaded.to_parquet(elsewhere / "own.parquet")
    loaded.save_to_disk(str(elsewhere / "disk"))
    collator = LlavaCollator(processor, 170)
    expected = comparable(inspect_rows(raw, collator, image_folder=rows_file.parent))
    assert expected["num_usable"] == 12 and len(expected["shown"]) == 8 and expected["truncated"]["count"] == 3
    for place in ("rows.jsonl", "folder", "rows.parquet", "own.parquet", "disk"):
        # Rows that load_conversations wrote have their paths already, or the pictures themselves
        given = None if place in ("own.parquet", "disk") else rows_file.parent
        rows, folder = read_raw_rows(elsewhere / place, given)
        folder = None if place == "own.parquet" else folder
        assert comparable(inspect_rows(rows, collator, image_folder=folder)) == expected, place


def test_bad_rows_of_a_data_set_are_found_too(processor: LlavaProcessor, rows_file: Path, tmp_path: Path):
    loaded = load_conversations(rows_file)
    (rows_file.parent / "3.png").write_bytes(b"no image")
    loaded.save_to_disk(str(tmp_path / "disk"))
    found = inspected(tmp_path / "disk", processor)
    assert [row.id for row in found.unusable["image unreadable"].rows] == ["r3"]


def test_images_in_the_rows_are_told_apart_by_content(processor: LlavaProcessor, tmp_path: Path, photo: str):
    one, other = (tmp_path / photo).read_bytes(), png_of(50, 40)
    sources: list[object] = [
        {"bytes": one, "path": None},
        {"bytes": other, "path": None},
        {"bytes": one, "path": None},
        Image.new("RGB", (30, 30), "red"),
        Image.new("RGB", (30, 30), "blue"),
        Image.new("RGB", (30, 30), "red"),
    ]
    rows = [talk(str(number), source, "what is it", "a cat") for number, source in enumerate(sources)]
    found = inspect_rows(rows, LlavaCollator(processor))
    assert (found.num_images, found.num_distinct_images, found.num_usable) == (6, 4, 5)
    assert found.image_faults == {"image unreadable": 1}


@pytest.mark.slow
@pytest.mark.parametrize("num_proc", [None, 2])
def test_a_stream_is_read_a_few_rows_ahead_and_once(processor: LlavaProcessor, num_proc: int | None):
    read: list[int] = []
    checked = 0

    def stream() -> Iterator[Row]:
        for number in range(3000):
            read.append(number)
            assert number - checked <= 6 * reading.CHUNK
            yield text_row(str(number), "what is it", "a cat")

    def counting(kept: Callable = shown_rows.Spread.add) -> Callable:
        def add(self: object, row: tuple) -> None:
            nonlocal checked
            checked += 1
            kept(self, row)

        return add

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shown_rows.Spread, "add", counting())
        found = inspect_rows(stream(), LlavaCollator(processor, 200), num_rows=3, num_proc=num_proc)
    assert read == list(range(3000)) and found.num_usable == checked == 3000
    indices = [row.index for row in found.shown]
    assert len(indices) == 3 and indices[0] == 0 and 1000 < indices[1] < 2000 < indices[2]
    assert [row.id for row in found.shown] == [str(index) for index in indices]


def test_several_processes_find_the_same(processor: LlavaProcessor, one_of_each: Path):
    alone, shared = (comparable(inspected(one_of_each, processor, num_proc=number)) for number in (None, 2))
    assert alone == shared and alone["num_rows"] == 25


def test_shown_rows_are_spread_over_the_usable_ones():
    for rows in (0, 1, 2, 7, 8, 9, 15, 16, 17, 100, 1001):
        for wanted in (0, 1, 2, 8):
            spread = shown_rows.Spread(wanted)
            for number in range(rows):
                spread.add((number, None))
                assert len(spread.kept) <= 2 * wanted
            shown = [index for index, _ in spread.rows()]
            assert shown == sorted(set(shown)) and len(shown) == min(rows, wanted)
            if wanted > 1 and rows > wanted:
                gaps = np.diff([*shown, rows])
                assert shown[0] == 0 and gaps.max() <= 4 * rows / wanted
