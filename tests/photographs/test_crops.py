"""Random crops of photographs, for a vision encoder that learns."""

from pathlib import Path

import pytest
from PIL import Image

from llavakit.photographs.crops import LEAST_SIDE, write_crops
from llavakit.photographs.labelled import Photograph


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A wide photograph whose columns get brighter from left to right, and whose ends are red."""
    ramp = Image.linear_gradient("L").rotate(90).resize((100, 100))  # black on the left
    picture = Image.new("RGB", (160, 100), "red")
    picture.paste(ramp.convert("RGB"), (30, 0))
    (tmp_path / "train" / "ramp").mkdir(parents=True)
    picture.save(tmp_path / "train" / "ramp" / "a.png")
    return tmp_path


@pytest.mark.parametrize("mirrored", [False, True])
def test_crops_are_squares_of_the_middle_and_others_in_each_pass(source: Path, tmp_path: Path, mirrored: bool):
    photograph = Photograph("train/ramp/a.png", "ramp")

    def cut(seed: int) -> list[Image.Image]:
        crops = write_crops([photograph], source, tmp_path / "crops", passes=12, mirrored=mirrored, seed=seed)
        assert len({crop.path for crop in crops}) == 12 and {crop.label for crop in crops} == {"ramp"}
        return [Image.open(tmp_path / "crops" / crop.path).convert("RGB") for crop in crops]

    pictures = cut(seed=0)
    brighter = []
    for picture in pictures:
        width, height = picture.size
        assert width == height and 100 * LEAST_SIDE - 1 <= width <= 100
        left, right = (picture.getpixel((column, height // 2)) for column in (1, width - 2))
        for red, green, _ in (left, right):
            assert abs(red - green) < 40, "nothing of the red ends"
        brighter.append(right[0] > left[0])
    assert all(brighter) if not mirrored else 0 < sum(brighter) < 12
    assert len({picture.tobytes() for picture in pictures}) == 12
    assert [picture.tobytes() for picture in cut(seed=0)] == [picture.tobytes() for picture in pictures]
    assert [picture.size for picture in cut(seed=1)] != [picture.size for picture in pictures]
