"""`llavakit chat --web`: the whole page in a real browser, with two models side by side."""

import copy
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from llavakit.inference.chat import load_llava
from llavakit.inference.session import ChatSession

from .browser_page import Page
from .web_server import WebServer, web_server

LENGTH = 12  # tokens of an answer


@pytest.fixture(scope="module")
def two_checkpoints(vivid_llava: tuple[Any, Any], tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two that answer differently, and always at the length they are allowed."""
    model, processor = vivid_llava
    folders = []
    for name, sign in (("first", 1), ("second", -1)):
        other = copy.deepcopy(model)
        with torch.no_grad():
            other.lm_head.weight.mul_(sign)
        other.generation_config.suppress_tokens = sorted(
            {*other.generation_config.suppress_tokens, processor.tokenizer.eos_token_id}
        )
        other.generation_config.sequence_bias = None
        folder = tmp_path_factory.mktemp("checkpoints") / name
        other.save_pretrained(folder)
        processor.save_pretrained(folder)
        folders.append(str(folder))
    return folders


@pytest.fixture(scope="module")
def served(
    two_checkpoints: list[str], forked_servers: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[WebServer]:
    pytest.importorskip("gradio", reason="gradio is not installed: pip install 'llavakit[web]'")
    arguments = ["--max_new_tokens", str(LENGTH), "--max_upload_mb", "0.3"]
    with web_server(tmp_path_factory.mktemp("served"), dict(os.environ), *two_checkpoints, *arguments) as server:
        yield server


@pytest.fixture
def page(chromium: Any, served: WebServer) -> Page:
    return Page(chromium, served.url)


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photos") / "my photograph.jpg"
    Image.effect_noise((640, 480), 90).convert("RGB").save(path)
    return path


def said_alone(checkpoint: str, photo: Path, questions: list[str]) -> list[str]:
    """The turns of a conversation outside the page."""
    session = ChatSession(*load_llava(checkpoint))
    session.set_image(photo)
    for question in questions:
        session.ask(question, stream=False, max_new_tokens=LENGTH)
    return [turn["content"] for turn in session.history]


@pytest.mark.slow
def test_a_talk_with_two_models(page: Page, served: WebServer, two_checkpoints: list[str], photo: Path):
    page.upload(photo)
    page.wait(page.picture)
    page.wait(lambda: page.one("#cut").text == "1 view, 4 tokens" and page.all("#cut svg"))
    page.browser.execute_script(RECORD)
    questions = ["what is in the picture", "is <image> a <b>tag</b>, *or* text?"]
    for number, question in enumerate(questions):
        page.ask(question)
        page.wait(lambda turns=2 * number + 2: page.ready() and [len(chat) for chat in page.chats()] == [turns] * 2)
        assert page.box() == ""
    expected = [said_alone(checkpoint, photo, questions) for checkpoint in two_checkpoints]
    assert page.chats() == expected and expected[0][1] != expected[1][1]

    seen = page.browser.execute_script("return window.seen")  # the answers came piece by piece
    for number in range(2):
        growing = [text for text in dict.fromkeys(seen[number]) if expected[number][1].startswith(text)]
        assert len(growing) > 3

    page.screenshot("wide")
    rows = thumb(page, served, 0, 1, "Like")
    assert [(row["rating"], row["model"]) for row in rows] == [("up", two_checkpoints[0])]
    rows = thumb(page, served, 1, 0, "Dislike")
    assert [(row["rating"], row["model"]) for row in rows[1:]] == [("down", two_checkpoints[1])]
    assert [turn["content"] for turn in rows[0]["messages"]] == expected[0]
    assert [turn["content"] for turn in rows[1]["messages"]] == expected[1][:2]
    [kept] = {name for row in rows for name in row["images"]}
    assert (served.feedback.parent / kept).read_bytes() == photo.read_bytes()

    page.one("#undo").click()
    page.wait(lambda: page.box() == questions[1] and page.chats() == [turns[:2] for turns in expected])
    page.one("#reset").click()
    page.wait(lambda: page.chats() == [[], []])
    assert page.picture()  # it stays
    page.ask(questions[0])
    page.wait(lambda: page.ready() and page.chats() == [turns[:2] for turns in expected])


def thumb(page: Page, served: WebServer, chat: int, answer: int, label: str) -> list[dict[str, Any]]:
    """Press a thumb and wait for its line."""

    def lines() -> list[str]:
        return served.feedback.read_text().splitlines() if served.feedback.exists() else []

    before = len(lines())
    page.all(f"#chat-{chat} button[aria-label='{label}']")[answer].click()
    page.wait(lambda: len(lines()) > before)
    return [json.loads(line) for line in lines()]


# Keeps every text that the first answers go through
RECORD = """
window.seen = [[], []];
for (const number of [0, 1]) {
  const record = () => {
    const turns = document.querySelectorAll(`#chat-${number} .message-content`);
    if (turns.length > 1) window.seen[number].push(turns[1].textContent);
  };
  const options = { childList: true, subtree: true, characterData: true };
  new MutationObserver(record).observe(document.querySelector(`#chat-${number}`), options);
}
"""


# Presses the button as soon as there is some of the second answer: on a busy machine a test that asks the browser for it first
# comes too late
STOP_IN_THE_MIDDLE = """
const chat = document.querySelector('#chat-0');
const watch = new MutationObserver(() => {
  const turns = chat.querySelectorAll('.message-content');
  if (turns.length === 4 && turns[3].textContent.length > 20) {
    watch.disconnect();
    document.querySelector('#stop').click();
  }
});
watch.observe(chat, { childList: true, subtree: true, characterData: true });
"""


@pytest.mark.slow
def test_stop_gives_the_question_back(page: Page, photo: Path):
    page.upload(photo)
    page.wait(page.picture)
    page.ask("first")
    page.wait(lambda: page.ready() and len(page.chat(0)) == 2)
    before = page.chats()
    page.one("button.label-wrap").click()  # the settings
    length = page.wait(lambda: [e for e in page.all("input[type=number]") if e.get_attribute("max") == "2048"])[0]
    page.wait(length.is_displayed)
    page.browser.execute_script(
        "arguments[0].value = 800; arguments[0].dispatchEvent(new Event('input')); arguments[0].blur()", length
    )
    for attempt in range(5):
        page.browser.execute_script(STOP_IN_THE_MIDDLE)
        page.ask("second")
        page.wait(lambda: page.ready() and (page.chats() == before or len(page.chat(0)) == 4))
        try:
            page.wait(lambda: page.ready() and page.chats() == before, seconds=10)
            break
        except AssertionError:  # a small model may be done before the button is pressed
            assert attempt < 4 and page.ready() and len(page.chat(0)) == 4
            page.one("#undo").click()
            page.wait(lambda: page.ready() and page.chats() == before)
    assert page.box() == "second"


@pytest.mark.slow
def test_bad_input_is_explained_and_the_talk_goes_on(page: Page, photo: Path, tmp_path: Path):
    page.upload(photo)
    page.wait(page.picture)
    page.ask("what is it")
    page.wait(lambda: page.ready() and len(page.chat(0)) == 2)
    shown, chats = page.picture(), page.chats()

    (tmp_path / "words.jpg").write_text("these are words")
    (tmp_path / "corrupt.jpg").write_bytes(photo.read_bytes()[:9000])
    Image.new("1", (10000, 10000)).save(tmp_path / "bomb.png")
    Image.effect_noise((900, 900), 90).save(tmp_path / "large.bmp")
    for name, message in {
        "words.jpg": "'words.jpg' is not a picture that can be read",
        "corrupt.jpg": "damaged or truncated",
        "bomb.png": "10000 x 10000 pixels",
        "large.bmp": "exceed the maximum allowed size",
    }.items():
        page.upload(tmp_path / name)
        page.wait(lambda message=message: message in page.messages())
        page.screenshot(f"bad {name}")
        page.wait(lambda: page.picture() == shown and page.chats() == chats)
        page.dismiss()

    page.ask("\u4e2d" * 400)  # three tokens each
    page.wait(lambda: "exceeds the 1024 positions" in page.messages() and page.ready())
    page.screenshot("too long")
    assert page.chats() == chats and page.box() == "\u4e2d" * 400
    page.dismiss()
    page.ask("say it again")
    page.wait(lambda: page.ready() and len(page.chat(0)) == 4)
    assert page.chat(0)[:2] == chats[0]

    page.one("#picture [aria-label='Remove Image']").click()
    page.wait(lambda: page.chats() == [[], []])
    time.sleep(1)
    assert page.picture() is None


@pytest.mark.slow
def test_the_page_fits_and_asks_nobody_else(page: Page, photo: Path):
    page.upload(photo)
    page.wait(page.picture)
    page.ask("x" * 300)  # one word, longer than any line
    page.wait(lambda: page.ready() and len(page.chat(1)) == 2)
    for width, beside in ((1280, True), (390, False)):
        page.resize(width, 844)
        first, second = (page.wait(lambda n=n: page.one(f"#chat-{n}").rect) for n in range(2))
        page.wait(lambda beside=beside: (page.one("#chat-0").rect["y"] == page.one("#chat-1").rect["y"]) is beside)
        for script in ("document.documentElement", "document.querySelector('#chat-0 .bubble-wrap')"):
            wide = page.browser.execute_script(f"return {script}.scrollWidth - {script}.clientWidth")
            assert wide <= 0, f"{script} must be scrolled sideways at {width} pixels"
        page.screenshot(f"long word {width}")
    events = [json.loads(entry["message"])["message"] for entry in page.browser.get_log("performance")]
    asked = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    elsewhere = [url for url in asked if not url.startswith(("http://127.0.0.1:", "data:", "blob:", "chrome"))]
    assert len(asked) > 20 and elsewhere == []
