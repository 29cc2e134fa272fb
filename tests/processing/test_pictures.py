"""Pictures of every kind become pixels: upright, on the mean colour or cut to the centre."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from llavakit.processing import LlavaProcessor


def normalized(pixels: np.ndarray, image_processor: Any) -> np.ndarray:
    """(height, width, 3) bytes as the vision encoder gets them, by hand."""
    mean, std = np.array(image_processor.image_mean), np.array(image_processor.image_std)
    return ((pixels / 255 - mean) / std).transpose(2, 0, 1).astype(np.float32)


@pytest.mark.parametrize("size", [(28, 20), (20, 28), (28, 27), (28, 28)])
@pytest.mark.parametrize("kind", [CLIPImageProcessorPil, SiglipImageProcessorPil])
def test_pad_fills_with_the_mean_colour(tokenizer: Any, kind: Any, size: tuple[int, int]) -> None:
    options = {"crop_size": 28} if kind is CLIPImageProcessorPil else {}
    image_processor = kind(size={"height": 28, "width": 28}, **options)
    processor = LlavaProcessor(image_processor, tokenizer, 14, chat_template="plain", image_aspect_ratio="pad")
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    expected = np.empty((28, 28, 3), dtype=np.uint8)
    expected[:] = [int(channel * 255) for channel in image_processor.image_mean]
    top, left = (28 - size[1]) // 2, (28 - size[0]) // 2
    expected[top : top + size[1], left : left + size[0]] = pixels
    result = processor(images=Image.fromarray(pixels), return_tensors="pt")["pixel_values"]
    assert result.shape == (1, 3, 28, 28)
    np.testing.assert_allclose(result[0].numpy(), normalized(expected, image_processor), atol=1e-5)


@pytest.mark.parametrize("size", [(28, 40), (40, 28), (28, 28)])
@pytest.mark.parametrize("kind", [CLIPImageProcessorPil, SiglipImageProcessorPil])
def test_crop_takes_the_centre(tokenizer: Any, kind: Any, size: tuple[int, int]) -> None:
    """An image processor without a centre crop of its own must not squeeze the picture."""
    options = {"crop_size": 28} if kind is CLIPImageProcessorPil else {}
    side = {"shortest_edge": 28} if kind is CLIPImageProcessorPil else {"height": 28, "width": 28}
    image_processor = kind(size=side, **options)
    processor = LlavaProcessor(image_processor, tokenizer, 14, chat_template="plain")
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    top, left = (size[1] - 28) // 2, (size[0] - 28) // 2
    expected = normalized(pixels[top : top + 28, left : left + 28], image_processor)
    result = processor(images=Image.fromarray(pixels), return_tensors="pt")["pixel_values"]
    np.testing.assert_allclose(result[0].numpy(), expected, atol=1e-5)


def test_kinds_of_images(processor: LlavaProcessor, picture: Image.Image, tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    picture.save(path)
    expected = processor.process_images([picture])["pixel_values"]
    kinds = [path, str(path), path.read_bytes(), {"bytes": path.read_bytes(), "path": None}, {"path": str(path)}]
    for image in [*kinds, np.asarray(picture)]:
        torch.testing.assert_close(processor.process_images([image])["pixel_values"], expected, rtol=0, atol=0)
    for mode in ("L", "RGBA", "P", "CMYK", "1", "LA"):
        assert processor.process_images([picture.convert(mode)])["pixel_values"].shape == expected.shape


def test_images_are_turned_upright_by_their_exif_tag(
    processor: LlavaProcessor, picture: Image.Image, tmp_path: Path
) -> None:
    """As training sees them; the original reads them as they lie."""
    exif = Image.Exif()
    exif[274] = 6
    picture.save(tmp_path / "turned.png", exif=exif)
    result = processor.process_images([tmp_path / "turned.png"])["pixel_values"]
    upright = processor.process_images([picture.transpose(Image.Transpose.ROTATE_270)])["pixel_values"]
    torch.testing.assert_close(result, upright, rtol=0, atol=0)


def test_unreadable_images(processor: LlavaProcessor, tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("no image")
    for image in (tmp_path / "text.jpg", tmp_path / "absent.jpg", b"bytes"):
        with pytest.raises(ValueError, match="cannot be read as an image"):
            processor.process_images([image])
    with pytest.raises(ValueError, match="image of type int"):
        processor.process_images([3])
