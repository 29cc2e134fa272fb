"""What a context is: its boxes, its file read back, and the annotations of COCO as they are published."""

import json
from pathlib import Path
from typing import Any

import pytest

from llavakit.cli import main
from llavakit.data_generation.contexts.schema import box_from_pixels, check_box, read_contexts
from llavakit.rows.bad_rows import BadAnnotation


def test_boxes():
    assert box_from_pixels([10, 10, 20, 20], (30, 30), "b") == [0.333, 0.333, 0.667, 0.667]
    assert check_box([-0.009, 0, 1.009, 1], "b") == [0.0, 0.0, 1.0, 1.0]
    assert check_box([0.2, 0.99991, 0.2001, 1.0], "b") == [0.2, 0.999, 0.201, 1.0]
    for box in ([-0.02, 0, 1, 1], [0, 0, 1, 1.02], [0, 0.5, 1, 0.5], [0, 0, 1, True], "abcd", None):
        with pytest.raises(BadAnnotation, match="^b: the box"):
            check_box(box, "b")


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
