"""docs/products.md, run from top to bottom in a folder of uncaptioned photographs, against a local endpoint."""

import json
import os
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from llavakit.cli import main

from ..servers.chat_server import ChatServer
from .test_data_page import rows, run_block

PAGE = Path(__file__).resolve().parents[2] / "docs" / "products.md"
BLOCKS = dict(re.findall(r"^```bash ([\w -]+)\n(.*?)^```$", PAGE.read_text(), re.M | re.S))
KEY = "the-key"
PRODUCTS, SIDES = 20, ("front.jpg", "back.jpg", "label.png")
TOTAL = PRODUCTS * len(SIDES)


def write_photographs(folder: Path) -> None:
    for number in range(1, PRODUCTS + 1):
        place = folder / f"SKU{number:04}"
        place.mkdir(parents=True)
        for side, name in enumerate(SIDES):
            picture = Image.new("RGB", (60, 40), (12 * number, 80 * side, 90))
            ImageDraw.Draw(picture).rectangle((2 * number, 5, 2 * number + 10, 30), fill="white")
            picture.save(place / name)
    (folder / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    (folder / "prices.csv").write_text("sku,price\nSKU0001,4.99\n")


def describe(body: dict) -> str:
    """What the teacher says of the picture that it was sent; of a call without one it says so."""
    parts = body["messages"][-1]["content"]
    pictures = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
    if len(pictures) != 1 or not pictures[0].startswith(("data:image/jpeg;base64,", "data:image/png;base64,")):
        return "no picture"
    number = zlib.crc32(pictures[0].encode())
    return (
        f"A white label with the number {number} lies on a plain cardboard box of about {number % 97} centimetres. Its lid "
        "is closed with brown tape, the corners are slightly worn, and a shadow falls to the left of it."
    )


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, ChatServer]]:
    """The folder after the whole page; what each block printed, and how many calls there were by then, lie in `said/`."""
    folder = tmp_path_factory.mktemp("products")
    write_photographs(folder / "photos")
    (folder / "said").mkdir()
    with ChatServer(describe) as server, pytest.MonkeyPatch.context() as here:
        here.chdir(folder)
        for variable, value in {"OPENAI_BASE_URL": server.base_url, "OPENAI_API_KEY": KEY}.items():
            here.setenv(variable, value)
        for name, code in BLOCKS.items():
            (folder / "said" / name).write_text(run_block("bash", code, {**os.environ}))
            (folder / "said" / f"{name}.calls").write_text(str(len(server.bodies)))
        yield folder, server


def calls_after(folder: Path, block: str) -> int:
    return int((folder / "said" / f"{block}.calls").read_text())


def test_every_photograph_is_a_context_and_nothing_else_is(desk: tuple[Path, ChatServer]) -> None:
    contexts = rows(desk[0] / "contexts.jsonl")
    assert [context["id"] for context in contexts] == sorted(
        f"SKU{number:04}/{name.rpartition('.')[0]}" for number in range(1, PRODUCTS + 1) for name in SIDES
    )
    assert all((desk[0] / "photos" / context["image"]).is_file() for context in contexts)
    assert (desk[0] / "said" / "contexts").read_text().startswith(f"{TOTAL} contexts -> contexts.jsonl")


def test_the_dry_run_shows_a_request_with_its_picture_and_price_and_sends_nothing(
    desk: tuple[Path, ChatServer],
) -> None:
    said = (desk[0] / "said" / "dry run").read_text()
    assert '"model": "gpt-4o"' in said and "data:image/jpeg;base64," in said and "dollars" in said
    assert calls_after(desk[0], "estimate") == 0
    line = (desk[0] / "said" / "estimate").read_text().splitlines()[1].split()
    assert line[:2] == ["vision_detail", str(TOTAL)]


def test_the_full_run_goes_on_from_the_fifty(desk: tuple[Path, ChatServer]) -> None:
    folder, server = desk
    assert calls_after(folder, "first fifty") == 50 and calls_after(folder, "all") == TOTAL
    journal = rows(folder / "runs" / "products" / "journal.jsonl")
    assert len({line["key"] for line in journal}) == len(journal) == TOTAL
    assert {line["status"] for line in journal} == {"answered"} and {line["type"] for line in journal} == {
        "vision_detail"
    }
    assert not any("no picture" in line["text"] for line in journal)
    assert all(f"authorization: bearer {KEY}" in head.lower() for head in server.heads)
    assert "<img" in (folder / "first.html").read_text()


def test_rows_and_rejected_rows_add_up(desk: tuple[Path, ChatServer]) -> None:
    kept, rejected = rows(desk[0] / "rows.jsonl"), rows(desk[0] / "rows.rejected.jsonl")
    assert len(kept) + len(rejected) == TOTAL and kept
    assert all(row["id"] == f"{row['image'].rpartition('.')[0]}-vision_detail" for row in kept)


@pytest.mark.parametrize("suffix", [".HEIC", ".heic", ""])
def test_a_photograph_that_is_not_read_here_is_named(suffix: str, tmp_path: Path, capsys) -> None:
    folder = tmp_path / "photos"
    write_photographs(folder)
    (folder / "SKU0001" / f"IMG_1{suffix or '.jpg'}").write_bytes(
        b"\0\0\0\x18ftypheic" + b"\0" * 60 if suffix else b"\xff\xd8\xff\xe0 cut off"
    )
    command = ["data", "contexts", "--images", str(folder), "-o", str(tmp_path / "c.jsonl")]
    assert main(command) == 1
    said = capsys.readouterr().err
    assert f"IMG_1{suffix or '.jpg'}" in said and "--on_bad_row skip" in said
    assert main([*command, "--on_bad_row", "skip"]) == 0
    assert len(rows(tmp_path / "c.jsonl")) == TOTAL and "1 annotation(s) left out" in capsys.readouterr().out
    (left_out,) = rows(tmp_path / "c.left_out.jsonl")
    assert "IMG_1" in left_out["reason"]


def test_image_paths_may_start_above_the_folder(tmp_path: Path, capsys, caplog) -> None:
    write_photographs(tmp_path / "all" / "photos")
    command = ["data", "contexts", "--images", str(tmp_path / "all" / "photos"), "-o", str(tmp_path / "c.jsonl")]
    with caplog.at_level("WARNING"):
        assert main([*command, "--image_folder", str(tmp_path / "all")]) == 0
    assert rows(tmp_path / "c.jsonl")[0]["image"] == "photos/SKU0001/back.jpg"
    assert "1 file(s)" in caplog.text and "no pictures: 1 .csv" in caplog.text
    assert main([*command, "--image_folder", str(tmp_path / "all" / "photos" / "SKU0001")]) == 1
    assert "lies outside --image_folder" in capsys.readouterr().err
    assert main(["data", "contexts", "--images", str(tmp_path / "none"), "-o", str(tmp_path / "c.jsonl")]) == 1
    assert "is no folder" in capsys.readouterr().err


def test_a_flag_of_another_source_is_refused(tmp_path: Path, capsys) -> None:
    write_photographs(tmp_path / "photos")
    command = ["data", "contexts", "--images", str(tmp_path / "photos"), "-o", str(tmp_path / "c.jsonl")]
    for flag, owner in {"split": "--dataset", "caption_column": "--caption_file or --dataset"}.items():
        assert main([*command, f"--{flag}", "train"]) == 1
        assert f"--{flag} belongs to {owner}; give both, or drop --{flag}." in capsys.readouterr().err


def test_a_photograph_that_datasets_would_pass_over_is_named(tmp_path: Path, capsys) -> None:
    folder = tmp_path / "photos"
    write_photographs(folder)
    (folder / "prices.csv").unlink()
    (folder / "IMG_1.HEIC").write_bytes(b"\0\0\0\x18ftypheic" + b"\0" * 60)
    (folder / "SKU0001" / "front.jpg").rename(folder / "SKU0001" / "front.JPG_original")
    command = ["data", "contexts", "--dataset", str(folder), "--caption_column", "none", "--image_folder", str(folder)]
    command += ["-o", str(tmp_path / "c.jsonl")]
    assert main(command) == 1
    assert "--on_bad_row skip" in capsys.readouterr().err
    assert main([*command, "--on_bad_row", "skip"]) == 0
    reasons = json.dumps(rows(tmp_path / "c.left_out.jsonl"))
    assert "IMG_1.HEIC" in reasons and "front.JPG_original" in reasons and "--images" in reasons
    assert len(rows(tmp_path / "c.jsonl")) == TOTAL - 1
