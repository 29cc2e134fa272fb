"""The card of a data set says what the steps' own files say, in a form that the Hub reads."""

import json
from pathlib import Path

import pytest
from huggingface_hub import DatasetCard

from llavakit.cli import main
from llavakit.data_generation.filters.filtering import filter_run
from llavakit.data_generation.mixing.dataset_card import write_dataset_card
from llavakit.data_generation.mixing.mix import mix
from llavakit.data_generation.prompts import TYPES
from llavakit.data_generation.prompts.prompt import load_prompt
from llavakit.data_generation.teachers.run_folder import open_run
from llavakit.rows.files import write_rows


def rows(name: str, count: int, row_type: str) -> list[dict]:
    turns = [
        {"from": "human", "value": "<image>\nWhat?"},
        {"from": "gpt", "value": f"A {name} on a long wooden table."},
        {"from": "human", "value": "What else?"},
        {"from": "gpt", "value": "A cup beside it."},
    ]
    return [
        {"id": f"{name}{n}", "type": row_type, "image": f"{n % 7}.jpg", "conversations": turns} for n in range(count)
    ]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run, filtered rows with their report, and a mix with its own."""
    monkeypatch.chdir(tmp_path)
    settings = {"teacher": "openai", "model": "teacher|1", "seed": 3, "base_url": "http://inside.example:8000/v1"}
    contexts = [{"id": "a", "image": "a.jpg", "captions": ["A cat."], "instances": []}]
    write_rows(contexts, tmp_path / "contexts.jsonl")
    open_run(tmp_path / "contexts.jsonl", tmp_path / "RUN", [load_prompt(name) for name in TYPES], settings)
    short = rows("x", 3, "conversation")
    for row in short:
        row["conversations"] = [*row["conversations"][:1], {"from": "gpt", "value": "A caption says so."}]
    write_rows(rows("cat", 1, "conversation") + short, tmp_path / "made.jsonl")
    filter_run(tmp_path / "made.jsonl", tmp_path / "rows.jsonl", filters=["meta_talk"])
    write_rows(rows("dog", 40, "vqav2"), tmp_path / "academic.jsonl")
    mix([(tmp_path / "rows.jsonl", 2), (tmp_path / "academic.jsonl", 38)], tmp_path / "train.jsonl")
    return tmp_path


def test_the_card_of_a_mix(folder: Path):
    command = ["data", "card", "train.jsonl", "-o", "README.md", "--name", "Pets", "--license", "cc-by-4.0"]
    command += ["--source", "COCO captions=CC BY 4.0", "--source", "photos | mine=CC0", "--run", "RUN"]
    assert main([*command, "--filter_report", "rows.report.json"]) == 0
    card = DatasetCard.load(folder / "README.md")
    assert card.data.license == "cc-by-4.0" and card.data.size_categories == "n<1K" and card.data.language == "en"
    assert card.data.pretty_name == "Pets" and card.data.configs[0]["data_files"] == "train.jsonl"
    text = card.text
    assert "40 rows with 80 answers about 7 images." in text
    settings = json.loads((folder / "RUN" / "run.json").read_text())
    for line in (
        "| COCO captions | CC BY 4.0 |",
        "| photos \\| mine | CC0 |",
        "| rows.jsonl | 5.0% | 2 | 1 | 1 |",
        "| academic.jsonl | 95.0% | 38 | 40 | 0 |",
        f"| prompts_hash | {settings['prompts_hash']} |",
        "| model | teacher\\|1 |",
        "| meta_talk | 3 | 3 |",
        "| kept | 1 | 1 |",
        "| vqav2 | 38 |",
        "- rows.jsonl: each row comes 2.00 times on average",
    ):
        assert line in text, line
    assert "inside.example" not in text and str(folder) not in text


def test_the_card_of_filtered_rows_alone(folder: Path):
    write_dataset_card("rows.jsonl", "CARD.md", name="Rows", license="other", sources={"photos": "mine"})
    text = (folder / "CARD.md").read_text()
    assert "Of 4 answers 1 were kept" in text and "## Mixture" not in text and "## Teacher" not in text


def test_what_is_missing_is_named(folder: Path, capsys: pytest.CaptureFixture):
    arguments = {"name": "Rows", "license": "other"}
    with pytest.raises(ValueError, match="sources is empty"):
        write_dataset_card("rows.jsonl", "x.md", sources={}, **arguments)
    with pytest.raises(ValueError, match="elsewhere is no run: it has no run.json"):
        write_dataset_card("rows.jsonl", "x.md", sources={"a": "b"}, runs=["elsewhere"], **arguments)
    (folder / "empty.jsonl").write_text("")
    with pytest.raises(ValueError, match="empty.jsonl has no rows"):
        write_dataset_card("empty.jsonl", "x.md", sources={"a": "b"}, **arguments)
    (folder / "broken.json").write_text("{")
    with pytest.raises(ValueError, match="broken.json is not JSON"):
        write_dataset_card("rows.jsonl", "x.md", sources={"a": "b"}, filter_reports=["broken.json"], **arguments)
    (folder / "other.json").write_text("{}")
    with pytest.raises(ValueError, match="other.json is no report"):
        write_dataset_card("rows.jsonl", "x.md", sources={"a": "b"}, filter_reports=["other.json"], **arguments)
    command = ["data", "card", "rows.jsonl", "-o", "x.md", "--name", "R", "--license", "mit", "--source", "no licence"]
    assert main(command) == 1 and "write NAME=LICENCE" in capsys.readouterr().err
    assert not (folder / "x.md").exists()


@pytest.mark.parametrize(("count", "size"), [(999, "n<1K"), (1000, "1K<n<10K"), (20_000, "10K<n<100K")])
def test_the_size_is_one_of_the_hubs_classes(tmp_path: Path, count: int, size: str):
    path = tmp_path / "rows.jsonl"
    write_rows(({**row, "image": None} for row in rows("a", 1, "sharegpt") * count), path)
    write_dataset_card(path, tmp_path / "README.md", name="R", license="mit", sources={"a": "b"})
    card = DatasetCard.load(tmp_path / "README.md")
    assert card.data.size_categories == size and f"{count:,} rows are text only" in card.text
