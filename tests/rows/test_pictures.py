"""One way from a file to pixels: training, the processor of a checkpoint and what is sent to a server see the same.

`tests/picture_files.py` has the files and what each must look like.
"""

import base64
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from llavakit.processing.image_inputs import (
    LONGEST_STRIP,
    crop_to_square,
    pad_to_square,
    to_rgb,
    trim_strip,
    upright_size,
)
from llavakit.rows.images import data_uri, image_size, open_image
from llavakit.rows.schema import BadRow

from ..picture_files import FILES, HEIGHT, MEAN, MOST, RAMP, SCENE, WIDTH, distance, encoded, tagged

LOSSY = ("JPEG", "MPO")
HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 64


def sources(content: bytes, folder: Path) -> Mapping[str, Any]:
    """A file as everything that a picture may come as. Its name says nothing true."""
    path = folder / "picture.gif.jpg.txt"
    path.write_bytes(content)
    return {
        "path": path,
        "string": str(path),
        "row of datasets": {"bytes": content, "path": None},
        "path in a row": {"bytes": None, "path": str(path)},
        "opened": Image.open(path),
    }


def sent(uri: str) -> tuple[str, bytes]:
    head, _, data = uri.partition(";base64,")
    return head.removeprefix("data:"), base64.b64decode(data)


@pytest.mark.parametrize("name", FILES)
def test_everybody_sees_the_same_pixels(name: str, tmp_path: Path) -> None:
    content, expected = FILES[name]
    most, mean = (MOST, MEAN) if any(kind in name for kind in LOSSY) else (1, 1)
    first = None
    for how, source in sources(content, tmp_path).items():
        seen = to_rgb(source)
        assert seen.mode == "RGB" and seen.size == expected.shape[1::-1], how
        apart = distance(np.asarray(seen), expected)
        assert apart <= (most, mean), f"{how}: off by {apart}"
        pixels = np.asarray(seen)
        first = pixels if first is None else first
        assert distance(pixels, first) == distance(np.asarray(open_image(source, "row 0")), first) == (0, 0), how
        assert upright_size(source) == image_size(source, "row 0") == seen.size, how
        kind, data = sent(data_uri(source, "row 0"))
        decoded = Image.open(io.BytesIO(data))
        assert Image.MIME[decoded.format].replace("mpo", "jpeg") == kind
        # A server that knows nothing of EXIF, of 16 bits, of alpha or of frames sees the same; what was a JPEG may be
        # one again
        assert not decoded.getexif().get(0x0112, 1) > 1 and not decoded.has_transparency_data
        apart = distance(np.asarray(decoded.convert("RGB")), first)
        assert apart <= ((30, 3) if kind == "image/jpeg" else (0, 0)), f"{how}: sent as {kind}, off by {apart}"


def test_bytes_and_addresses_are_read_by_the_same_rules() -> None:
    content, _ = FILES["turn 6 of JPEG"]
    wrong = "data:image/png;base64," + base64.b64encode(content).decode()
    assert to_rgb(content) == to_rgb(bytearray(content)) == to_rgb(wrong)
    assert upright_size(wrong) == (WIDTH, HEIGHT)
    with pytest.raises(ValueError, match="no data address"):
        to_rgb("data:image/png;base64,====a")
    with pytest.raises(ValueError, match="no data address"):
        to_rgb("data:image/png;base64")


@pytest.mark.parametrize(
    "values",
    [SCENE, np.dstack([SCENE, np.full_like(RAMP, 255)]), SCENE.astype(np.uint16) * 257, SCENE / 255],
    ids=["uint8", "alpha", "uint16", "float"],
)
def test_arrays(values: np.ndarray) -> None:
    assert distance(np.asarray(to_rgb(values)), SCENE) == (0, 0)
    assert upright_size(values) == (WIDTH, HEIGHT)


def test_arrays_of_grey() -> None:
    grey = np.repeat(RAMP[..., None], 3, axis=2)
    for values in (RAMP, RAMP[..., None], RAMP / 255, RAMP.astype(np.uint16) * 257):
        assert distance(np.asarray(to_rgb(values)), grey) == (0, 0)


@pytest.mark.parametrize("values", [SCENE.transpose(2, 0, 1), SCENE.astype(int), SCENE[:0], SCENE[0, 0]])
def test_arrays_that_are_no_picture_are_refused(values: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"an array of shape \(.*Pass one of shape \(height, width\)"):
        to_rgb(values)


def test_a_picture_is_turned_once() -> None:
    once = to_rgb(FILES["turn 6 of JPEG"][0])
    assert to_rgb(once) is once and upright_size(once) == once.size


def test_a_damaged_tag_says_nothing() -> None:
    exif = b"Exif\0\0MM\0*\0\0\0\x08" + b"\xff" * 40
    content = encoded(Image.fromarray(SCENE), "JPEG", exif=exif, quality=95, subsampling=0)
    assert upright_size(content) == (WIDTH, HEIGHT) == to_rgb(content).size


def test_a_float_picture_with_gaps_and_one_that_is_nothing_else(tmp_path: Path) -> None:
    values = (RAMP / 255).astype(np.float32)
    values[0, 40:] = np.nan
    values[1, 40:] = np.inf
    seen = np.asarray(to_rgb(encoded(Image.fromarray(values), "TIFF")))[..., 0]
    assert (seen[:2, 40:] == 0).all() and np.abs(seen[2:].astype(int) - RAMP[2:]).max() <= 1
    (tmp_path / "hole.tif").write_bytes(encoded(Image.fromarray(np.full_like(values, np.nan)), "TIFF"))
    with pytest.raises(BadRow, match=r"^row 3: the image .*hole.tif.*only NaN or infinity"):
        open_image(str(tmp_path / "hole.tif"), "row 3")


# ---- what is no picture ----


@pytest.mark.parametrize(
    ("content", "kind", "says"),
    [
        (b"<!DOCTYPE html><html>404 Not Found</html>", "image unreadable", "a page of HTML, not an image"),
        (b"", "image unreadable", "the file is empty, not an image"),
        (b"\0\0\0\x20ftypisom\0\0\2\0", "image unreadable", "it is a video, not an image"),
        (b"just words", "image unreadable", "not an image that Pillow can read"),
        (b"%PDF-1.7 ...", "image format", "it is PDF"),
        (b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', "image format", "it is SVG"),
        (encoded(Image.fromarray(SCENE), "EPS"), "image format", "it is EPS"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "image format", "it is JPEG XL"),
        (HEIC, "image format", "it is HEIC.*pip install pillow-heif"),
        (tagged(1, "JPEG")[:-300], "image unreadable", "damaged or truncated"),
    ],
)
def test_what_is_no_picture_is_named_and_never_sent(content: bytes, kind: str, says: str, tmp_path: Path) -> None:
    if content == HEIC and _heif():
        pytest.skip("pillow-heif is installed here, and reads it")
    (tmp_path / "a.jpg").write_bytes(content)
    for ask in (open_image, image_size, data_uri):
        with pytest.raises(BadRow, match=f"^row 3: .*a.jpg.*{says}") as caught:
            ask(str(tmp_path / "a.jpg"), "row 3")
        assert caught.value.kind == kind


def _heif() -> bool:
    try:
        import pillow_heif  # type: ignore[import-not-found,unused-ignore] # noqa: F401
    except ImportError:
        return False
    return True


@pytest.mark.skipif("AVIF" not in Image.MIME and not Image.init() and "AVIF" not in Image.MIME, reason="no AVIF here")
def test_avif_is_read_where_pillow_can() -> None:
    content = encoded(Image.fromarray(SCENE), "AVIF", quality=95)
    assert distance(np.asarray(to_rgb(content)), SCENE)[1] < MEAN
    assert sent(data_uri({"bytes": content}, "row 0"))[0] == "image/jpeg", "endpoints take no AVIF"


def test_nothing_is_fetched_for_a_row() -> None:
    for address in ("http://127.0.0.1:9/a.png", "https://a/b.png", "data:image/png;base64,AAAA", "HTTP://a/b.png"):
        for source in (address, {"path": address, "bytes": None}):
            for ask in (open_image, image_size, data_uri):
                with pytest.raises(BadRow, match="is a URL, and those are not fetched") as caught:
                    ask(source, "row 3")
                assert caught.value.kind == "image path"


def test_a_whole_file_goes_out_as_it_is() -> None:
    """Nothing is gained by writing anew what every program shows alike."""
    scene = Image.fromarray(SCENE)
    for kind, mime in {"JPEG": "jpeg", "PNG": "png", "GIF": "gif", "WEBP": "webp"}.items():
        content = encoded(scene, kind)
        assert sent(data_uri({"bytes": content, "path": "a.bmp"}, "row 0")) == (f"image/{mime}", content)
    assert sent(data_uri({"bytes": encoded(scene, "BMP")}, "row 0"))[0] == "image/png"


# ---- strips ----


@pytest.mark.parametrize("size", [(1, 3000), (3000, 1), (2, 3001), (5, 41), (3, 25)])
def test_a_strip_keeps_its_centre(size: tuple[int, int]) -> None:
    width, height = size
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    trimmed = trim_strip(Image.fromarray(pixels))
    assert min(trimmed.size) == min(size) and max(trimmed.size) <= LONGEST_STRIP * min(size)
    assert max(trimmed.size) > (LONGEST_STRIP - 1) * min(size) - 1
    assert crop_to_square(trimmed) == crop_to_square(Image.fromarray(pixels))


def test_what_is_no_strip_stays_as_it_is() -> None:
    for size in ((640, 480), (300, 2400), (1, 8), (7, 7)):
        image = Image.new("RGB", size)
        assert trim_strip(image) is image


def test_a_square_around_a_very_long_strip_fits_into_memory() -> None:
    strip = Image.new("RGB", (60_000, 3), "red")
    square = pad_to_square(strip, (0, 0, 255))
    assert square.size[0] == square.size[1] <= 4096
    column = np.asarray(square)[:, square.size[0] // 2]
    red = (column == (255, 0, 0)).all(axis=1)
    assert red.sum() == 1 and abs(int(red.argmax()) - square.size[1] // 2) <= 1 and (column[~red] == (0, 0, 255)).all()
    assert pad_to_square(Image.new("RGB", (60, 3)), (0, 0, 255)).size == (60, 60)
