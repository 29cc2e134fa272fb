"""Tables of captions, data sets and folders of photographs become contexts."""

import io
import json
from pathlib import Path
from typing import Any

import pytest

from llavakit.cli import main
from llavakit.data_generation.contexts.schema import read_contexts

from .small_pictures import picture


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_a_captioned_folder(tmp_path: Path, suffix: str):
    for name in ("a/1.png", "2.png"):
        picture(tmp_path / name)
    table = tmp_path / f"captions{suffix}"
    rows = [
        ("a/1.png", "A dog, asleep."),
        ("2.png", "A cup."),
        ("a/1.png", "A pet."),
        ("3.png", "Lost."),
        ("2.png", ""),
    ]
    if suffix == ".csv":
        table.write_text("file,says\n" + "\n".join(f'{image},"{text}"' for image, text in rows), encoding="utf-8-sig")
    else:
        table.write_text("\n".join(json.dumps({"file": image, "says": text}) for image, text in rows))
    out = tmp_path / "contexts.jsonl"
    command = ["data", "contexts", "--caption_file", str(table), "--caption_column", "says", "-o", str(out)]
    assert main([*command, "--image_column", "file"]) == 1
    assert main([*command]) == 1  # no column "image"
    assert main([*command, "--image_column", "file", "--on_bad_row", "skip"]) == 0
    assert list(read_contexts(out, tmp_path)) == [
        {"id": "a/1", "image": "a/1.png", "captions": ["A dog, asleep.", "A pet."], "instances": []},
        {"id": "2", "image": "2.png", "captions": ["A cup."], "instances": []},
    ]
    left_out = (tmp_path / "contexts.left_out.jsonl").read_text()
    assert (
        f"{'line 6' if suffix == '.csv' else 'row 5'}: the caption is ''" in left_out
        and "'3.png' is not in" in left_out
    )


def test_any_dataset(tmp_path: Path):
    import datasets

    content = io.BytesIO(picture(tmp_path / "x.png", (200, 100)).read_bytes()).getvalue()
    features = datasets.Features(
        {
            "key": datasets.Value("int64"),
            "picture": datasets.Image(),
            "says": datasets.Value("string"),
            "objects": {
                "bbox": datasets.List(datasets.List(datasets.Value("float32"))),
                "category": datasets.List(datasets.ClassLabel(names=["dog", "cat"])),
            },
        }
    )
    rows = [
        {
            "key": number,
            "picture": {"bytes": content, "path": None},
            "says": f"Caption {number}.",
            "objects": {"bbox": [[20, 10, 40, 50], [0, 0, 10 + 300 * number, 10]], "category": [1, 0]},
        }
        for number in range(2)
    ]
    datasets.Dataset.from_list(rows, features=features).save_to_disk(str(tmp_path / "saved"))
    datasets.Dataset.from_list(rows, features=features).to_parquet(str(tmp_path / "rows.parquet"))
    out = tmp_path / "contexts.jsonl"
    columns = ["--id_column", "key", "--image_column", "picture", "--caption_column", "says"]
    for source in ("saved", "rows.parquet"):
        folder = tmp_path / f"images of {source}"
        command = ["data", "contexts", "--dataset", str(tmp_path / source), *columns, "-o", str(out)]
        command += ["--objects_column", "objects"]
        assert main(command) == 1  # the images lie inside, and no folder is named
        assert main([*command, "--image_folder", str(folder)]) == 1  # the second row's second box
        assert main([*command, "--image_folder", str(folder), "--on_bad_row", "skip"]) == 0
        assert list(read_contexts(out, folder)) == [
            {
                "id": "0",
                "image": "0.png",
                "captions": ["Caption 0."],
                "instances": [
                    {"category": "cat", "bbox": [0.1, 0.1, 0.3, 0.6]},
                    {"category": "dog", "bbox": [0.0, 0.0, 0.05, 0.1]},
                ],
            }
        ]
        assert "row 1 (id '1'), object 1" in out.with_suffix(".left_out.jsonl").read_text()
        assert (folder / "0.png").read_bytes() == content

    captions = tmp_path / "captions.jsonl"
    captions.write_text(json.dumps({"id": "a", "caption": ["One.", "Two."]}))
    command = ["data", "contexts", "--dataset", str(captions), "--id_column", "id", "-o", str(out)]
    assert main(command) == 1  # no column "image"
    assert main([*command, "--image_column", "none"]) == 0
    assert list(read_contexts(out)) == [{"id": "a", "image": None, "captions": ["One.", "Two."], "instances": []}]


def product_folder(folder: Path) -> Path:
    for sku in ("SKU1", "SKU2"):
        for side in ("front.jpg", "back.jpg", "back.png"):
            picture(folder / sku / side)
    return folder


def contexts_of(tmp_path: Path, *flags: str | Path) -> list[dict[str, Any]]:
    out = tmp_path / "contexts.jsonl"
    assert main(["data", "contexts", *map(str, flags), "-o", str(out)]) == 0
    return [json.loads(line) for line in out.read_text().splitlines()]


@pytest.mark.parametrize("id_column", ["none", "image"])
def test_photographs_in_a_folder_a_product(tmp_path: Path, id_column: str):
    folder = product_folder(tmp_path / "photos")
    flags = ["--dataset", folder, "--caption_column", "none", "--image_folder", folder, "--id_column", id_column]
    contexts = contexts_of(tmp_path, *flags)
    assert {context["id"]: context["image"] for context in contexts} == {
        f"{sku}/{side.removesuffix('.jpg')}": f"{sku}/{side}"
        for sku in ("SKU1", "SKU2")
        for side in ("front.jpg", "back.jpg", "back.png")
    }


def test_pictures_inside_a_dataset_may_be_called_alike(tmp_path: Path):
    import datasets

    features = datasets.Features({"image": datasets.Image(), "caption": datasets.Value("string")})
    contents = [picture(tmp_path / name).read_bytes() for name in ("a.png", "bb.png")]
    rows = [{"image": {"bytes": one, "path": "image.png"}, "caption": f"{i}."} for i, one in enumerate(contents)]
    datasets.Dataset.from_list(rows, features=features).to_parquet(str(tmp_path / "rows.parquet"))
    contexts = contexts_of(tmp_path, "--dataset", tmp_path / "rows.parquet", "--image_folder", tmp_path / "images")
    assert [(one["id"], one["image"]) for one in contexts] == [("image", "image.png"), ("image-1", "image-1.png")]
    assert [(tmp_path / "images" / one["image"]).read_bytes() for one in contexts] == contents


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".json"])
def test_a_table_is_read_as_it_is_written(suffix: str, tmp_path: Path):
    """No library's guesses: None and NA are captions, 007 is an id, and a date is text."""
    rows = [("007", "None"), ("08", "NA"), ("9", "4"), ("1e3", "2009-05-01"), ("10", "null")]
    table = tmp_path / f"table{suffix}"
    if suffix == ".csv":
        table.write_text("key,caption\n" + "".join(f"{key},{caption}\n" for key, caption in rows))
    else:
        objects = [{"key": key, "caption": caption} for key, caption in rows]
        table.write_text(json.dumps(objects) if suffix == ".json" else "\n".join(map(json.dumps, objects)))
    contexts = contexts_of(tmp_path, "--dataset", table, "--image_column", "none", "--id_column", "key")
    assert [(one["id"], *one["captions"]) for one in contexts] == rows


@pytest.mark.parametrize(
    ("id", "read"), [(7, "7"), (7.0, "7"), ("7.0", "7.0"), (None, None), (7.5, None), (True, None)]
)
def test_an_id_is_text_or_a_whole_number(id: Any, read: str | None, tmp_path: Path, capsys: Any):
    (tmp_path / "t.jsonl").write_text(json.dumps({"key": id, "caption": "A mug."}))
    flags = ["--dataset", str(tmp_path / "t.jsonl"), "--image_column", "none", "--id_column", "key"]
    if read is None:
        assert main(["data", "contexts", *flags, "-o", str(tmp_path / "contexts.jsonl")]) == 1
        assert f"row 0: key is {id!r}; an id is text or a whole number" in capsys.readouterr().err
    else:
        assert [one["id"] for one in contexts_of(tmp_path, *flags)] == [read]


def test_captions_of_images_that_differ_in_their_suffix(tmp_path: Path):
    for name in ("a/1.jpg", "a/1.png", "b/1.jpg"):
        picture(tmp_path / name)
    rows = [{"image": name, "caption": f"Of {name}."} for name in ("b/1.jpg", "a/1.png", "a/1.jpg", "b/1.jpg")]
    (tmp_path / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    contexts = contexts_of(tmp_path, "--caption_file", tmp_path / "captions.jsonl")
    assert [(one["id"], one["image"], len(one["captions"])) for one in contexts] == [
        ("b/1", "b/1.jpg", 2),
        ("a/1", "a/1.png", 1),
        ("a/1.jpg", "a/1.jpg", 1),
    ]
