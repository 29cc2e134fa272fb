"""Where an answer points: said and drawn in the terminal, and on the page in a real browser."""

import base64
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from llavakit.cli import main
from llavakit.inference.chat import load_llava
from llavakit.reports.marked_pictures import coloured, in_words, marked

from .browser_page import Page
from .web_server import WebServer, web_server

ANSWER = "[0.25, 0.25, 0.5, 0.75] [0.5, 0.3, 0.4"
BOX = (160, 80, 320, 400)  # of 640 x 480 pixels: the square has 80 rows of padding above


@pytest.fixture(scope="module")
def pointing_llava(tiny_llava: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A checkpoint that answers everything with a box, and with one that is cut off."""
    model, processor = load_llava(tiny_llava)
    ids = processor.tokenizer(ANSWER, add_special_tokens=False).input_ids + [processor.tokenizer.eos_token_id]
    model.generation_config.sequence_bias = [[ids[:end], 1000.0 * end] for end in range(1, len(ids) + 1)]
    folder = tmp_path_factory.mktemp("pointing") / "llava"
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def grey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("grey") / "grey.png"
    Image.new("RGB", (640, 480), (128, 128, 128)).save(path)
    return path


def drawn_at(picture: Image.Image) -> list[int]:
    """The box around everything that is not grey."""
    off = (np.abs(np.asarray(picture.convert("RGB")).astype(int) - 128) > 40).any(-1)
    rows, columns = np.flatnonzero(off.any(1)), np.flatnonzero(off.any(0))
    return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


def test_boxes_and_points_are_drawn_where_they_are() -> None:
    picture = Image.new("RGB", (640, 480), (128, 128, 128))
    assert drawn_at(marked(picture, coloured([BOX]))) == pytest.approx(BOX, abs=1.5)
    left, top, right, bottom = drawn_at(marked(picture, coloured([[100, 200]])))
    assert ((left + right) / 2, (top + bottom) / 2) == pytest.approx((100, 200), abs=1.5)
    assert marked(picture, []).tobytes() == picture.tobytes() != marked(picture, coloured([BOX])).tobytes()
    assert len({colour for _, colour in coloured([BOX] * 4)}) == 4
    assert in_words([1.4, 2, 3, 4.6], (8, 9)) == "1, 2 to 3, 5 of 8 x 9 pixels"


def test_the_terminal_says_and_draws_them(
    pointing_llava: str, grey: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn = tmp_path / "drawn.png"
    arguments = ["chat", pointing_llava, "--image", str(grey), "--question", "where is the cat"]
    assert main([*arguments, "--draw_boxes", str(drawn)]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed == [
        ANSWER,
        "([0.25, 0.25, 0.5, 0.75]: 160, 80 to 320, 400 of 640 x 480 pixels)",
        "([0.5, 0.3, 0.4: it is not made of two or four numbers, or was cut off)",
        f"(drawn: {drawn})",
    ]
    assert drawn_at(Image.open(drawn)) == pytest.approx(BOX, abs=1.5)
    # Without a picture there is nothing to point at
    assert main(["chat", pointing_llava, "--question", "where is the cat"]) == 0
    assert capsys.readouterr().out.splitlines() == [ANSWER]
    for more, message in ((["--draw_boxes", "a.txt"], "give a name that ends in .png"), (["--web"], "go without")):
        assert main([*arguments, *more]) == 1
        assert message in capsys.readouterr().err


@pytest.fixture
def served(pointing_llava: str, forked_servers: None, tmp_path: Path) -> Iterator[WebServer]:
    pytest.importorskip("gradio", reason="gradio is not installed: pip install 'llavakit[web]'")
    with web_server(tmp_path, dict(os.environ), pointing_llava) as server:
        yield server


@pytest.mark.slow
def test_the_page_draws_them_over_the_picture(chromium: Any, served: WebServer, grey: Path) -> None:
    page = Page(chromium, served.url)
    page.upload(grey)
    page.wait(page.picture)
    assert not page.all("#boxes img")
    page.ask("where is the cat")
    [shown] = page.wait(lambda: page.ready() and page.all("#boxes img"))
    content = base64.b64decode(shown.get_attribute("src").partition(",")[2])
    assert drawn_at(Image.open(io.BytesIO(content))) == pytest.approx(BOX, abs=3)
    assert page.one("#boxes figcaption").text == "160, 80 to 320, 400 of 640 x 480 pixels"
    page.screenshot("boxes")
    page.one("#undo").click()
    page.wait(lambda: not page.all("#boxes img"))
