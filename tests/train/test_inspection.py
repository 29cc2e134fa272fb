"""The inspection: counts and kinds of fault, lengths, and tokens shown exactly as the collator labels them."""

import base64
import dataclasses
import io
import json
import os
import re
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from transformers import AutoProcessor, AutoTokenizer

from llavakit import LlavaCollator, LlavaProcessor, load_conversations
from llavakit.rows.loading import read_raw_rows
from llavakit.rows.schema import BAD_ROW_KINDS, BadRow, normalize_row
from llavakit.train.inspect import (
    Inspection,
    findings,
    inspect_data,
    inspect_rows,
    reading,
    render_page,
    render_terminal,
    shown_rows,
)
from llavakit.train.inspect.terminal import terminal_parts

Row = dict[str, object]


@pytest.fixture(scope="module")
def processor(tiny_llava: str) -> LlavaProcessor:
    return AutoProcessor.from_pretrained(tiny_llava)


@pytest.fixture
def photo(tmp_path: Path) -> str:
    Image.effect_noise((50, 40), 90).convert("RGB").save(tmp_path / "photo.jpg", quality=95)
    return "photo.jpg"


def talk(row_id: str, image: object, *turns: str, first: str = "<image>\n") -> Row:
    speakers = ("human", "gpt")
    values = [first + turns[0], *turns[1:]]
    said = [{"from": speakers[number % 2], "value": value} for number, value in enumerate(values)]
    return {"id": row_id, "image": image, "conversations": said}


def text_row(row_id: str, *turns: str) -> Row:
    return talk(row_id, None, *turns, first="")


def said(question: str, answer: str) -> Row:
    """A row whose `<image>` is text."""
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def png_of(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 2, 0, 0, 0])
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")
    )


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


EXPECTED = {
    "format": ["neither", "no list", "no turns", "a number", "no picture", "half a character", None],
    "turns": ["role", "two answers"],
    "empty answer": ["empty"],
    "image count": ["count"],
    "image path": ["leaves", "url", "null"],
    "image missing": ["missing", "missing again"],
    "image unreadable": ["truncated", "hollow", "no image"],
    "image format": ["drawing"],
    "image too large": ["bomb"],
    "too long": ["too long"],
}


def inspected(path: Path, processor: LlavaProcessor, max_length: int | None = 200, **options) -> Inspection:
    rows, folder = read_raw_rows(path)
    return inspect_rows(rows, LlavaCollator(processor, max_length), image_folder=folder, **options)


def raw_rows(path: Path) -> list[Row]:
    return json.loads(path.read_text())


# ---- counts ----


def test_every_kind_of_bad_row_is_found_and_counted(processor: LlavaProcessor, one_of_each: Path):
    found = inspected(one_of_each, processor)
    assert {kind: [row.id for row in listing.rows] for kind, listing in found.unusable.items()} == EXPECTED
    assert {kind: listing.count for kind, listing in found.unusable.items()} == {
        k: len(v) for k, v in EXPECTED.items()
    }
    assert set(EXPECTED) | {"template", "nothing supervised"} == set(BAD_ROW_KINDS)
    assert (found.num_rows, found.num_usable) == (25, 3)
    assert found.image_faults == {"image missing": 1, "image unreadable": 3, "image format": 1, "image too large": 1}
    raw = raw_rows(one_of_each)
    for listing in found.unusable.values():
        for row in listing.rows:
            assert row.id is None or raw[row.index]["id"] == row.id
            assert row.text and not row.text.startswith(("row", ":", ","))


def test_the_counts_are_those_of_the_rows(processor: LlavaProcessor, rows_file: Path):
    raw = raw_rows(rows_file)
    raw[3]["image"] = raw[1]["image"]
    rows_file.write_text(json.dumps(raw))
    found = inspected(rows_file, processor, None)
    batches = [LlavaCollator(processor)([row]) for row in load_conversations(rows_file)]
    assert (found.num_rows, found.num_readable, found.num_usable) == (12, 12, 12)
    assert (found.num_images, found.num_distinct_images, found.num_text_only) == (11, 10, 1)
    assert found.rows_by_images == {0: 1, 1: 11}
    assert found.num_turns == sum(len(row["conversations"]) // 2 for row in raw) == 15
    assert found.num_tokens == sum(batch["input_ids"].numel() for batch in batches)
    assert found.num_supervised == sum(int((batch["labels"] != -100).sum()) for batch in batches)
    assert found.unusable == {} and found.truncated.count == 0 and found.warnings == []


def test_a_template_that_refuses_or_marks_nothing(processor: LlavaProcessor, rows_file: Path):
    picky = LlavaProcessor(
        processor.image_processor,
        processor.tokenizer,
        patch_size=14,
        chat_template="{% for m in messages %}{% if 'say it again' in m.content | string %}{{ raise_exception('no') }}"
        "{% endif %}{% if m.role == 'assistant' and 'blue' not in m.content | string %}"
        "{% generation %}{{ m.content }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}{% endfor %}",
    )
    found = inspected(rows_file, picky)
    assert [row.index for row in found.unusable["template"].rows] == [0, 4, 8]
    assert [row.index for row in found.unusable["nothing supervised"].rows] == [2, 5, 11]


def test_the_lengths_equal_a_direct_count(processor: LlavaProcessor, tmp_path: Path):
    rng = np.random.default_rng(0)
    rows = [text_row(str(number), "what is it", "cat " * int(rng.integers(1, 400))) for number in range(101)]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    found = inspected(tmp_path / "rows.json", processor, 300)
    direct = [LlavaCollator(processor)([row])["input_ids"].numel() for row in rows]
    lengths = found.lengths
    assert lengths is not None and lengths.rows == 101
    assert (lengths.min, lengths.max, lengths.mean) == (min(direct), max(direct), np.mean(direct))
    assert lengths.median == sorted(direct)[50] and lengths.p95 == sorted(direct)[95]
    edges = [lengths.first_bin + number * lengths.bin_width for number in range(len(lengths.bins) + 1)]
    assert np.histogram(direct, [*edges[:-1], edges[-1] - 1])[0].tolist() == lengths.bins  # the last edge is closed
    assert 5 <= len(lengths.bins) <= 24 and lengths.bins[0] > 0 and lengths.bins[-1] > 0
    too_long = sum(length > 300 for length in direct)
    assert found.unusable["too long"].count == too_long == 101 - found.num_usable
    assert found.num_tokens == sum(length for length in direct if length <= 300)


def test_rows_that_lose_turns_are_listed(processor: LlavaProcessor, rows_file: Path):
    whole = [LlavaCollator(processor)([row])["input_ids"].numel() for row in load_conversations(rows_file)]
    limit = min(whole[number] for number in (0, 4, 8)) - 1
    short = [LlavaCollator(processor, limit)([row])["input_ids"].numel() for row in load_conversations(rows_file)]
    found = inspected(rows_file, processor, limit, num_rows=12)
    assert [(row.index, row.id) for row in found.truncated.rows] == [(0, "r0"), (4, "r4"), (8, "r8")]
    assert found.truncated.rows[1].text == f"{whole[4]} tokens, cut to {short[4]}"
    assert found.num_usable == 12 and found.num_tokens == sum(short)
    shown = found.shown[4]
    cut = "".join(token.text for token in shown.tokens if token.state == "cut")
    assert (shown.length, shown.full_length) == (short[4], whole[4])
    assert sum(token.count for token in shown.tokens if token.state == "cut") == whole[4] - short[4]
    assert cut.startswith("USER: say it again") and "ASSISTANT: there are two dogs" in cut
    assert "{{USER: say it again" in render_terminal(found)


def test_literal_image_tags_are_warned_of(processor: LlavaProcessor, tmp_path: Path, photo: str):
    def row(row_id: str, content: object, answer: str = "a cat") -> Row:
        messages = [{"role": "user", "content": content}, {"role": "assistant", "content": answer}]
        return {"id": row_id, "images": [photo], "messages": messages}

    blocks = [{"type": "image"}, {"type": "text", "text": "what is it"}]
    rows = [
        row("letters", "<image>\nwhat is it"),
        row("fine", "what is it"),
        row("blocks", blocks),
        row("in the answer", "how is it written", "as <image>"),
        talk("placeholder", photo, "what is it", "a cat"),
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    found = inspected(path, processor, num_rows=9)
    assert [row.id for row in found.literal_images.rows] == ["letters"]
    assert found.num_usable == 5 and "1 row(s) write '<image>' inside a string" in found.warnings[0]
    assert "{'type': 'image'}" in render_terminal(found) and "letters" in render_terminal(found)
    # And it is text indeed: the tag's letters, after the image itself
    kinds = [token.kind for token in found.shown[0].tokens]
    assert kinds.count("image") == 1 and "".join(t.text for t in found.shown[0].tokens).count("<image>") == 1


# ---- sources ----


def comparable(found: Inspection) -> Row:
    return {key: value for key, value in dataclasses.asdict(found).items() if key != "data"}


def test_all_sources_agree(processor: LlavaProcessor, rows_file: Path, tmp_path: Path):
    import datasets

    raw = raw_rows(rows_file)
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "folder").mkdir(parents=True)
    (elsewhere / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in raw))
    (elsewhere / "folder" / "part.json").write_text(rows_file.read_text())
    datasets.Dataset.from_list(raw).to_parquet(elsewhere / "rows.parquet")
    loaded = load_conversations(rows_file)
    loaded.to_parquet(elsewhere / "own.parquet")
    loaded.save_to_disk(str(elsewhere / "disk"))
    collator = LlavaCollator(processor, 170)
    expected = comparable(inspect_rows(raw, collator, image_folder=rows_file.parent))
    assert expected["num_usable"] == 12 and len(expected["shown"]) == 8 and expected["truncated"]["count"] == 3
    for place in ("rows.jsonl", "folder", "rows.parquet", "own.parquet", "disk"):
        # Rows that load_conversations wrote have their paths already, or the pictures themselves
        given = None if place in ("own.parquet", "disk") else rows_file.parent
        rows, folder = read_raw_rows(elsewhere / place, given)
        folder = None if place == "own.parquet" else folder
        assert comparable(inspect_rows(rows, collator, image_folder=folder)) == expected, place


def test_bad_rows_of_a_data_set_are_found_too(processor: LlavaProcessor, rows_file: Path, tmp_path: Path):
    loaded = load_conversations(rows_file)
    (rows_file.parent / "3.png").write_bytes(b"no image")
    loaded.save_to_disk(str(tmp_path / "disk"))
    found = inspected(tmp_path / "disk", processor)
    assert [row.id for row in found.unusable["image unreadable"].rows] == ["r3"]


def test_images_in_the_rows_are_told_apart_by_content(processor: LlavaProcessor, tmp_path: Path, photo: str):
    one, other = (tmp_path / photo).read_bytes(), png_of(50, 40)
    sources: list[object] = [
        {"bytes": one, "path": None},
        {"bytes": other, "path": None},
        {"bytes": one, "path": None},
        Image.new("RGB", (30, 30), "red"),
        Image.new("RGB", (30, 30), "blue"),
        Image.new("RGB", (30, 30), "red"),
    ]
    rows = [talk(str(number), source, "what is it", "a cat") for number, source in enumerate(sources)]
    found = inspect_rows(rows, LlavaCollator(processor))
    assert (found.num_images, found.num_distinct_images, found.num_usable) == (6, 4, 5)
    assert found.image_faults == {"image unreadable": 1}


@pytest.mark.parametrize("num_proc", [None, 2])
def test_a_stream_is_read_a_few_rows_ahead_and_once(processor: LlavaProcessor, num_proc: int | None):
    read: list[int] = []
    checked = 0

    def stream() -> Iterator[Row]:
        for number in range(3000):
            read.append(number)
            assert number - checked <= 6 * reading.CHUNK
            yield text_row(str(number), "what is it", "a cat")

    def counting(kept: Callable = shown_rows.Spread.add) -> Callable:
        def add(self: object, row: tuple) -> None:
            nonlocal checked
            checked += 1
            kept(self, row)

        return add

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shown_rows.Spread, "add", counting())
        found = inspect_rows(stream(), LlavaCollator(processor, 200), num_rows=3, num_proc=num_proc)
    assert read == list(range(3000)) and found.num_usable == checked == 3000
    indices = [row.index for row in found.shown]
    assert len(indices) == 3 and indices[0] == 0 and 1000 < indices[1] < 2000 < indices[2]
    assert [row.id for row in found.shown] == [str(index) for index in indices]


def test_several_processes_find_the_same(processor: LlavaProcessor, one_of_each: Path):
    alone, shared = (comparable(inspected(one_of_each, processor, num_proc=number)) for number in (None, 2))
    assert alone == shared and alone["num_rows"] == 25


def test_shown_rows_are_spread_over_the_usable_ones():
    for rows in (0, 1, 2, 7, 8, 9, 15, 16, 17, 100, 1001):
        for wanted in (0, 1, 2, 8):
            spread = shown_rows.Spread(wanted)
            for number in range(rows):
                spread.add((number, None))
                assert len(spread.kept) <= 2 * wanted
            shown = [index for index, _ in spread.rows()]
            assert shown == sorted(set(shown)) and len(shown) == min(rows, wanted)
            if wanted > 1 and rows > wanted:
                gaps = np.diff([*shown, rows])
                assert shown[0] == 0 and gaps.max() <= 4 * rows / wanted


# ---- tokens ----


class Page(HTMLParser):
    """The tokens of a page, row by row: (ids, in the loss, text); its pictures; and the tags it has."""

    def __init__(self, page: str):
        super().__init__()
        self.rows: list[list[tuple[str, str, str]]] = []
        self.pictures: list[str] = []
        self.tags: set[str] = set()
        self._classes: list[str] | None = None
        self._title = ""
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        given = {name: value or "" for name, value in attributes}
        if tag == "article":
            self.rows.append([])
        elif tag == "img":
            self.pictures.append(given["src"])
        elif tag == "span" and "title" in given:
            self._classes, self._title, self._token = given["class"].split(), given["title"], ""

    def handle_endtag(self, tag: str) -> None:
        if tag == "span" and self._classes is not None:
            self.rows[-1].append((self._title, self._classes[1], self._token))
            self._classes = None

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._classes is not None:
            self._token += data


def labels_of(row: list[tuple[str, str, str]]) -> tuple[list[int], list[int]]:
    """Ids and labels as a reader of the page would write them down from what it says of each token."""
    ids: list[int] = []
    labels: list[int] = []
    for title, state, _ in row:
        token_id = int(re.search(r"· id (\d+) ·", title)[1])
        first, last = re.search(r"position (\d+)(?: to (\d+))?", title).groups()
        assert int(first) == len(ids)
        count = int(last or first) - int(first) + 1
        assert title.endswith("· in the loss" if state == "supervised" else "· not in the loss")
        ids += [token_id] * count
        labels += [token_id if state == "supervised" else -100] * count
    return ids, labels


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
    (address,) = inspected(tmp_path / "rows.json", reader).shown[0].thumbnails
    seen = Image.open(io.BytesIO(base64.b64decode(address.removeprefix("data:image/png;base64,"))))
    assert seen.size == (28, 28)
    colours = [seen.getpixel(place) for place in ((2, 14), (14, 14), (25, 14), (14, 1))]
    if aspect == "crop":
        assert [max(range(3), key=colour.__getitem__) for colour in colours] == [1, 1, 1, 1]
    else:
        assert [max(range(3), key=colour.__getitem__) for colour in colours[:3]] == [0, 1, 2]
        mean = [round(255 * value) for value in reader.image_processor.image_mean]
        assert np.abs(np.array(colours[3]) - mean).max() <= 2


def test_a_row_with_many_pictures_shows_the_first(processor: LlavaProcessor, tmp_path: Path, photo: str):
    rows = [talk("many", [photo] * 6, "what", "a cat", first="<image>" * 6)]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    found = inspected(tmp_path / "rows.json", processor)
    assert [token.count for token in found.shown[0].tokens if token.kind == "image"] == [4] * 6
    page = Page(render_page(found))
    assert len(page.pictures) == shown_rows.THUMBNAILS == 4 and "and 2 more" in page.text


# ---- the command ----


def test_the_findings_are_json(processor: LlavaProcessor, one_of_each: Path):
    found = inspected(one_of_each, processor)
    assert json.loads(json.dumps(dataclasses.asdict(found)))["num_usable"] == 3


def test_long_lists_are_shortened(processor: LlavaProcessor, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(findings, "LISTED_ON_PAGE", 30)
    found = inspect_rows([text_row(f"id{number}", "what", " ") for number in range(40)], LlavaCollator(processor))
    terminal, page = render_terminal(found), Page(render_page(found)).text
    assert terminal.count("the answer in turn 1 is empty") == 20 and "... and 20 more; --html lists them" in terminal
    assert page.count("the answer in turn 1 is empty") == 30 and "and 10 more" in page


def test_the_verdict(processor: LlavaProcessor):
    good, bad = text_row("good", "what is it", "a cat"), text_row("bad", "what is it", "")

    def last_line(rows: list[Row]) -> str:
        found = inspect_rows(rows, LlavaCollator(processor, 200))
        render_page(found)
        return render_terminal(found).splitlines()[-1]

    assert last_line([good] * 1200) == "All 1,200 rows can be used: training may start."
    assert last_line([good, bad, good]).startswith(
        "1 of 3 rows cannot be used: fix them or train with --on_bad_row skip"
    )
    assert last_line([bad, bad]) == "None of the 2 rows can be used: training cannot start."
    assert last_line([]) == "There are no rows: nothing to train on."


def run(*arguments: object, folder: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "llavakit.cli", "inspect", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env={**os.environ, **environment})


def test_the_command(tiny_llava: str, one_of_each: Path, tmp_path: Path):
    page = tmp_path / "pages" / "page.html"
    done = run(one_of_each, "--model", tiny_llava, "--max_length", 200, "--html", page, "--rows", 2, "--num_proc", 2)
    assert done.returncode == 1, done.stderr
    assert done.stdout.splitlines()[-1].startswith("22 of 25 rows cannot be used: fix them or train with --on_bad_row")
    assert "\x1b" not in done.stdout and "[[ a cat|</s>|]]" in done.stdout and "Warning" not in done.stderr
    assert len(Page(page.read_text(encoding="utf-8")).rows) == 2
    assert [file.name for file in page.parent.iterdir()] == ["page.html"]
    # A terminal that knows no sign beyond ASCII is no reason to stop
    done = run(one_of_each, "--model", tiny_llava, "--on_bad_row", "skip", PYTHONIOENCODING="ascii")
    assert done.returncode == 0 and "\\u23ce" in done.stdout


@pytest.mark.parametrize(
    ("terminal", "no_color", "coloured"), [(True, "", True), (True, "1", False), (False, "", False)]
)
def test_colours_are_for_terminals(
    tiny_llava: str,
    rows_file: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    terminal: bool,
    no_color: str,
    coloured: bool,
):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    monkeypatch.setenv("NO_COLOR", no_color)
    monkeypatch.setenv("TERM", "xterm")
    inspect_data(rows_file, tiny_llava)
    out = capsys.readouterr().out
    assert ("\x1b[4;32m" in out) == coloured and ("[[" in out) != coloured


def test_the_command_names_what_it_cannot_do(tiny_llava: str, tmp_path: Path):
    done = run(tmp_path / "none.json", "--model", tiny_llava)
    assert done.returncode == 1 and "there is no such file" in done.stderr and "Traceback" not in done.stderr
    (tmp_path / "rows.jsonl").write_text('{"id": 1}\n{oh')
    done = run(tmp_path / "rows.jsonl", "--model", tiny_llava)
    assert done.returncode == 1 and "line 2 is not JSON" in done.stderr and "Traceback" not in done.stderr


def test_the_page_of_the_documentation(
    tiny_llava: str, rows_file: Path, tmp_path: Path, code_block: Callable[[str, str], str]
):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "untrained").symlink_to(tiny_llava)
    program, _, arguments = code_block("inspect.md", "bash inspect").partition(" inspect ")
    assert program == "llavakit"
    done = run(*arguments.split(), folder=tmp_path)
    assert done.returncode == 0 and done.stdout.endswith("All 12 rows can be used: training may start.\n"), done.stderr
    assert len(Page((tmp_path / "inspection.html").read_text(encoding="utf-8")).rows) == 8
    code = code_block("inspect.md", "python inspect")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0 and done.stdout.startswith("All 12 rows can be used"), done.stderr


def test_templates_can_be_tried(tiny_llava: str, rows_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert inspect_data(rows_file, tiny_llava).chat_template == "vicuna_v1"
    found = inspect_data(rows_file, tiny_llava, chat_template="plain")
    assert found.chat_template == "plain" and "USER" not in "".join(token.text for token in found.shown[0].tokens)
    file = tmp_path / "own.jinja"
    file.write_text("{% for m in messages %}{% if m.role == 'user' %}Q{{ m.content }}{% else %}"
                    "{% generation %}A{{ m.content }}{% endgeneration %}{% endif %}{% endfor %}")  # fmt: skip
    found = inspect_data(rows_file, tiny_llava, chat_template=str(file))
    assert found.chat_template == "custom" and found.shown[0].tokens[0].text == "Q"
    capsys.readouterr()
    with pytest.raises(ValueError, match="Known names: llava_v0"):
        inspect_data(rows_file, tiny_llava, chat_template="vicuna")
    with pytest.raises(ValueError, match="generation"):
        inspect_data(rows_file, tiny_llava, chat_template="{{ messages }}")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("name", "value"), [("max_length", 0), ("num_proc", 0), ("num_rows", -1)])
def test_arguments_out_of_range(tiny_llava: str, rows_file: Path, name: str, value: int):
    with pytest.raises(ValueError, match=f"^{name}={value} is out of range"):
        inspect_data(rows_file, tiny_llava, **{name: value})


def test_rows_and_model_that_disagree(tiny_llava: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([text_row("long", "what", "cat " * 1500)]))
    assert inspect_data(path, tiny_llava, max_length=1000).warnings == []
    (warning,) = inspect_data(path, tiny_llava, max_length=2048).warnings
    assert "1,024 positions" in warning and "--max_length 1024" in warning and warning in capsys.readouterr().out
    changed = tmp_path / "changed"
    changed.mkdir()
    for file in Path(tiny_llava).iterdir():
        if file.suffix != ".safetensors" and file.is_file():
            (changed / file.name).write_bytes(file.read_bytes())
    config = json.loads((changed / "config.json").read_text())
    config["vision_feature_select_strategy"] = "full"
    (changed / "config.json").write_text(json.dumps(config))
    path.write_text(json.dumps([text_row("short", "what", "cat")]))
    found = inspect_data(path, changed, max_length=1000)
    (reason,) = found.blockers
    assert "4 tokens an image" in reason and "5 features" in reason and not found.may_start
    assert found.verdict == "Rows and model do not fit together: training cannot start."
    out = capsys.readouterr().out
    assert reason in out and "may start" not in out and reason in Page(render_page(found)).text


def test_bad_rows_say_their_kind_and_survive_a_trip_between_processes():
    import pickle

    with pytest.raises(BadRow) as caught:
        normalize_row(text_row("a", "what", ""), 3)
    again = pickle.loads(pickle.dumps(caught.value))
    assert again.kind == "empty answer" and str(again) == str(caught.value) and BadRow("x").kind == "format"
    assert str(again).startswith("row 3, id 'a': the answer in turn 1 is empty")
