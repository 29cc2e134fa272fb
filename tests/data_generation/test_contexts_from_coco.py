"""COCO annotations become contexts, and what cannot become one is named or left out."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llavakit.cli import main
from llavakit.data_generation.contexts.from_coco import contexts_from_coco
from llavakit.data_generation.contexts.schema import read_contexts
from llavakit.rows.bad_rows import BadAnnotation, BadAnnotations

from .small_pictures import picture

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
