"""Rows of a split are that split's alone, wherever they are read from."""

import json
from pathlib import Path

import datasets
import pytest

from llavakit import load_conversations


def write(file: Path, *names: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    turns = [{"from": "human", "value": "say it"}, {"from": "gpt", "value": "it"}]
    file.write_text(json.dumps([{"id": name, "image": None, "conversations": turns} for name in names]))
    return file


def ids(*args: object, **kwargs: object) -> list[str]:
    return list(load_conversations(*args, **kwargs)["id"])


def test_a_folders_splits_are_its_files(tmp_path: Path):
    for name in ("train-00", "more", "test", "dev/rows"):
        write(tmp_path / "my-eval-data" / f"{name}.json", name)
    folder = tmp_path / "my-eval-data"
    assert ids(folder) == ["more", "train-00"]
    assert ids(folder, split="test") == ["test"] and ids(folder, split="validation") == ["dev/rows"]
    assert ids(folder, split="more") == ["more"]
    assert [row["id"] for row in load_conversations(folder, split="test", streaming=True)] == ["test"]
    with pytest.raises(ValueError, match=r"split='nonsense' is not in .*\['test', 'train', 'validation'\]"):
        load_conversations(folder, split="nonsense")


def test_a_file_is_one_split(tmp_path: Path):
    held_out, rows = write(tmp_path / "rows_test.json", "a"), write(tmp_path / "train.json", "b")
    assert ids(held_out, split="test") == ["a"] == ids(held_out) and ids(rows) == ["b"]
    for split in ("test", "nonsense", "train[:1]"):
        with pytest.raises(ValueError, match="a file by itself is one split, 'train'"):
            load_conversations(rows, split=split)


def test_what_was_saved_to_disk_has_the_splits_it_has(tmp_path: Path):
    rows = load_conversations(write(tmp_path / "rows.json", "a", "b"))
    rows.save_to_disk(tmp_path / "one")
    assert ids(tmp_path / "one") == ["a", "b"]
    with pytest.raises(ValueError, match="it holds one data set, 'train'"):
        load_conversations(tmp_path / "one", split="test")
    datasets.DatasetDict(train=rows.select([0]), test=rows.select([1])).save_to_disk(tmp_path / "two")
    assert ids(tmp_path / "two", split="test") == ["b"] and ids(tmp_path / "two") == ["a"]


def test_a_configuration_is_the_hubs(tmp_path: Path):
    with pytest.raises(ValueError, match="config='default'.*has no configurations"):
        load_conversations(write(tmp_path / "rows.json", "a"), config="default")
