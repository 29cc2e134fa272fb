"""What the tests of the inspection share: a processor, a photograph, and a row of each kind of fault."""

import json
from pathlib import Path

import pytest
from PIL import Image
from transformers import AutoProcessor

from llavakit import LlavaProcessor

from .inspected_rows import png_of, talk, text_row


@pytest.fixture(scope="module")
def processor(tiny_llava: str) -> LlavaProcessor:
    return AutoProcessor.from_pretrained(tiny_llava)


@pytest.fixture
def photo(tmp_path: Path) -> str:
    Image.effect_noise((50, 40), 90).convert("RGB").save(tmp_path / "photo.jpg", quality=95)
    return "photo.jpg"


@pytest.fixture
def one_of_each(tmp_path: Path, photo: str) -> Path:
    """Three good rows and every kind of bad one."""
    (tmp_path / "truncated.jpg").write_bytes((tmp_path / photo).read_bytes()[:-300])
    # Header and end are in place, so only who reads all of it can tell
    (tmp_path / "hollow.png").write_bytes(png_of(50, 40))
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "drawing.jpg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    (tmp_path / "bomb.png").write_bytes(png_of(10_000, 10_000))
    question, answer = "what is it", "a cat"
    rows: list[object] = [
        talk("good", photo, question, answer, "say it again", "a cat"),
        text_row("text only", question, answer),
        talk("two images", [photo, "same.png"], question, answer, first="<image>\n<image>\n"),
        talk("missing", "none.jpg", question, answer),
        talk("truncated", "truncated.jpg", question, answer),
        talk("hollow", "hollow.png", question, answer),
        talk("no image", "text.jpg", question, answer),
        talk("bomb", "bomb.png", question, answer),
        talk("count", photo, question, answer, first="<image>\n<image>\n"),
        {"id": "role", "conversations": [{"from": "user", "value": "hi"}, {"from": "gpt", "value": "hi"}]},
        talk("empty", photo, question, " "),
        {**talk("two answers", photo, question, answer), "conversations": [
            {"from": "human", "value": "<image>"}, {"from": "gpt", "value": "a"}, {"from": "gpt", "value": "b"},
        ]},
        talk("leaves", "../secret.png", question, answer),
        talk("url", "https://127.0.0.1/a.png", question, answer),
        talk("null", "a\0b.png", question, answer),
        talk("too long", photo, "cat " * 300, answer),
        talk("missing again", "none.jpg", question, answer),
        {"id": "neither", "text": "hello"},
        {"id": "no list", "conversations": "hello"},
        {"id": "no turns", "messages": ["hello"]},
        {"id": "a number", "conversations": 7},
        talk("no picture", 5, question, answer),
        text_row("half a character", "what \ud83d", answer),
        "a string",
        talk("drawing", "drawing.jpg", question, answer),
    ]  # fmt: skip
    Image.new("RGB", (30, 30)).save(tmp_path / "same.png")
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(rows))
    return path
