"""Boxes and points as text: written, read back out of free text, and mapped to the user's picture."""

import copy
import random
from typing import Any

import pytest
from transformers import AutoProcessor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from llavakit.processing import LlavaProcessor
from llavakit.processing.box_formats import BOX_FORMATS, read_boxes, write_box
from llavakit.processing.image_geometry import Placement

SIZE = (640, 480)


def boxes(text: str, name: str, size: tuple[int, int] = SIZE) -> list[Any]:
    return [found.box for found in read_boxes(text, name, *size, Placement.stretched(*size, (224, 224)))]


def around(*values: float) -> Any:
    return pytest.approx(list(values), abs=0.01)


# ------------------------------------------------------------------------------------------------ what is written


@pytest.mark.parametrize(
    ("name", "box", "point"),
    [
        ("llava", "[0.25, 0.38, 0.5, 0.88]", "[0.25, 0.38]"),  # the square has 80 rows above the picture
        ("picture", "[0.25, 0.333, 0.5, 1.0]", "[0.25, 0.333]"),
        ("pixels", "[160, 160, 320, 480]", "[160, 160]"),
        ("canvas", "[56, 75, 112, 224]", "[56, 75]"),
        ("thousand", "[250, 333, 500, 1000]", "[250, 333]"),
        ("qwen_vl", "<box>(250,333),(500,1000)</box>", "<box>(250,333)</box>"),
        ("internvl", "<box>[[250, 333, 500, 1000]]</box>", "<box>[[250, 333]]</box>"),
        ("points", None, '<point x="25.0" y="33.3">'),
    ],
)
def test_text_of_each_convention(name: str, box: str | None, point: str) -> None:
    canvas = Placement.stretched(*SIZE, (224, 224))
    assert write_box([160, 160], name, *SIZE, canvas) == point
    if box is None:
        with pytest.raises(ValueError, match="box_format='points', which has points of 2 numbers"):
            write_box([160, 160, 320, 480], name, *SIZE)
    else:
        assert write_box([160, 160, 320, 480], name, *SIZE, canvas) == box


def test_every_convention_is_covered() -> None:
    marks: Any = test_text_of_each_convention
    [mark] = marks.pytestmark
    assert [case[0] for case in mark.args[1]] == list(BOX_FORMATS)


@pytest.mark.parametrize("name", BOX_FORMATS)
def test_what_is_written_is_read_back(name: str) -> None:
    """Within half a step of the convention; a box too thin for one keeps a step."""
    form, draw = BOX_FORMATS[name], random.Random(name)
    for number in range(2000):
        width, height = draw.randint(1, 3000), draw.randint(1, 3000)
        canvas = Placement(336, 448, 336 / width, 300 / height, 0, 74)
        sides = [length * draw.uniform(0.0001, 1) for length in (width, height)]
        left, top = (draw.uniform(0, length - side) for length, side in zip((width, height), sides, strict=True))
        box = [left, top] if form.box is None or number % 4 == 0 else [left, top, left + sides[0], top + sides[1]]
        [found] = read_boxes(f"It is {write_box(box, name, width, height, canvas)}.", name, width, height, canvas)
        assert found.box is not None and found.problem is None, (found, box, width, height)
        side = max(width, height)
        unit = form.scale or 1
        lengths = {"square": (side, side), "picture": (width, height), "canvas": (width, height * 448 / 300)}[form.of]
        steps = [length / unit / 10**form.decimals for length in lengths]
        if form.scale is None:
            steps = [1.0, 1.0] if form.of == "picture" else [width / 336, height / 300]
        for index, (one, other) in enumerate(zip(found.box, box, strict=True)):
            # Thin boxes are widened by a step at most
            thin = len(box) == 4 and sides[index % 2] < 1.01 * steps[index % 2]
            assert abs(one - other) <= (1.001 if thin else 0.501) * steps[index % 2], (found, box, width, height)


# ------------------------------------------------------------------------------------------------ what is read


def test_boxes_of_the_padded_square() -> None:
    """A wide and a tall picture lie in the middle of the square; what a box has of the padding is cut off."""
    assert boxes("[0.0, 0.125, 1.0, 0.875]", "llava") == [around(0, 0, 640, 480)]
    assert boxes("[0.0, 0.0, 0.5, 0.5]", "llava") == [around(0, 0, 320, 240)]
    assert boxes("[0.25, 0.0, 0.5, 1.0]", "llava", (320, 640)) == [around(0, 0, 160, 640)]
    [found] = read_boxes("[0.1, 0.0, 0.9, 0.1]", "llava", *SIZE)
    assert found.box is None and found.problem == "it lies beside the picture, on padding"


def test_boxes_in_free_text() -> None:
    text = (
        "The cat [0.1, 0.2, 0.3, 0.4] and a dog at [.5,.5,1,1] look at [0.75, 0.5]; see [1] and (0.1, 0.2, 0.3, 0.4)."
    )
    read = read_boxes(text, "picture", 100, 200)
    assert [found.box for found in read] == [around(10, 40, 30, 80), around(50, 100, 100, 200), around(75, 100)]
    assert [text[found.start : found.end] for found in read] == [found.text for found in read]
    assert read[1].text == "[.5,.5,1,1]"
    many = "<ref>cats</ref><box>[[100, 200, 300, 400], [500, 500, 999, 1000]]</box>"
    assert boxes(many, "internvl", (100, 100)) == [around(10, 20, 30, 40), around(50, 50, 99.9, 100)]
    tagged = "<ref>cat</ref><box>(100,200),(300,400)</box><box>(1,2),(3,4)</box>"
    without = tagged.replace("<box>", "").replace("</box>", " ")  # they are special tokens, which decoding leaves out
    assert boxes(tagged, "qwen_vl") == boxes(without, "qwen_vl") and len(boxes(tagged, "qwen_vl")) == 2
    spread = (
        '<points x1="10" y1="20.5" x2="50.0" y2="60" alt="eyes">eyes</points> <point x="1" y="2" alt="a">a</point>'
    )
    assert boxes(spread, "points", (100, 100)) == [around(10, 20.5), around(50, 60), around(1, 2)]
    assert boxes('{"bbox_2d": [56, 75, 112, 224], "label": "cat"}', "canvas") == [around(160, 160.71, 320, 480)]
    assert read_boxes("There is no cat. [see below] (2020), <pointless>, []", "llava", *SIZE) == []


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("llava", "[0.1, 0.2, 0.3]", "not made of two or four numbers"),
        ("llava", "[0.1, 0.2, 0.3, 0.4, 0.5]", "not made of two or four numbers"),
        ("llava", "[0.1, 0.2, 0.3, 0.", "was cut off"),
        ("llava", "[0.1, 0.2, 0.3, cat]", "not made of two or four numbers"),
        ("llava", "[0.1, 0.2, 0.3, 1.2.3]", "not made of two or four numbers"),
        ("llava", "[0.5, 0.2, 0.3, 0.4]", "corners are out of order"),
        ("llava", "[0.1, 0.2, 0.1, 0.4]", "has no area"),
        ("llava", "[10, 20, 300, 400]", "leaves the picture, which ends at 1 and 1"),
        ("llava", "[-0.2, 0.2, 0.3, 0.4]", "leaves the picture"),
        ("pixels", "[10, 20, 700, 400]", "leaves the picture, which ends at 640 and 480"),
        ("thousand", "[10, 20, 30, 1100]", "leaves the picture, which ends at 1000 and 1000"),
        ("qwen_vl", "<box>(10,20),(30)</box>", "not made of two or four numbers"),
        ("qwen_vl", "<box>(10,20),(30,4", "was cut off"),
        ("points", '<point x="a" y="1">', "not made of two or four numbers"),
        ("points", '<point x="5">', "not made of two or four numbers"),
        ("points", '<point x="120" y="1">', "leaves the picture"),
    ],
)
def test_what_cannot_be_read_is_told(name: str, text: str, problem: str) -> None:
    read = read_boxes(f"It is {text}", name, *SIZE)
    assert [found.box for found in read] == [None], read
    assert problem in str(read[0].problem)


def test_free_text_of_any_kind_is_read_without_an_error() -> None:
    draw = random.Random(0)
    for name in BOX_FORMATS:
        for _ in range(2000):
            text = "".join(draw.choice('[](),. 0123456789-<>box/point xy="\n') for _ in range(draw.randint(0, 60)))
            for found in read_boxes(text, name, *SIZE, Placement.stretched(*SIZE, (224, 224))):
                assert (found.box is None) != (found.problem is None) and text[found.start : found.end] == found.text


def test_what_cannot_be_written() -> None:
    for box in ([700, 10, 800, 20], [5, 5, 5, 9], [650, 10]):
        with pytest.raises(ValueError, match="lies outside of a picture of 640 x 480 pixels, or has no area"):
            write_box(box, "llava", *SIZE)
    with pytest.raises(ValueError, match="has boxes of 4 numbers and points of 2 numbers"):
        write_box([1, 2, 3], "llava", *SIZE)
    with pytest.raises(
        ValueError, match="box_format='yolo' is no convention for boxes: use one of .'llava', 'picture'"
    ):
        write_box([1, 2, 3, 4], "yolo", *SIZE)
    with pytest.raises(ValueError, match="known to its processor alone"):
        write_box([1, 2, 3, 4], "canvas", *SIZE)


# ------------------------------------------------------------------------------------------------ with a checkpoint


def test_a_checkpoint_knows_its_convention(tokenizer_of: Any, tmp_path: Any) -> None:
    def build(**options: Any) -> LlavaProcessor:
        image_processor = CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size=28)
        return LlavaProcessor(image_processor, copy.deepcopy(tokenizer_of("byte_level_bpe")), 14, **options)

    assert build().box_text([0, 0, 640, 480], *SIZE) == "[0.0, 0.12, 1.0, 0.88]"
    with pytest.raises(ValueError, match="box_format='yolo' is no convention"):
        build(box_format="yolo")
    build(box_format="canvas", image_aspect_ratio="pad").save_pretrained(tmp_path)
    loaded: Any = AutoProcessor.from_pretrained(tmp_path)
    assert loaded.box_format == "canvas"
    assert loaded.box_text([0, 0, 640, 480], *SIZE) == "[0, 4, 28, 24]"
    answer = "Here: [0, 7, 14, 14], [7, 7, 3, 9]"
    assert loaded.boxes_in(answer, *SIZE) == [around(0, 80, 320, 240)]
    assert [found.problem is None for found in loaded.read_boxes(answer, *SIZE)] == [True, False]
