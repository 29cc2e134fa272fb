"""`--draft_images`: large JPEGs decoded at a part of their size, and nothing else."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from transformers import AutoProcessor

from llavakit import LlavaCollator, LlavaSFTConfig, LlavaSFTTrainer
from llavakit.processing.image_inputs import to_rgb
from llavakit.rows.images import open_image, open_visual, smallest_draft
from llavakit.rows.schema import BadRow

from ..cpu_training import CPU_SETTINGS


def photograph(file: Path, size: tuple[int, int], **options: Any) -> Path:
    picture = Image.radial_gradient("L").resize(size).convert("RGB")
    ImageDraw.Draw(picture).ellipse((size[0] // 4, size[1] // 4, size[0] // 2, size[1] // 2), (200, 30, 60))
    picture.save(file, **options)
    return file


def test_how_small_a_draft_is():
    """At least as many pixels as are asked for, and none of them a part of one."""
    assert smallest_draft((4032, 3024), 672) == (1008, 756)
    assert smallest_draft((4032, 3024), 378) == (504, 378) and smallest_draft((4032, 3024), 379) == (1008, 756)
    assert smallest_draft((4030, 3024), 100) == (2015, 1512) and smallest_draft((4031, 3024), 100) == (4031, 3024)
    assert smallest_draft((640, 480), 448) == (640, 480)


@pytest.mark.parametrize("turned", [1, 6])
def test_a_draft_is_about_the_picture_scaled_down(tmp_path: Path, turned: int):
    exif = Image.Exif()
    exif[0x0112] = turned
    file = str(photograph(tmp_path / "a.jpg", (640, 480), quality=95, exif=exif))
    whole, draft = open_image(file, "a row"), open_image(file, "a row", 120)
    assert draft.size == smallest_draft(whole.size, 120) == (whole.size[0] // 4, whole.size[1] // 4)
    small = whole.resize((40, 40), Image.Resampling.BICUBIC), draft.resize((40, 40), Image.Resampling.BICUBIC)
    one, other = (np.asarray(each).astype(int) for each in small)
    assert abs(one - other).max() <= 12
    content = {"bytes": Path(file).read_bytes(), "path": None}
    assert open_image(content, "a row", 120).tobytes() == draft.tobytes()
    assert open_visual(file, "a row", 8, 120).size == draft.size


def test_what_is_no_large_jpeg_is_opened_as_ever(tmp_path: Path):
    for name, size, least in (("a.png", (640, 480), 60), ("b.jpg", (640, 480), 300), ("c.jpg", (641, 481), 60)):
        file = str(photograph(tmp_path / name, size))
        assert open_image(file, "a row", least).tobytes() == to_rgb(file).tobytes()
    broken = tmp_path / "d.jpg"
    broken.write_bytes(photograph(tmp_path / "e.jpg", (640, 480)).read_bytes()[:2000])
    with pytest.raises(BadRow, match=r"a row: .*d\.jpg"):
        open_image(str(broken), "a row", 60)


@pytest.fixture
def large_rows(tmp_path: Path) -> list[dict[str, Any]]:
    files = [photograph(tmp_path / f"{number}.jpg", (320, 240 + 8 * number), quality=95) for number in range(4)]
    said = [{"from": "human", "value": "<image>\nwhat is it"}, {"from": "gpt", "value": "a red dog"}]
    return [{"id": file.stem, "image": str(file), "conversations": said} for file in files]


def test_pixels_are_the_same_unless_it_is_asked_for(tiny_llava: str, large_rows: list[dict[str, Any]]):
    processor = AutoProcessor.from_pretrained(tiny_llava)
    plain, drafted = (LlavaCollator(processor, draft_images=draft)(large_rows) for draft in (False, True))
    whole = processor.process_images([to_rgb(row["image"]) for row in large_rows])["pixel_values"]
    assert torch.equal(plain["pixel_values"], whole)
    assert torch.equal(plain["input_ids"], drafted["input_ids"])
    apart = (plain["pixel_values"] - drafted["pixel_values"]).abs().max()
    assert 0 < apart < 0.3  # of values that go from -2 to 2
    sizes = {
        image.size
        for sample in LlavaCollator(processor, draft_images=True).samples(large_rows)
        for image in sample.images
    }
    assert max(max(size) for size in sizes) < 320
    assert min(min(size) for size in sizes) >= 2 * max(processor.view.width, processor.view.height)


def test_a_training_on_drafts(tiny_llava: str, large_rows: list[dict[str, Any]], tmp_path: Path):
    """Sizes are those of the files, and a draft is known for what it is; a picture that changed is not."""
    args = LlavaSFTConfig(str(tmp_path / "out"), draft_images=True, max_steps=1, save_strategy="no", **CPU_SETTINGS)
    trainer = LlavaSFTTrainer(tiny_llava, args, train_dataset=large_rows)
    trainer.train()
    rows: Any = trainer.train_dataset
    photograph(Path(large_rows[0]["image"]), (800, 800))
    with pytest.raises(BadRow, match="and was 320 x 240 pixels"):
        trainer.data_collator([rows[0]])


def test_a_layout_that_cuts_by_size_has_no_drafts(tiny_llava: str):
    processor = AutoProcessor.from_pretrained(tiny_llava, image_aspect_ratio="anyres")
    with pytest.raises(ValueError, match="--draft_images true: AnyResLayout cuts an image by its size"):
        LlavaCollator(processor, draft_images=True)
