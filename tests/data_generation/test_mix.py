"""Mixing files of rows: shares, repeats, order, and a parquet file that training and `datasets` read."""

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import pytest

from llavakit import load_conversations
from llavakit.cli import main
from llavakit.data_generation.mixing.mix import mix, parse_source
from llavakit.rows.files import read_rows, write_rows


def make_rows(
    name: str, count: int, row_type: str | None = None, image: str | None = "{}.jpg"
) -> list[dict[str, Any]]:
    turns = [{"from": "human", "value": "<image>\nWhat?" if image else "What?"}]
    return [
        {
            "id": f"{name}{number}",
            "type": row_type,
            "image": image and image.format(number),
            "conversations": [*turns, {"from": "gpt", "value": f"{name} {number}"}],
            "score": number,
        }
        for number in range(count)
    ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three sources of 100, 60 and 40 rows, a format each."""
    write_rows(make_rows("c", 100, "conversation"), tmp_path / "conversation.jsonl")
    write_rows(make_rows("v", 60, "vqav2"), tmp_path / "vqa.parquet")
    write_rows(make_rows("r", 40, "reasoning", None), tmp_path / "reasoning.json")
    return tmp_path


def taken(path: Path) -> Counter[str]:
    return Counter(row["id"][0] for row in read_rows(path))


# the amounts


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.jsonl:0.3", ("a.jsonl", 0.3)),
        ("a.jsonl:12000", ("a.jsonl", 12000)),
        ("a.jsonl:2", ("a.jsonl", 2)),
        ("a.jsonl:1.0", ("a.jsonl", 1.0)),
        ("a.jsonl:3.5", ("a.jsonl", 3.5)),
        ("a.jsonl", ("a.jsonl", None)),
        ("s3:b/a.jsonl", ("s3:b/a.jsonl", None)),
        ("s3:b/a.jsonl:0.5", ("s3:b/a.jsonl", 0.5)),
    ],
)
def test_a_source_says_its_amount(text: str, expected: tuple[str, Any]):
    parsed = parse_source(text)
    assert parsed == expected and type(parsed[1]) is type(expected[1])


def test_an_amount_of_one_could_be_either():
    with pytest.raises(ValueError, match="1 may be all or one row. Write a.jsonl:1.0"):
        parse_source("a.jsonl:1")
    for bad in ("0", "0.0", "-0.5", "-3", "nan", "inf"):
        with pytest.raises(ValueError, match=f"'a.jsonl:{bad}'"):
            parse_source(f"a.jsonl:{bad}")


def test_ratios_give_the_largest_set_without_repeats(folder: Path):
    sources = [(folder / "conversation.jsonl", 0.5), (folder / "vqa.parquet", 0.3), (folder / "reasoning.json", 0.2)]
    report = mix(sources, folder / "train.jsonl")
    assert taken(folder / "train.jsonl") == {"c": 100, "v": 60, "r": 40} and report["notes"] == []
    sources = [(folder / "conversation.jsonl", 0.25), (folder / "vqa.parquet", 0.75)]
    assert mix(sources, folder / "train.jsonl")["rows"] == 80
    ids = [row["id"] for row in read_rows(folder / "train.jsonl")]
    assert Counter(name[0] for name in ids) == {"c": 20, "v": 60} and len(set(ids)) == 80


def test_ratios_of_another_sum_are_divided_by_it(folder: Path):
    sources = [(folder / "conversation.jsonl", 0.3), (folder / "vqa.parquet", 0.3)]
    report = mix(sources, folder / "train.jsonl", num_rows=41)
    assert report["notes"] == ["ratios sum to 0.6, so each is divided by that"]
    assert report["rows"] == 41 and sorted(taken(folder / "train.jsonl").values()) == [20, 21]


def test_counts_and_repeats(folder: Path):
    report = mix([(folder / "vqa.parquet", 150), (folder / "conversation.jsonl", 7)], folder / "train.jsonl")
    vqa, conversation = report["pools"]
    assert (vqa["taken"], vqa["available"], vqa["repeats"]) == (150, 60, 90)
    assert (conversation["taken"], conversation["left_out"]) == (7, 93)
    assert any("2.50 times" in note for note in report["notes"])
    of_each = Counter(row["id"] for row in read_rows(folder / "train.jsonl") if row["id"][0] == "v")
    assert len(of_each) == 60 and set(of_each.values()) == {2, 3}, "all come twice before one comes three times"


def test_the_default_goes_by_type(folder: Path):
    files = [(folder / name, None) for name in ("conversation.jsonl", "vqa.parquet", "reasoning.json")]
    report = mix(files, folder / "train.jsonl")
    assert taken(folder / "train.jsonl") == {"v": 60, "c": 36, "r": 24}
    assert [pool["pool"] for pool in report["pools"]] == ["academic", "conversation", "reasoning"]
    write_rows(make_rows("d", 5, "detail") + make_rows("s", 5, "sharegpt"), folder / "more.jsonl")
    report = mix([*files, (folder / "more.jsonl", None)], folder / "train.jsonl")
    assert report["pools"][1]["available"] == 110
    report = mix(files[:2], folder / "train.jsonl", num_rows=80)
    assert taken(folder / "train.jsonl") == {"v": 50, "c": 30}
    assert report["notes"][0] == "no rows of reasoning: the others share the set"
    write_rows(make_rows("x", 3, "poem"), folder / "poems.jsonl")
    with pytest.raises(
        ValueError, match=r"poems.jsonl, row 0 \(id 'x0'\): the default mix has no share for type='poem'"
    ):
        mix([(folder / "poems.jsonl", None)], folder / "x.jsonl")


def test_rows_are_interleaved_by_the_seed(folder: Path):
    sources = [(folder / "conversation.jsonl", 0.5), (folder / "reasoning.json", 0.5)]
    first, second, other = (folder / name for name in ("1.jsonl", "2.jsonl", "3.jsonl"))
    for path, seed in ((first, 0), (second, 0), (other, 1)):
        mix(sources, path, seed=seed)
    assert first.read_bytes() == second.read_bytes() != other.read_bytes()
    names = "".join(row["id"][0] for row in read_rows(first))
    assert 20 < names.count("cr") + names.count("rc") < 60 and 5 < names[:30].count("r") < 25
    assert {row["id"] for row in read_rows(first)} != {row["id"] for row in read_rows(other)}


# what comes out


def test_parquet_is_read_by_training_and_by_datasets(folder: Path, rows_file: Path):
    """`rows_file` has real images, two turns, and a row without an image."""
    assert rows_file.parent == folder
    mix([(rows_file, 12), (folder / "reasoning.json", 10)], folder / "train.parquet")
    plain = datasets.load_dataset("parquet", data_files=str(folder / "train.parquet"), split="train")
    assert plain.column_names == ["id", "type", "source", "image", "conversations"] and len(plain) == 22
    loaded = load_conversations(folder / "train.parquet")
    assert len(loaded) == 22
    pictures = [row["images"][0].size for row in loaded if row["images"]]
    assert len(pictures) == 11 and all(height == 40 for _, height in pictures)
    originals = {row["id"]: row for row in json.loads(rows_file.read_text())}
    for row in plain:
        if row["source"] == "rows.json":
            assert row["conversations"] == originals[row["id"]]["conversations"]
            assert row["image"] == originals[row["id"]]["image"]


def test_sources_have_image_folders_of_their_own(folder: Path):
    source = folder / "vqa.parquet"
    mix([(source, 60), (folder / "reasoning.json", 40)], folder / "t.jsonl", image_prefixes={str(source): "coco/"})
    images = {row["id"]: row["image"] for row in read_rows(folder / "t.jsonl")}
    assert images["v7"] == "coco/7.jpg" and images["r7"] is None
    with pytest.raises(ValueError, match="image_prefixes of .'other'., which are no sources"):
        mix([(source, 2)], folder / "t.jsonl", image_prefixes={"other": "x"})


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_rows_of_several_images_are_mixed(suffix: str, folder: Path):
    first, *others = make_rows("m", 3)
    turns = [{"from": "human", "value": "<image>\n<image>\nWhat differs?"}, {"from": "gpt", "value": "The dog."}]
    several = {**first, "image": ["a.jpg", "b.jpg"], "conversations": turns}
    write_rows([several, *others, {**first, "id": "text", "image": None}], folder / "many.jsonl")
    output = folder / f"mixed{suffix}"
    mix([(folder / "many.jsonl", 1.0)], output, image_prefixes={str(folder / "many.jsonl"): "set"})
    images = {row["id"]: row["image"] for row in read_rows(output)}
    assert images[first["id"]] == ["set/a.jpg", "set/b.jpg"] and images["text"] == []
    assert all(images[row["id"]] == [f"set/{row['image']}"] for row in others)


def test_what_cannot_be_mixed_is_named(folder: Path):
    vqa, reasoning = folder / "vqa.parquet", folder / "reasoning.json"
    with pytest.raises(ValueError, match="mix sorts"):
        mix([(vqa, 0.5), (reasoning, 20)], folder / "x.jsonl")
    with pytest.raises(ValueError, match="name a file twice"):
        mix([(vqa, 0.5), (vqa, 0.5)], folder / "x.jsonl")
    with pytest.raises(ValueError, match="num_rows=5 with numbers of rows"):
        mix([(vqa, 2)], folder / "x.jsonl", num_rows=5)
    with pytest.raises(ValueError, match="1 is no ratio"):
        mix([(vqa, 1)], folder / "x.jsonl")
    with pytest.raises(ValueError, match="no sources"):
        mix([], folder / "x.jsonl")
    with pytest.raises(FileNotFoundError):
        mix([(folder / "absent.jsonl", 2)], folder / "x.jsonl")
    (folder / "empty.jsonl").write_text("")
    with pytest.raises(ValueError, match="empty.jsonl has no rows"):
        mix([(vqa, 0.5), (folder / "empty.jsonl", 0.5)], folder / "x.jsonl")
    (folder / "odd.json").write_text('[{"id": 3, "messages": []}]')
    with pytest.raises(ValueError, match=r"row 0 \(id 3\): no 'conversations'"):
        mix([(folder / "odd.json", 2)], folder / "x.jsonl")
    write_rows([make_rows("m", 1)[0] | {"image": ["a", "b"]}], folder / "many.jsonl")
    with pytest.raises(ValueError, match="'image' is a list"):
        mix([(folder / "many.jsonl", 2)], folder / "x.jsonl")
    assert not list(folder.glob("x.*"))


def test_the_command(folder: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(folder)
    sources = ["conversation.jsonl:0.3", "vqa.parquet:0.5", "reasoning.json:0.2"]
    command = [
        "data",
        "mix",
        *sources,
        "--rows",
        "200",
        "--image_prefix",
        "vqa.parquet=coco",
        "-o",
        "out/train.parquet",
    ]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "200 rows -> out/train.parquet" in printed and "vqa.parquet: each row comes 1.67 times" in printed
    assert taken(Path("out/train.parquet")) == {"c": 60, "v": 100, "r": 40}
    report = json.loads(Path("out/train.report.json").read_text())
    assert report["by_source_and_type"][0] == {"source": "conversation.jsonl", "type": "conversation", "rows": 60}
    assert [path.name for path in sorted(Path("out").iterdir())] == ["train.parquet", "train.report.json"]
    assert main(["data", "mix", "vqa.parquet:1", "-o", "x.parquet"]) == 1
    assert main(["data", "mix", "vqa.parquet:5", "--image_prefix", "coco", "-o", "x.parquet"]) == 1
    assert "write FILE=FOLDER" in capsys.readouterr().err


def test_shares_hold_for_any_ratios(folder: Path):
    draw = random.Random(0)
    names = ("conversation.jsonl", "vqa.parquet", "reasoning.json")
    for _ in range(20):
        sources = [(folder / name, draw.uniform(0.01, 2.0)) for name in names]
        num_rows = draw.randrange(1, 300)
        report = mix(sources, folder / "any.jsonl", num_rows=num_rows)
        assert report["rows"] == num_rows == sum(taken(folder / "any.jsonl").values())
        total = sum(ratio for _, ratio in sources)
        for pool, (_, ratio) in zip(report["pools"], sources, strict=True):
            assert abs(pool["taken"] - num_rows * ratio / total) < 1
