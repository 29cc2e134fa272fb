"""`llavakit data filter`: a run's folder, or a file of rows, to rows, rejected rows and a report."""

import json
from pathlib import Path

import pytest

from llavakit.cli import main
from llavakit.data_generation.filters.filtering import filter_run
from llavakit.rows.files import read_rows, write_rows

CONTEXTS = [
    {
        "id": "a",
        "image": "a.jpg",
        "captions": ["A brown dog sleeps on a couch.", "A puppy naps beside a pillow."],
        "instances": [{"category": "dog", "bbox": [0.1, 0.2, 0.6, 0.8]}],
    },
    {"id": "b", "image": None, "captions": ["Two cats look out of a window."], "instances": []},
]
DOG = "A brown puppy is asleep on a sofa, with its head next to a soft pillow and its paws tucked in."
CATS = "Question:\nWhat are the cats doing?\n===\nAnswer:\nThey look out of a window."
ANSWERS = [
    ("a", "detail", "answered", DOG, None),
    ("b", "conversation", "answered", CATS, None),
    ("b", "reasoning", "failed", None, "429, six times"),
    ("a", "conversation", "answered", "Question: What is it?", None),
    (
        "a",
        "reasoning",
        "answered",
        "Question: Why is it asleep?\n===\nAnswer: The cat beside it has kept it awake all night.",
        None,
    ),
    ("b", "detail", "refused", None, "content filter"),
    # Asked again with --retry_failed: the last line of a key counts
    (
        "b",
        "reasoning",
        "answered",
        "Question: Why do they look out?\n===\nAnswer: Birds may pass by, and cats like to watch.",
        None,
    ),
]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps({"types": ["conversation", "detail", "reasoning"], "seed": 0}))
    write_rows(CONTEXTS, folder / "contexts.jsonl")
    lines = [
        {"key": f"{id}/{type}", "id": id, "type": type, "status": status, "text": text, "reason": reason}
        | {"question": "Describe the image." if type == "detail" else None}
        for id, type, status, text, reason in ANSWERS
    ]
    write_rows(lines, folder / "journal.jsonl")
    return folder


def test_run_to_rows(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "rows.jsonl"
    assert main(["data", "filter", str(run), "-o", str(output)]) == 0
    assert "3 of 6 answers kept" in capsys.readouterr().out

    rows = {row["id"]: row for row in read_rows(output)}
    assert list(rows) == ["a-detail", "b-conversation", "b-reasoning"]
    assert set(rows["a-detail"]) == {"id", "type", "image", "conversations"}
    question, answer = rows["a-detail"]["conversations"]
    assert question["from"] == "human" and sorted(question["value"].split("\n")) == ["<image>", "Describe the image."]
    assert answer == {"from": "gpt", "value": DOG}
    assert rows["b-conversation"]["image"] is None and "<image>" not in json.dumps(rows["b-conversation"])

    rejected = {row["id"]: row for row in read_rows(tmp_path / "rows.rejected.jsonl")}
    assert {id: row["filter"] for id, row in rejected.items()} == {
        "a-conversation": "format",
        "a-reasoning": "hallucination",
        "b-detail": "teacher",
    }
    assert rejected["a-reasoning"]["reason"].startswith("hallucination: names 'cat'")
    assert rejected["b-detail"]["reason"] == "teacher: refused: content filter"
    assert rejected["a-reasoning"]["context"]["captions"] == CONTEXTS[0]["captions"]
    assert rejected["a-reasoning"]["text"] == ANSWERS[4][3]

    report = json.loads((tmp_path / "rows.report.json").read_text())
    assert report["source"] == "run"
    assert (report["answers"], report["kept"], report["rejected"]) == (6, 3, 3)
    assert report["kept_by_type"] == {"detail": 1, "conversation": 1, "reasoning": 1}
    assert report["rejected_by_filter"]["hallucination"] == {"reasoning": 1}
    assert report["rejected_by_filter"]["boxes"] == {}


def test_image_stands_before_or_after_by_seed(run: Path, tmp_path: Path) -> None:
    def first_turn(seed: int) -> str:
        filter_run(run, tmp_path / f"{seed}.jsonl", seed=seed)
        return next(read_rows(tmp_path / f"{seed}.jsonl"))["conversations"][0]["value"]

    turns = [first_turn(seed) for seed in range(8)]
    assert {turn.startswith("<image>\n") for turn in turns} == {True, False}
    assert first_turn(3) == turns[3]


def test_chosen_filters(run: Path, tmp_path: Path) -> None:
    assert main(["data", "filter", str(run), "-o", str(tmp_path / "rows.parquet"), "--filters", "length,boxes"]) == 0
    report = json.loads((tmp_path / "rows.report.json").read_text())
    assert list(report["rejected_by_filter"]) == ["teacher", "format", "length", "boxes"]
    assert sum(1 for _ in read_rows(tmp_path / "rows.parquet")) == report["kept"] == 4


def test_rows_made_elsewhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def row(id: str, *turns: tuple[str, str]) -> dict:
        return {"id": id, "image": "1.jpg", "conversations": [{"from": role, "value": text} for role, text in turns]}

    rows = [
        row("good", ("human", "<image>\nWhat is it?"), ("gpt", "A dog."), ("human", "Where?"), ("gpt", "On a couch.")),
        row("only the image", ("human", "<image>"), ("gpt", "A dog on a couch.")),
        row("order", ("gpt", "A dog."), ("human", "What is it?")),
        row("empty", ("human", "What is it?"), ("gpt", "")),
        row("second image", ("human", "<image>\n<image>\nWhat is it?"), ("gpt", "A dog.")),
        row("meta", ("human", "<image>\nWhat is it?"), ("gpt", "According to the captions, it is a dog.")),
        {
            "id": "messages",
            "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}],
        },
    ]
    source, output = tmp_path / "made.json", tmp_path / "rows.jsonl"
    write_rows(rows, source)
    assert main(["data", "filter", str(source), "-o", str(output)]) == 0
    assert "hallucination: not asked" in capsys.readouterr().out
    assert list(read_rows(output)) == [rows[0], rows[1], rows[6]]  # as they were
    rejected = {row["id"]: row["filter"] for row in read_rows(tmp_path / "rows.rejected.jsonl")}
    assert rejected == {"order": "format", "empty": "format", "second image": "format", "meta": "meta_talk"}
    assert json.loads((tmp_path / "rows.report.json").read_text())["skipped_filters"] == ["hallucination"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "-o", "rows.jsonl"], "nowhere does not exist"),
        (["run", "-o", "rows.txt"], "'rows.txt' ends in '.txt'"),
        (
            ["run", "-o", "rows.jsonl", "--filters", "boxes,tone"],
            "--filters='tone' is unknown; choose one of 'length'",
        ),
        (["run", "-o", "rows.jsonl", "--similarity", "7"], "similarity=7.0 must be above 0"),
        ([".", "-o", "rows.jsonl"], ". is no run"),
        (["rows.json", "-o", "rows.json"], "rows.json would overwrite what is to be filtered"),
        (["run", "-o", "run/contexts.jsonl"], "run/contexts.jsonl would overwrite what is to be filtered"),
        (["run", "-o", "run/journal.jsonl"], "run/journal.jsonl would overwrite what is to be filtered"),
        (["rows.rejected.jsonl", "-o", "rows.jsonl"], "rows.rejected.jsonl would overwrite what is to be filtered"),
    ],
)
def test_wrong_arguments(
    arguments: list[str], message: str, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(run.parent)
    Path("rows.json").write_text("[]")
    Path("rows.rejected.jsonl").touch()
    before = sorted(run.parent.iterdir())
    assert main(["data", "filter", *arguments]) == 1
    assert message in capsys.readouterr().err
    assert sorted(run.parent.iterdir()) == before


def test_answer_without_its_context(run: Path, tmp_path: Path) -> None:
    write_rows(CONTEXTS[:1], run / "contexts.jsonl")
    with pytest.raises(ValueError, match="an answer about context 'b', which contexts.jsonl does not have"):
        filter_run(run, tmp_path / "rows.jsonl")
    assert not (tmp_path / "rows.jsonl").exists() and not (tmp_path / "rows.rejected.jsonl").exists()


def test_rows_of_several_images_are_filtered_like_others(tmp_path: Path) -> None:
    def row(id: str, images: object, *turns: tuple[str, str], key: str = "image") -> dict:
        return {"id": id, key: images, "conversations": [{"from": role, "value": text} for role, text in turns]}

    differs = ("gpt", "The first shows a red mug on a table, the second the same mug on a shelf beside two books.")
    rows = [
        row("together", ["a.jpg", "b.jpg"], ("human", "<image>\n<image>\nWhat differs?"), differs),
        row(
            "around",
            ["a.jpg", "b.jpg"],
            ("human", "<image> What sets this apart from <image>?"),
            differs[:1] + ("A lid.",),
        ),
        row(
            "one after the other",
            ["a.jpg", "b.jpg"],
            ("human", "<image>\nWhat is it?"),
            ("gpt", "A red mug."),
            ("human", "<image>"),
            ("gpt", "Here it stands on a shelf."),
        ),
        {
            "id": "messages",
            "images": ["a.jpg", "b.jpg"],
            "messages": [
                {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Or"}, {"type": "image"}]},
                {"role": "assistant", "content": [{"type": "text", "text": "The second one."}]},
            ],
        },
        row("one place", ["a.jpg", "b.jpg"], ("human", "<image>\nWhat differs?"), differs),
        row("in an answer", "a.jpg", ("human", "<image>\nWhat is it?"), ("gpt", "It is <image>.")),
    ]
    write_rows(rows, tmp_path / "rows.json")
    filter_run(tmp_path / "rows.json", tmp_path / "kept.jsonl")
    assert list(read_rows(tmp_path / "kept.jsonl")) == rows[:4]
    reasons = [row["reason"] for row in read_rows(tmp_path / "kept.rejected.jsonl")]
    assert "2 image(s) but 1 place(s)" in reasons[0] and "'<image>' stands inside answer 1" in reasons[1]
