"""Opening images: each kind of broken file is named, before and during training."""

import io
import zlib
from pathlib import Path

import pytest
from PIL import Image

from llavakit.rows.images import image_size, open_image
from llavakit.rows.schema import BadRow


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.jpg"
    Image.effect_noise((120, 80), 90).convert("RGB").save(path, quality=95)
    return path


def png_of(width: int, height: int) -> bytes:
    """A PNG whose header claims a size, with no more pixels than needed to look real."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 2, 0, 0, 0])
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + chunk(b"IEND", b"")
    )


def test_good_images_open(photo: Path):
    sources = [str(photo), photo, {"path": str(photo), "bytes": None}, {"path": None, "bytes": photo.read_bytes()}]
    for source in sources:
        assert open_image(source, "row 0").size == (120, 80)
        assert image_size(source, "row 0") == (120, 80)
    assert open_image(Image.new("L", (3, 2)), "row 0").mode == "RGB"
    assert image_size(Image.new("L", (3, 2)), "row 0") == (3, 2)


@pytest.mark.parametrize("decode", [True, False])
@pytest.mark.parametrize("kind", ["missing", "truncated", "text", "bomb", "huge", "folder", "url", "empty"])
def test_bad_images_are_named(photo: Path, tmp_path: Path, kind: str, decode: bool):
    path = tmp_path / "bad.jpg"
    content = {
        "truncated": photo.read_bytes()[: photo.stat().st_size // 2],
        "text": b"this is no image",
        "bomb": png_of(60_000, 60_000),
        "huge": png_of(10_000, 10_000),
        "empty": b"",
    }
    if kind in content:
        path.write_bytes(content[kind])
    source = {"folder": str(tmp_path), "url": "https://127.0.0.1/a.jpg"}.get(kind, str(path))
    expected = {
        "missing": "there is no image",
        "truncated": "truncated",
        "text": "not an image",
        "empty": "not an image",
        "bomb": "decompression bomb",
        "huge": "guard against decompression bombs",
        "folder": "is a folder",
        "url": "is a URL",
    }[kind]
    with pytest.raises(BadRow, match="^row 9") as caught:
        (open_image if decode else image_size)(source, "row 9")
    assert expected in str(caught.value)


def test_photographs_are_turned_upright():
    image = Image.new("RGB", (40, 20), "red")
    exif = image.getexif()
    exif[0x0112] = 6  # the camera was held on its side
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", exif=exif)
    assert open_image({"bytes": buffer.getvalue()}, "row 0").size == (20, 40)
