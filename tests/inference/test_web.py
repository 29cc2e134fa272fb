"""`llavakit chat --web`: who may reach it, what may be uploaded, and the whole page in a real browser."""

import copy
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from llavakit.cli import main
from llavakit.inference.chat import load_llava
from llavakit.inference.conversation import NamedModel
from llavakit.inference.feedback import Feedback
from llavakit.inference.generation import Sampling
from llavakit.inference.picture import UploadLimits
from llavakit.inference.session import ChatSession
from llavakit.inference.web import Address

from .web_server import WebServer, free_port, web_server

LENGTH = 12  # tokens of an answer
SCREENSHOTS = os.environ.get("LLAVAKIT_SCREENSHOTS")  # a folder to keep them in, for whoever wants to look


# ---- who may reach it ----


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "::", "example.org", ""])
def test_another_host_needs_a_password(host: str):
    with pytest.raises(ValueError, match="add --auth USER:PASSWORD"):
        Address(host)
    assert Address(host, auth="me:secret:with:colons").credentials == ("me", "secret:with:colons")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.1.1", "::1", "localhost"])
def test_this_machine_needs_none(host: str):
    assert Address(host).credentials is None


@pytest.mark.parametrize("auth", ["", "me", "me:", ":secret", ":"])
def test_half_a_password_is_refused(auth: str):
    with pytest.raises(ValueError, match="--auth must be USER:PASSWORD"):
        Address(auth=auth)


def test_the_command_refuses_before_it_loads(capsys: pytest.CaptureFixture):
    for arguments, message in {
        ("nowhere", "--web", "--host", "0.0.0.0"): "--host 0.0.0.0 lets others reach the page",
        ("nowhere", "--web", "--port", "0"): "--port 0: give 1 to 65535",
        ("nowhere", "nowhere", "--web"): "name one checkpoint, or two different ones",
        ("a", "b", "c", "--web"): "name one checkpoint, or two different ones",
        ("a", "b"): "side by side with --web only",
        ("nowhere", "--web", "--image", "x.jpg"): "--image and --question go without --web",
        ("nowhere", "--web", "--feedback", "thumbs.txt"): "ends in .jsonl",
        ("nowhere", "--web", "--max_pixels", "0"): "max_pixels=0",
        ("nowhere", "--web", "--max_upload_mb", "0"): "max_bytes=0",
        ("nowhere", "--web", "--temperature", "-1"): "temperature=-1.0",
    }.items():
        assert main(["chat", *arguments]) == 1
        assert message in capsys.readouterr().err


@pytest.fixture(scope="module")
def guarded(vivid_llava: tuple[Any, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a page with a password and small limits, served by this process."""
    pytest.importorskip("gradio", reason="gradio is not installed: pip install 'llavakit[web]'")
    from llavakit.inference.web import launch, upload_folder
    from llavakit.inference.web_page import build_page

    address = Address(port=free_port(), auth="me:secret")
    limits = UploadLimits(max_bytes=50_000)
    feedback = Feedback(tmp_path_factory.mktemp("web") / "feedback.jsonl")
    with upload_folder():
        page = build_page([NamedModel("vivid", *vivid_llava)], feedback, limits, Sampling())
        launch(page, address, limits)
        yield f"http://127.0.0.1:{address.port}"
        page.close()


@pytest.fixture
def visitor(guarded: str) -> Iterator[Any]:
    """An HTTP client at the guarded page."""
    import httpx

    with httpx.Client(base_url=guarded, trust_env=False) as client:
        yield client


def test_without_the_password_there_is_nothing_to_reach(visitor: Any):
    picture = {"files": ("a.jpg", b"x" * 100, "image/jpeg")}
    assert visitor.post("/gradio_api/upload", files=picture).status_code == 401
    assert visitor.get("/config").status_code == 401
    assert visitor.post("/gradio_api/queue/join", json={"data": [], "fn_index": 0}).status_code == 401
    assert visitor.post("/login", data={"username": "me", "password": "guess"}).status_code == 400
    assert visitor.get("/config").status_code == 401


def test_with_it_there_is_the_page_and_no_more(visitor: Any, tmp_path: Path, repository: Path):
    assert visitor.post("/login", data={"username": "me", "password": "secret"}).status_code == 200
    config = visitor.get("/config").json()
    assert not config["analytics_enabled"] and {"vivid"} <= {
        part["props"].get("label") for part in config["components"]
    }
    assert not visitor.get("/gradio_api/info").json()["named_endpoints"]
    for path in ("/etc/passwd", repository / "setup.cfg", tmp_path / "other.txt"):
        assert visitor.get(f"/gradio_api/file={path}").status_code in (403, 404)
    assert visitor.get("/monitoring").status_code in (403, 404)


def test_a_large_upload_is_refused_as_it_comes(visitor: Any):
    visitor.post("/login", data={"username": "me", "password": "secret"})
    fits = visitor.post("/gradio_api/upload", files={"files": ("a.jpg", b"x" * 40_000, "image/jpeg")})
    assert fits.status_code == 200 and Path(fits.json()[0]).stat().st_size == 40_000
    large = visitor.post("/gradio_api/upload", files={"files": ("a.jpg", b"x" * 5_000_000, "image/jpeg")})
    assert large.status_code == 413


# ---- the page in a browser ----


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
def served(two_checkpoints: list[str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebServer]:
    pytest.importorskip("gradio", reason="gradio is not installed: pip install 'llavakit[web]'")
    arguments = ["--max_new_tokens", str(LENGTH), "--max_upload_mb", "0.3"]
    with web_server(tmp_path_factory.mktemp("served"), dict(os.environ), *two_checkpoints, *arguments) as server:
        yield server


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A headless Chromium from the system's packages, driven by selenium."""
    pytest.importorskip("selenium", reason="selenium is not installed: pip install selenium")
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    driver = shutil.which("chromedriver")
    if browser is None or driver is None:
        pytest.skip("there is no browser: apt-get install chromium chromium-driver")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-dev-shm-usage",
        "--disable-gpu",
        "--window-size=1280,900",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    window = webdriver.Chrome(options=options, service=Service(driver))
    yield window
    window.quit()


class Page:
    """The page as a visitor sees and uses it."""

    def __init__(self, browser: Any, url: str) -> None:
        self.browser = browser
        browser.get(url)
        self.wait(lambda: self.all("#picture input[type=file]"))

    def all(self, selector: str) -> list[Any]:
        return self.browser.find_elements("css selector", selector)

    def one(self, selector: str) -> Any:
        return self.wait(lambda: self.all(selector))[0]

    def wait(self, condition: Callable[[], Any], seconds: float = 30) -> Any:
        from selenium.common.exceptions import StaleElementReferenceException

        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                if found := condition():
                    return found
            except StaleElementReferenceException:  # the page has just drawn it anew
                pass
            time.sleep(0.05)
        self.screenshot("timeout")
        raise AssertionError(f"this did not come true in {seconds} seconds; messages: {self.messages()}")

    def upload(self, path: Path) -> None:
        self.one("#picture input[type=file]").send_keys(str(path))

    def picture(self) -> str | None:
        """The address of the picture that is shown."""
        shown = self.all("#picture img")
        return shown[0].get_attribute("src") if shown else None

    def ask(self, question: str) -> None:
        box = self.one("#question textarea")
        self.wait(box.is_enabled)
        box.clear()
        box.send_keys(question)
        self.one("#ask").click()

    def chat(self, number: int) -> list[str]:
        return [turn.get_property("textContent") for turn in self.all(f"#chat-{number} .message-content")]

    def chats(self) -> list[list[str]]:
        return [self.chat(0), self.chat(1)]

    def box(self) -> str:
        return self.one("#question textarea").get_property("value")

    def ready(self) -> bool:
        return self.one("#ask").is_enabled()

    def messages(self) -> str:
        return " ".join(toast.text for toast in self.all("[data-testid='toast-body']"))

    def dismiss(self) -> None:
        for button in self.all("[data-testid='toast-close']"):
            button.click()
        self.wait(lambda: not self.messages())

    def screenshot(self, name: str) -> None:
        if SCREENSHOTS:
            self.browser.save_screenshot(str(Path(SCREENSHOTS) / f"{name}.png"))

    def resize(self, width: int, height: int) -> None:
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


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
        page.ask("second")
        page.wait(lambda: len(page.chat(0)) == 4 and len(page.chat(0)[3]) > 20)
        page.one("#stop").click()
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
