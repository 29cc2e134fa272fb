"""Annotations of five sources become contexts, and what cannot become one is named."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llavakit.cli import main
from llavakit.data_generation.contexts import from_visual_genome as visual_genome
from llavakit.data_generation.contexts.from_coco import contexts_from_coco
from llavakit.data_generation.contexts.schema import box_from_pixels, check_box, read_contexts
from llavakit.rows.bad_rows import BadAnnotation, BadAnnotations

Edit = Callable[[dict[str, Any], dict[str, Any]], Any]


@pytest.fixture
def coco(tmp_path: Path) -> Callable[..., tuple[Path, Path]]:
    """Writes two images of 200 x 100 pixels with two captions, three boxes and a crowd, after an edit."""

    def write(edit: Edit = lambda captions, instances: None) -> tuple[Path, Path]:
        images = [{"id": i, "file_name": f"set/{i}.jpg", "width": 200, "height": 100} for i in (1, 2)]
        captions = {
            "images": [dict(image) for image in images],
            "annotations": [
                {"id": 10, "image_id": 1, "caption": " A dog and\na cat. "},
                {"id": 11, "image_id": 2, "caption": "A cup."},
            ],
        }
        instances = {
            "images": [dict(image) for image in images],
            "categories": [{"id": 7, "name": "dog"}, {"id": 8, "name": "cat"}],
            "annotations": [
                {"id": 1, "image_id": 1, "category_id": 7, "bbox": [20, 10, 40, 50], "segmentation": [[1, 2]]},
                {"id": 2, "image_id": 1, "category_id": 8, "bbox": [100, 0, 101, 100.5], "iscrowd": 0},
                {"id": 3, "image_id": 1, "category_id": 8, "bbox": [0, 0, 200, 100], "iscrowd": 1},
            ],
        }
        edit(captions, instances)
        (tmp_path / "captions.json").write_text(json.dumps(captions))
        (tmp_path / "instances.json").write_text(json.dumps(instances))
        return tmp_path / "captions.json", tmp_path / "instances.json"

    return write


def picture(path: Path, size: tuple[int, int] = (200, 100)) -> Path:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (len(path.name), 20, 30)).save(path)
    return path


def test_coco(coco: Callable[..., tuple[Path, Path]]):
    assert list(contexts_from_coco(*coco())) == [
        {
            "id": "set/1",
            "image": "set/1.jpg",
            "captions": ["A dog and a cat."],
            "instances": [
                {"category": "dog", "bbox": [0.1, 0.1, 0.3, 0.6]},
                {"category": "cat", "bbox": [0.5, 0.0, 1.0, 1.0]},
            ],
        },
        {"id": "set/2", "image": "set/2.jpg", "captions": ["A cup."], "instances": []},
    ]


BAD: dict[str, tuple[Edit, str]] = {
    "box outside": (
        lambda c, i: i["annotations"][0].update(bbox=[150, 0, 60, 20]),
        r"box 1, .*leaves the image.*drop it",
    ),
    "box in other units": (
        lambda c, i: i["annotations"][0].update(bbox=[1, 2, 3]),
        r"box 1, .*\[1, 2, 3\] is not four",
    ),
    "box not a number": (
        lambda c, i: i["annotations"][0].update(bbox=[1, 2, 3, float("nan")]),
        "box 1, .*nan.*correct",
    ),
    "box of no area": (lambda c, i: i["annotations"][0].update(bbox=[5, 5, 0, 9]), "box 1, .*no area"),
    "no size": (lambda c, i: i["images"][0].update(width=0), r"box 1, .*\(0, 100\); state them in pixels"),
    "caption of unknown image": (
        lambda c, i: c["annotations"][0].update(image_id=99),
        "caption 10 is of image 99, .*Add",
    ),
    "box of unknown image": (lambda c, i: i["annotations"][0].update(image_id=99), "box 1 is of image 99, .*unknown"),
    "unknown category": (lambda c, i: i["annotations"][0].update(category_id=99), "box 1, .*category 99"),
    "empty caption": (lambda c, i: c["annotations"][0].update(caption=" "), "caption 10, .*' '; write one"),
    "no caption": (lambda c, i: c["annotations"][0].pop("caption"), "caption at position 0 lacks caption.*Complete"),
    "annotation of another type": (lambda c, i: c["annotations"].append("x"), "position 2 lacks id"),
    "id of another type": (lambda c, i: c["annotations"][0].update(image_id=[1]), r"image_id is \[1\]"),
    "equal caption ids": (lambda c, i: c["annotations"][1].update(id=10), "caption 10 stands twice.*rename"),
    "equal box ids": (lambda c, i: i["annotations"][1].update(id=1), "box 1 stands twice"),
    "equal image ids": (lambda c, i: c["images"].append(dict(c["images"][0])), "image 1 stands twice"),
    "equal file names": (
        lambda c, i: [f["images"][1].update(file_name="set/1.jpg") for f in (c, i)],
        "'set/1'.*before",
    ),
    "two image sets": (
        lambda c, i: i["images"][0].update(file_name="x.jpg"),
        "'set/1.jpg' among the captions and 'x.jpg'",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_annotation_is_named_or_left_out(coco: Callable[..., tuple[Path, Path]], case: str):
    edit, message = BAD[case]
    files = coco(edit)
    with pytest.raises(BadAnnotation, match=message) as error:
        list(contexts_from_coco(*files))
    assert str(error.value).count("--on_bad_row skip leaves such annotations out.") == 1
    bad = BadAnnotations("skip")
    contexts = list(contexts_from_coco(*files, bad=bad))
    assert contexts and bad.reasons and BadAnnotations("skip").reasons == []
    assert all(set(context) == {"id", "image", "captions", "instances"} for context in contexts)
    assert bad.report().startswith(f"{len(bad.reasons)} annotation(s) left out:\n  ")


def test_a_broken_file_is_named(coco: Callable[..., tuple[Path, Path]]):
    captions, instances = coco()
    instances.write_text(instances.read_text()[:-20])
    with pytest.raises(ValueError, match="instances.json is not JSON .*complete"):
        list(contexts_from_coco(captions, instances, bad=BadAnnotations("skip")))
    for content in ('{"images": []}', "[]", '{"images": {}, "annotations": []}'):
        captions.write_text(content)
        with pytest.raises(ValueError, match="captions.json is not a COCO file.*'images', 'annotations'"):
            list(contexts_from_coco(captions))
    with pytest.raises(ValueError, match="on_bad_row='x'"):
        BadAnnotations("x")


def test_images_must_be_in_their_folder(coco: Callable[..., tuple[Path, Path]], tmp_path: Path):
    files = coco()
    picture(tmp_path / "images" / "set" / "1.jpg")
    with pytest.raises(BadAnnotation, match="'set/2': the image 'set/2.jpg' is not in .*images. Add it"):
        list(contexts_from_coco(*files, tmp_path / "images"))
    bad = BadAnnotations("skip")
    assert [one["id"] for one in contexts_from_coco(*files, tmp_path / "images", bad)] == ["set/1"]
    outside = coco(lambda c, i: [f["images"][0].update(file_name="../captions.json") for f in (c, i)])
    with pytest.raises(BadAnnotation, match="leads out of"):
        list(contexts_from_coco(*outside, tmp_path / "images"))


def test_boxes():
    assert box_from_pixels([10, 10, 20, 20], (30, 30), "b") == [0.333, 0.333, 0.667, 0.667]
    assert check_box([-0.009, 0, 1.009, 1], "b") == [0.0, 0.0, 1.0, 1.0]
    assert check_box([0.2, 0.99991, 0.2001, 1.0], "b") == [0.2, 0.999, 0.201, 1.0]
    for box in ([-0.02, 0, 1, 1], [0, 0, 1, 1.02], [0, 0.5, 1, 0.5], [0, 0, 1, True], "abcd", None):
        with pytest.raises(BadAnnotation, match="^b: the box"):
            check_box(box, "b")


def test_the_command_reports_what_it_left_out(coco: Callable[..., tuple[Path, Path]], tmp_path: Path, capsys: Any):
    captions, instances = map(str, coco(lambda c, i: i["annotations"][0].update(bbox=[150, 0, 60, 20])))
    out = str(tmp_path / "contexts.jsonl")
    command = ["data", "contexts", "--captions", captions, "--instances", instances, "-o", out]
    assert main(command) == 1
    assert "box 1, of image 1: the box [0.75, 0.0, 1.05, 0.2] leaves the image" in capsys.readouterr().err
    assert not Path(out).exists()
    assert main([*command, "--on_bad_row", "skip"]) == 0
    told = capsys.readouterr().out
    assert "2 contexts" in told and "1 annotation(s) left out:" in told and "box 1" in told
    (left_out,) = (tmp_path / "contexts.left_out.jsonl").read_text().splitlines()
    assert "box 1" in json.loads(left_out)["reason"]
    assert [len(context["instances"]) for context in read_contexts(out)] == [1, 0]
    coco()
    assert main(command) == 0 and not (tmp_path / "contexts.left_out.jsonl").exists(), "a list of an earlier run"
    assert main(["data", "contexts", "--caps_boxes", out, "--instances", instances, "-o", out]) == 1
    assert "--instances belongs to --captions" in capsys.readouterr().err


def test_reading_contexts(tmp_path: Path):
    path = tmp_path / "contexts.jsonl"

    def read(*rows: dict[str, Any]) -> list[dict[str, Any]]:
        path.write_text("\n".join(map(json.dumps, rows)))
        return list(read_contexts(path))

    good = {"id": "1", "image": None, "captions": ["A dog."], "instances": []}
    crowd = {"category": "dog", "bbox": [0, 0, 1, 1], "iscrowd": 1}
    assert read({**good, "instances": [crowd], "more": 1}) == [good]
    with pytest.raises(BadAnnotation, match=r"row 2 \(id '2'\), instance 0: the box .* leaves the image"):
        read(good, {**good, "id": "2", "instances": [{"category": "dog", "bbox": [10, 10, 50, 50]}]})
    for row, message in (
        (good, "context '1': this id came before"),
        ({**good, "id": None}, "row 2: the id is None"),
        ({**good, "id": 2, "captions": "A dog."}, "must be lists"),
        ({**good, "id": 2, "captions": [" "]}, "the caption is ' '"),
        ({**good, "id": 2, "captions": []}, "neither image nor captions"),
        ({**good, "id": 2, "image": 3}, "image is 3"),
        ({**good, "id": 2, "instances": [{"bbox": [0, 0, 1, 1]}]}, "instance 0: .*'category' and 'bbox'"),
        ({**good, "id": 2, "instances": [{"category": "", "bbox": [0, 0, 1, 1]}]}, "the category is ''"),
    ):
        with pytest.raises(BadAnnotation, match=message):
            read(good, row)


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


def test_visual_genome(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(visual_genome, "CHUNK", 64)  # so that elements span several chunks
    clock = {"name": "clock", "x": 20, "y": 10, "w": 20, "h": 40}
    regions = [
        {"region_id": 1, "phrase": "the clock is green ", "x": 0, "y": 0, "width": 9, "height": 9, "objects": [clock]},
        {"region_id": 2, "phrase": "a clock", "objects": [clock, {**clock, "names": ["post"], "x": 60}]},
        {"region_id": 3, "phrase": "a clock", "objects": []},
    ]
    (tmp_path / "r.json").write_text(
        json.dumps([{"id": 1, "regions": regions}, {"image_id": 2, "regions": regions[2:]}])
    )
    url = "https://example.org/images/VG_100K_2/1.jpg"
    data = [
        {"image_id": 1, "width": 100, "height": 50, "url": url},
        {"image_id": 2, "width": 9, "height": 9, "url": None},
    ]
    (tmp_path / "d.json").write_text(json.dumps(data))

    def read(bad: BadAnnotations | None = None) -> list[dict[str, Any]]:
        return list(visual_genome.contexts_from_visual_genome(tmp_path / "r.json", tmp_path / "d.json", bad=bad))

    first, second = read()
    assert first == {
        "id": "1",
        "image": "VG_100K_2/1.jpg",
        "captions": ["the clock is green", "a clock"],
        "instances": [
            {"category": "clock", "bbox": [0.2, 0.2, 0.4, 1.0]},
            {"category": "post", "bbox": [0.6, 0.2, 0.8, 1.0]},
        ],
    }
    assert second == {"id": "2", "image": "2.jpg", "captions": ["a clock"], "instances": []}
    with pytest.raises(BadAnnotation, match="the size of 1.jpg is unknown; give --image_data"):
        list(visual_genome.contexts_from_visual_genome(tmp_path / "r.json"))

    (tmp_path / "d.json").write_text(json.dumps(data[:1]))
    with pytest.raises(BadAnnotation, match="image 2 is unknown to --image_data"):
        read()
    regions[0]["objects"][0]["x"] = 90
    (tmp_path / "r.json").write_text(json.dumps([{"id": 1, "regions": regions}] * 2))
    with pytest.raises(BadAnnotation, match="image 1, region 1, 'clock': the box .* leaves the image"):
        read()
    bad = BadAnnotations("skip")
    (left,) = read(bad)
    assert [item["category"] for item in left["instances"]] == [] and len(bad.reasons) == 5  # 2 x 2 boxes, 1 image
    (tmp_path / "r.json").write_text(json.dumps([{"id": 1, "regions": regions}])[:-9] + "!" * 50)
    with pytest.raises(ValueError, match="r.json is broken JSON after element 0"):
        read()


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


def test_real_annotations(shared_data: Path, tmp_path: Path):
    photos, out = shared_data / "coco_photos", tmp_path / "contexts.jsonl"
    command = [
        "data",
        "contexts",
        "--captions",
        str(photos / "captions.json"),
        "--image_folder",
        str(photos / "images"),
    ]
    assert main([*command, "--instances", str(photos / "instances.json"), "-o", str(out)]) == 0
    contexts = list(read_contexts(out, photos / "images"))
    assert len(contexts) == 60 and sum(len(context["captions"]) for context in contexts) == 300
    assert sum(len(context["instances"]) for context in contexts) == 530  # 532 without the 2 crowds
    assert not out.with_suffix(".left_out.jsonl").exists()

    published = shared_data / "caps_boxes_coco2014_val_80.jsonl"
    assert main(["data", "contexts", "--caps_boxes", str(published), "-o", str(out)]) == 0
    originals = [json.loads(line) for line in published.read_text().splitlines()]
    for original in originals:
        original["captions"] = [" ".join(caption.split()) for caption in original["captions"]]
    assert list(read_contexts(out)) == originals


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
