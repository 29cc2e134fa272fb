"""Rows as they are shown: tokens exactly as the collator labels them, and pictures as the vision encoder gets them."""

import base64
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from transformers import AutoTokenizer

from llavakit import LlavaCollator, LlavaProcessor, load_conversations
from llavakit.train.inspect import (
    inspect_rows,
    render_page,
    render_terminal,
    shown_rows,
)
from llavakit.train.inspect.findings import ShownPicture
from llavakit.train.inspect.terminal import terminal_parts

from .inspected_rows import EXPECTED, inspected, said, talk
from .page_reader import Page, labels_of


@pytest.mark.parametrize("template", ["vicuna_v1", "llava_v0", "plain", "chatml"])
def test_the_page_shows_the_collators_labels(processor: LlavaProcessor, rows_file: Path, template: str):
    reader = LlavaProcessor(processor.image_processor, processor.tokenizer, patch_size=14, chat_template=template)
    page = Page(render_page(inspected(rows_file, reader, None, num_rows=12)))
    assert len(page.rows) == 12
    for row, example in zip(page.rows, load_conversations(rows_file), strict=True):
        batch = LlavaCollator(reader)([example])
        ids, labels = labels_of(row)
        assert ids == batch["input_ids"][0].tolist()
        assert labels == batch["labels"][0].tolist()


def test_the_terminal_shows_the_collators_labels(processor: LlavaProcessor, rows_file: Path):
    text = render_terminal(inspected(rows_file, processor, None, num_rows=12))
    shown = re.findall(r"^--- row (\d+), id (\S+): (.*?)\n(.*?)\n\n", text, re.DOTALL | re.MULTILINE)
    assert len(shown) == 12
    for (index, row_id, title, tokens), example in zip(shown, load_conversations(rows_file), strict=True):
        labels = LlavaCollator(processor)([example])["labels"][0]
        supervised = processor.tokenizer.decode(labels[labels != -100])
        assert row_id == f"r{index}" and f"{len(labels)} tokens" in title
        assert "".join(re.findall(r"\[\[(.*?)\]\]", tokens)).replace("|</s>|", "</s>") == supervised
        assert tokens.count("[image x 4]") == (0 if index == "5" else 1)
        assert "\x1b" not in text


def test_colours_say_the_same_as_marks(processor: LlavaProcessor, rows_file: Path):
    found = inspected(rows_file, processor, 170, num_rows=12)
    assert found.truncated.count
    plain, file = render_terminal(found), io.StringIO()
    Console(file=file, force_terminal=True, color_system="standard", width=10_000).print(
        *terminal_parts(found, coloured=True), sep="\n", highlight=False, markup=False
    )
    coloured = file.getvalue()
    unmarked = re.sub(r"\[\[|\]\]|\{\{|\}\}", "", plain).replace("cut off by max_length", "cut off")
    assert words(re.sub(r"\x1b\[[\d;]*m", "", coloured)) == words(unmarked)
    # rich closes a style at the end of a line and opens it again on the next
    supervised = "".join(re.findall(r"\x1b\[4;32m(.*?)\x1b\[0m", coloured, re.DOTALL))
    assert words(supervised) == words("".join(re.findall(r"\[\[(.*?)\]\]", plain, re.DOTALL)))


def words(text: str) -> list[str]:
    """What is left of a text where lines of a table and ends of lines do not count."""
    return re.sub("[─ ]+", " ", text).split()


TEXTS = [
    "plain words, and\nlines\n\twith tabs",
    "Straße, 路标 and हिन्दी",
    "😀👩‍👩‍👧 mixed é",
    "</s> <image> USER: ASSISTANT: ###",
    "a \\x41 [[b]] {{c}} <0x41> ▁ Ġ",
]


@pytest.mark.parametrize("text", TEXTS)
def test_token_texts_add_up_to_what_was_written(processor: LlavaProcessor, text: str):
    shown = inspect_rows([said(text, text)], LlavaCollator(processor)).shown[0]
    texts = [token.text for token in shown.tokens if token.kind == "text"]
    assert "".join(texts).endswith(f"USER: {text} ASSISTANT: {text}")
    assert "".join(token.text for token in shown.tokens if token.state == "supervised") == f" {text}</s>"
    # Words are told apart, not lumped into one token
    assert len([part for part in texts if part]) > 20


@pytest.mark.slow
@pytest.mark.parametrize("tokenizer", ["llama2", "llama2_legacy"])
def test_token_texts_of_the_llama_tokenizer(processor: LlavaProcessor, shared_data: Path, tokenizer: str):
    llama = AutoTokenizer.from_pretrained(shared_data / "tokenizers" / tokenizer)
    reader = LlavaProcessor(processor.image_processor, llama, patch_size=14, chat_template="vicuna_v1")
    for text in TEXTS:
        tokens = inspect_rows([said(text, text)], LlavaCollator(reader)).shown[0].tokens
        # A "▁" that is typed is the tokenizer's own sign for a space
        expected = f" {text}</s>".replace("▁", " ")
        assert "".join(token.text for token in tokens if token.state == "supervised") == expected
        assert not any("�" in token.text for token in tokens)


def test_what_users_wrote_stays_text_on_the_page(processor: LlavaProcessor, tmp_path: Path, photo: str):
    evil = "<script>alert(1)</script><img src=x onerror=alert(2)> \" ' &amp; \u202e \x1b[31m red"
    rows = [talk(evil, photo, evil, evil), talk(evil, f"{evil}.png", "what", "a cat")]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    found = inspected(tmp_path / "rows.json", processor, None)
    found.data = found.model = evil
    html = render_page(found)
    assert "<script" not in html and "onerror=alert(2)>" not in html and "\u202e" not in html and "\x1b" not in html
    page = Page(html)
    assert "script" not in page.tags and page.text.count("<script>alert(1)</script>") >= 5
    shown = "".join(text for _, state, text in page.rows[0] if state == "supervised")
    assert shown == f" {evil}</s>".replace("\u202e", "\\u202e").replace("\x1b", "\\x1b")
    terminal = render_terminal(found)
    assert "\x1b" not in terminal and "\u202e" not in terminal and "\\x1b[31m red" in terminal


def test_the_page_needs_nothing_else(processor: LlavaProcessor, one_of_each: Path):
    found = inspected(one_of_each, processor)
    html = render_page(found)
    page = Page(html)
    assert page.tags.isdisjoint({"script", "link", "iframe"}) and "http" not in re.sub("127.0.0.1|http-equiv", "", html
        .replace("https://127.0.0.1/a.png", ""))  # fmt: skip
    for ids in EXPECTED.values():
        assert all(row_id is None or row_id in page.text for row_id in ids)
    assert found.verdict in page.text and all(picture.startswith("data:image/") for picture in page.pictures)


@pytest.mark.parametrize("aspect", ["crop", "pad"])
def test_the_picture_is_what_the_vision_encoder_gets(processor: LlavaProcessor, tmp_path: Path, aspect: str):
    pixels = np.zeros((40, 120, 3), dtype=np.uint8)
    pixels[:, :40, 0], pixels[:, 40:80, 1], pixels[:, 80:, 2] = 255, 255, 255  # red, green, blue from left to right
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    reader = LlavaProcessor(
        processor.image_processor, processor.tokenizer, patch_size=14, chat_template="plain", image_aspect_ratio=aspect
    )
    (tmp_path / "rows.json").write_text(json.dumps([talk("a", "wide.png", "what", "a cat")]))
    (picture,) = inspected(tmp_path / "rows.json", reader).shown[0].pictures
    assert picture.text == "120 x 40 pixels: 1 view, 4 tokens"
    seen = opened(picture)
    assert seen.size == (28, 28)
    colours = [seen.getpixel(place) for place in ((2, 14), (14, 14), (25, 14), (14, 1))]
    if aspect == "crop":
        assert [max(range(3), key=colour.__getitem__) for colour in colours] == [1, 1, 1, 1]
    else:
        assert [max(range(3), key=colour.__getitem__) for colour in colours[:3]] == [0, 1, 2]
        mean = [round(255 * value) for value in reader.image_processor.image_mean]
        assert np.abs(np.array(colours[3]) - mean).max() <= 2


def opened(picture: ShownPicture) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(picture.address.removeprefix("data:image/png;base64,"))))


@pytest.mark.parametrize(("layout", "overview"), [("anyres", 0), ("tiles", 3)])
def test_a_picture_in_tiles_is_shown_whole(
    processor: LlavaProcessor, tmp_path: Path, layout: str, overview: int
) -> None:
    """Each tile where it lies, and the overview beside them."""
    pixels = np.zeros((56, 84, 3), dtype=np.uint8)
    pixels[:, :28, 0], pixels[:, 28:56, 1], pixels[:, 56:, 2] = 255, 255, 255
    pixels[28:] //= 2
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    options = {"candidates": [[56, 84]]} if layout == "anyres" else {"max_tiles": 6}
    reader = LlavaProcessor(
        processor.image_processor,
        processor.tokenizer,
        14,
        chat_template="plain",
        image_aspect_ratio=layout,
        image_layout_options=options,
    )
    (tmp_path / "rows.json").write_text(json.dumps([talk("a", "wide.png", "what", "a cat")]))
    found = inspected(tmp_path / "rows.json", reader)
    (picture,) = found.shown[0].pictures
    tokens = next(token.count for token in found.shown[0].tokens if token.kind == "image")
    assert tokens == picture.num_tokens == (4 + 24 + 4 if layout == "anyres" else 28)
    assert picture.text == f"84 x 56 pixels: 2 x 3 tiles and an overview: 7 views, {tokens} tokens"
    seen = opened(picture)
    assert seen.size == (4 * 28 + 3, 2 * 28 + 1)
    columns = [number for number in range(4) if number != overview]
    for row, level in enumerate((255, 127)):
        for colour, column in enumerate(columns):
            shown = seen.getpixel((column * 29 + 14, row * 29 + 14))
            assert shown[colour] == pytest.approx(level, abs=3) and sum(shown) == pytest.approx(level, abs=9)
    assert [max(range(3), key=seen.getpixel((overview * 29 + x, 4)).__getitem__) for x in (3, 14, 24)] == [0, 1, 2]
    assert f"  image 1: {picture.text}" in render_terminal(found) and "4 a view" in render_terminal(found)
    assert picture.text in Page(render_page(found)).text


def test_a_row_with_many_pictures_shows_the_first(processor: LlavaProcessor, tmp_path: Path, photo: str):
    rows = [talk("many", [photo] * 6, "what", "a cat", first="<image>" * 6)]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    found = inspected(tmp_path / "rows.json", processor)
    assert [token.count for token in found.shown[0].tokens if token.kind == "image"] == [4] * 6
    page = Page(render_page(found))
    assert len(page.pictures) == shown_rows.PICTURES == 4 and "and 2 more" in page.text
