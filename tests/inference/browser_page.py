"""The page of `llavakit chat --web` in a real browser."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SCREENSHOTS = os.environ.get("LLAVAKIT_SCREENSHOTS")  # a folder to keep them in, for whoever wants to look


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
