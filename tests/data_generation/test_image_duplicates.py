"""Images that show the same, by a small CLIP that the test writes."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from llavakit.cli import main
from llavakit.data_generation.filters.image_duplicates import drop_image_duplicates, image_duplicates
from llavakit.rows.files import read_rows, write_rows


@pytest.fixture(scope="module")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection, set_seed

    set_seed(0)
    folder = tmp_path_factory.mktemp("clip")
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = CLIPVisionConfig(image_size=28, patch_size=7, projection_dim=24, **sizes)
    CLIPVisionModelWithProjection(config).save_pretrained(folder)
    side = {"height": 28, "width": 28}
    CLIPImageProcessor(size={"shortest_edge": 28}, crop_size=side).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Three different pictures, and copies of the first: the same file, recompressed, and larger."""
    draw = np.random.default_rng(0)
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("one", "two", "three"):
        blocks = draw.integers(0, 255, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(blocks).resize((96, 96), Image.Resampling.NEAREST).save(folder / f"{name}.png")
    one = Image.open(folder / "one.png")
    one.save(folder / "copy.png")
    one.save(folder / "recompressed.jpg", quality=80)
    one.resize((192, 192)).save(folder / "larger.png")
    return folder


def test_copies_are_left_out(
    tiny_clip: str, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["one.png", "two.png", "copy.png", "recompressed.jpg", "one.png", "three.png", "larger.png", None]
    rows = [{"id": str(number), "image": name, "captions": ["A."]} for number, name in enumerate(names)]
    write_rows(rows, tmp_path / "contexts.jsonl")
    output = tmp_path / "kept.jsonl"
    arguments = ["data", "dedup-images", str(tmp_path / "contexts.jsonl"), "-o", str(output)]
    arguments += ["--image_folder", str(pictures), "--model", tiny_clip, "--threshold", "0.999"]
    assert main(arguments) == 0
    # Both rows of one.png stay, and so does the one without an image
    assert [row["image"] for row in read_rows(output)] == ["one.png", "two.png", "one.png", "three.png", None]
    rejected = list(read_rows(tmp_path / "kept.rejected.jsonl"))
    assert [row["image"] for row in rejected] == ["copy.png", "recompressed.jpg", "larger.png"]
    assert rejected[0]["reason"].startswith("image_duplicates: shows the same as 'one.png' (similarity 1.000")
    report = json.loads((tmp_path / "kept.report.json").read_text())
    assert report == {"kept": 5, "rejected": 3, "images": 6, "duplicates": 3, "threshold": 0.999}
    assert "3 of 6 images show what another shows (similarity of 0.999 or more)" in capsys.readouterr().out


def test_threshold_decides_and_only_kept_images_count() -> None:
    angles = {"0": 0.0, "20": 20.0, "40": 40.0, "90": 90.0}

    def encode(names: list[str]) -> np.ndarray:
        radians = np.radians([angles[name] for name in names])
        return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)

    found = dict(image_duplicates(angles, encode, threshold=0.9))  # within some 25 degrees
    assert found["20"] is not None and found["20"].of == "0"
    assert found["20"].similarity == pytest.approx(np.cos(np.radians(20)), abs=1e-5)
    assert found["0"] is found["40"] is found["90"] is None  # 40 is near 20, which was left out
    exact = dict(image_duplicates(angles, encode, threshold=1.0))
    assert set(exact.values()) == {None}


def test_an_image_that_cannot_be_read(tiny_clip: str, pictures: Path, tmp_path: Path, capsys) -> None:
    (pictures / "broken.png").write_bytes(b"no picture")
    for name in ("broken.png", "absent.png"):
        write_rows([{"id": "0", "image": name}], tmp_path / "contexts.jsonl")
        arguments = ["data", "dedup-images", str(tmp_path / "contexts.jsonl"), "-o", str(tmp_path / "kept.jsonl")]
        assert main([*arguments, "--image_folder", str(pictures), "--model", tiny_clip]) == 1
        assert re.search(rf"{name}'.* cannot be read as an image", capsys.readouterr().err)
        assert not (tmp_path / "kept.jsonl").exists()


def test_wrong_threshold() -> None:
    with pytest.raises(ValueError, match="threshold=1.5 must be above 0"):
        list(image_duplicates(["a.png"], lambda names: np.ones((len(names), 2)), threshold=1.5))


def test_rows_of_several_images_go_only_where_each_is_a_copy(tmp_path: Path) -> None:
    angles = {"one": 0.0, "copy": 1.0, "other": 90.0}

    def encode(names: list[str]) -> np.ndarray:
        radians = np.radians([angles[name] for name in names])
        return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)

    images: list = ["one", ["copy", "other"], ["copy"], ["copy", "copy"], None, []]
    write_rows([{"id": "same", "image": image} for image in images], tmp_path / "rows.jsonl")
    report = drop_image_duplicates(tmp_path / "rows.jsonl", tmp_path / "kept.jsonl", encode)
    assert [row["image"] for row in read_rows(tmp_path / "kept.jsonl")] == ["one", ["copy", "other"], None, []]
    assert (report["images"], report["duplicates"], report["rejected"]) == (3, 1, 2)
