"""Boxes that a row names are drawn on its picture as the vision encoder gets it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from llavakit import LlavaProcessor
from llavakit.train.inspect.shown_pictures import views_as_seen, with_boxes

from .inspected_rows import inspected, talk


def reader_of(processor: LlavaProcessor, layout: str, **options: Any) -> LlavaProcessor:
    image_processor = type(processor.image_processor)(size={"shortest_edge": 112}, crop_size=112)
    return LlavaProcessor(
        image_processor, processor.tokenizer, 14, chat_template="plain", image_aspect_ratio=layout, **options
    )


def changed(one: Image.Image, other: Image.Image) -> list[int] | None:
    """The box around all in which two pictures differ."""
    off = (np.asarray(one) != np.asarray(other)).any(-1)
    rows, columns = np.flatnonzero(off.any(1)), np.flatnonzero(off.any(0))
    return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1] if len(rows) else None


@pytest.mark.parametrize("layout", ["crop", "pad", "tiles"])
def test_boxes_lie_where_the_views_show_them(processor: LlavaProcessor, layout: str) -> None:
    reader, picture = reader_of(processor, layout), Image.new("RGB", (448, 224), (90, 90, 90))
    box = [140, 60, 300, 180]
    views = views_as_seen(picture, reader)
    drawn = with_boxes(views, [box, [200, 100]], picture.size, reader)  # of boxes and points the boxes
    pieces = {piece.view: piece.box for piece in reader.image_regions(448, 224).in_views(box)}
    assert pieces
    for number, (plain, marked) in enumerate(zip(views, drawn, strict=True)):
        found = changed(plain, marked)
        assert (found is None) == (number not in pieces)
        assert found is None or found == pytest.approx(pieces[number], abs=2)


def test_boxes_of_questions_and_answers_are_drawn(processor: LlavaProcessor, tmp_path: Path) -> None:
    Image.new("RGB", (300, 200), (90, 90, 90)).save(tmp_path / "grey.png")
    rows = [
        talk("plain", "grey.png", "what", "a cat"),
        talk("answer", "grey.png", "where is the cat", "[0.3, 0.3, 0.6, 0.6]"),
        talk("question", "grey.png", "what is at [0.3, 0.3, 0.6, 0.6]", "a cat"),
        talk("several", ["grey.png"] * 2, "where", "[0.3, 0.3, 0.6, 0.6]", first="<image>" * 2),
    ]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    shown = inspected(tmp_path / "rows.json", reader_of(processor, "pad")).shown
    plain, answer, question, several = (row.pictures[0].address for row in shown)
    assert plain == several != answer == question
