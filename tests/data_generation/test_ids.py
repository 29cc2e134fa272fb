"""Keys: an id says which image it is of by its path, none is given twice, and equal ids of others do no harm."""

import json
from pathlib import Path

import pytest

from llavakit.cli import main
from llavakit.data_generation.ids import UniqueIds, image_id
from llavakit.data_generation.sources.academic_rows import merged_rows
from llavakit.data_generation.viewing.viewer_cards import make_card
from llavakit.rows.files import read_rows, write_rows

TEXTS = [
    "The red bus drives along a wet street in front of a grey stone building while two people wait under umbrellas.",
    "It might be late autumn, since the trees have lost their leaves and the people wear heavy coats and scarves.",
    "A child in a yellow raincoat jumps into a puddle and laughs, and her brother watches from the kerb beside her.",
]


@pytest.mark.parametrize(
    ("path", "id"),
    [
        ("front.jpg", "front"),
        ("SKU1/front.jpg", "SKU1/front"),
        ("v1.2/front", "v1.2/front"),
        ("/data/SKU1/front.jpg", "data/SKU1/front"),
        ("SKU1\\front.jpg", "SKU1/front"),
    ],
)
def test_an_image_is_called_by_its_path(path: str, id: str) -> None:
    assert image_id(path) == id


def test_no_id_is_given_twice() -> None:
    ids = UniqueIds()
    paths = ["a.jpg", "a.png", "b/a.jpg", "a.png.jpg"]
    given = [ids.of_image(path) for path in paths]
    assert given[:3] == ["a", "a.png", "b/a"] and len(set(given)) == len(paths)
    assert [ids.of_image(path) for path in paths] == given, "an image that comes again is the same image"
    assert [ids.take(name) for name in ("x-1", "x", "x", "x", "x-1")] == ["x-1", "x", "x-2", "x-3", "x-1-1"]


def test_images_of_one_name_in_two_folders_are_two_rows() -> None:
    exchanges = [
        (f"{sku}/front.jpg", number, (f"What is it? {number}", "A mug.")) for sku in "AB" for number in (0, 1)
    ]
    exchanges += [("A/front-1.jpg", 0, ("What?", "A cup."))]
    ids = [row["id"] for row in merged_rows(exchanges, "vqa")]
    assert ids == ["vqa-A/front", "vqa-A/front-1", "vqa-B/front", "vqa-B/front-1", "vqa-A/front-1-1"]


def test_rows_of_equal_ids_are_filtered_each_for_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    turns = [[{"from": "human", "value": "<image>\nTell me."}, {"from": "gpt", "value": text}] for text in TEXTS]
    rows = [{"id": "33471", "image": "a.jpg", "conversations": turn} for turn in (*turns, turns[1])]
    write_rows(rows, tmp_path / "rows.json")
    assert main(["data", "filter", str(tmp_path / "rows.json"), "-o", str(tmp_path / "kept.jsonl")]) == 0
    assert "3 of 4 answers kept" in capsys.readouterr().out
    assert list(read_rows(tmp_path / "kept.jsonl")) == rows[:3]
    (rejected,) = read_rows(tmp_path / "kept.rejected.jsonl")
    assert rejected["reason"] == "near_duplicates: says nearly the same as '33471'"


def test_sharegpt_s_equal_ids_become_different_ones(tmp_path: Path) -> None:
    talk = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello."}]
    (tmp_path / "s.json").write_text(json.dumps([{"id": "x", "conversations": talk}] * 3))
    command = ["data", "academic", "sharegpt", "--conversations", str(tmp_path / "s.json")]
    assert main([*command, "-o", str(tmp_path / "rows.jsonl")]) == 0
    assert [row["id"] for row in read_rows(tmp_path / "rows.jsonl")] == ["sharegpt-x", "sharegpt-x-1", "sharegpt-x-2"]


def test_a_card_shows_the_row_s_own_context(tmp_path: Path) -> None:
    known = {
        name: {"id": name, "image": None, "captions": [f"Of {name}."], "instances": []} for name in ("a", "a-detail")
    }
    turns = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "A mug."}]

    def captions(row: dict) -> list[str]:
        return make_card(row, known, tmp_path).captions

    assert captions({"id": "a-detail", "type": "detail", "conversations": turns}) == ["Of a."]
    assert captions({"id": "a-detail-detail", "type": "detail", "conversations": turns}) == ["Of a-detail."]
    assert captions({"id": "a-detail", "type": "detail", "status": "answered", "text": "A mug."}) == ["Of a-detail."]
