"""How a picture is cut, in words and as a drawing, is what the processor does to it."""

import random
from xml.etree import ElementTree

import pytest
from transformers import AutoProcessor

from llavakit import LlavaProcessor
from llavakit.reports.image_cuts import ImageCut

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def processor_with(tiny_llava: str):
    saved = AutoProcessor.from_pretrained(tiny_llava)

    def make(layout: str, **options) -> LlavaProcessor:
        return LlavaProcessor(
            saved.image_processor,
            saved.tokenizer,
            14,
            chat_template="plain",
            image_aspect_ratio=layout,
            image_layout_options=options or None,
        )

    return make


@pytest.mark.parametrize(
    ("layout", "options", "words"),
    [
        ("crop", {}, "1 view, 4 tokens"),
        ("pad", {}, "1 view, 4 tokens"),
        ("anyres", {"candidates": [[28, 28]]}, "1 tile and an overview: 2 views, 10 tokens"),
        ("anyres", {"candidates": [[28, 56]]}, "1 x 2 tiles and an overview: 3 views, 14 tokens"),
        ("tiles", {"max_tiles": 6}, "2 x 3 tiles and an overview: 7 views, 28 tokens"),
        ("tiles", {"max_tiles": 6, "thumbnail": False}, "2 x 3 tiles: 6 views, 24 tokens"),
    ],
)
def test_the_words(processor_with, layout: str, options: dict, words: str) -> None:
    assert ImageCut.of(processor_with(layout, **options), 84, 56).words == words


@pytest.mark.parametrize("layout", ["crop", "pad", "anyres", "tiles"])
def test_numbers_and_drawing_are_those_of_the_plan(processor_with, layout: str) -> None:
    processor, draw = processor_with(layout), random.Random(layout)
    for _ in range(200):
        width, height = draw.randint(1, 900), draw.randint(1, 900)
        cut, plan = ImageCut.of(processor, width, height), processor.plan(width, height)
        assert (cut.num_views, cut.num_tokens) == (plan.num_views, plan.num_tokens)
        assert cut.num_views - cut.rows * cut.columns in ((0, 1) if layout in ("anyres", "tiles") else (0,))
        assert cut.overview_first == (layout == "anyres")
        drawn = ElementTree.fromstring(cut.drawing().replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1))
        picture = drawn.findall(f"{SVG}rect")[1].attrib
        left, top, across, down = (float(picture[name]) for name in ("x", "y", "width", "height"))
        assert left >= 0 and left + across <= cut.canvas[0] + 0.01
        assert top >= 0 and top + down <= cut.canvas[1] + 0.01
        edges = drawn.find(f"{SVG}path").attrib["d"].count("M") - 1
        assert edges == cut.rows - 1 + cut.columns - 1


def test_models_that_cut_alike_are_named_once(processor_with) -> None:
    pytest.importorskip("gradio", reason="gradio is not installed: pip install 'llavakit[web]'")
    from llavakit.inference.web_actions import shown_cuts

    def cuts(*layouts: str) -> list[ImageCut]:
        return [ImageCut.of(processor_with(layout), 84, 56) for layout in layouts]

    names = ["<first>", "second"]
    assert shown_cuts(names, []) == ""
    assert shown_cuts(names, cuts("crop", "crop")).count("<span>1 view, 4 tokens</span>") == 1
    both = shown_cuts(names, cuts("crop", "tiles"))
    assert "<b>&lt;first&gt;</b><br>1 view, 4 tokens" in both and "<b>second</b><br>2 x 3 tiles" in both
