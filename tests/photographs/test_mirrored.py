"""Photographs that are learnt from mirrored too."""

from pathlib import Path

from PIL import Image

from llavakit.photographs.labelled import Photograph
from llavakit.photographs.mirrored import write_mirrored


def test_a_photograph_is_learnt_from_as_it_was_taken_and_mirrored(tmp_path: Path):
    """Files of one name and two suffixes stay two; a label called like our own folders does no harm."""
    source, folder = tmp_path / "source", tmp_path / "pictures"
    photographs = [Photograph("mirrored/a.png", "mirrored"), Photograph("mirrored/a.jpg", "mirrored")]
    (source / "mirrored").mkdir(parents=True)
    for photograph in photographs:
        picture = Image.new("RGB", (32, 16), "black")
        picture.paste("white", (0, 0, 8, 16))
        picture.save(source / photograph.path)
    for _ in range(2):  # cut off and begun again
        seen = write_mirrored(photographs, source, folder)
    assert len({each.path for each in seen}) == 4 and {each.label for each in seen} == {"mirrored"}
    for taken, mirror, photograph in zip(seen[:2], seen[2:], photographs, strict=True):
        assert (folder / taken.path).read_bytes() == (source / photograph.path).read_bytes()
        with Image.open(folder / mirror.path) as image:
            corners = [image.convert("L").getpixel((column, 8)) for column in (2, 29)]
        assert corners[0] < 20 and corners[1] > 235
    assert {file.name for file in source.rglob("*") if file.is_file()} == {"a.png", "a.jpg"}
