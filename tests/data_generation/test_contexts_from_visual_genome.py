"""Regions of Visual Genome become contexts."""

import json
from pathlib import Path
from typing import Any

import pytest

from llavakit.data_generation.contexts import from_visual_genome as visual_genome
from llavakit.rows.bad_rows import BadAnnotation, BadAnnotations


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
