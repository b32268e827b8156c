"""Opens the page in headless Chromium, and collects what it logs and requests."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
SCREENSHOTS = Path(os.environ.get("SCREENSHOTS", "")) if os.environ.get("SCREENSHOTS") else None
WIDE, NARROW = {"width": 1280, "height": 800}, {"width": 360, "height": 640}
ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage")

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium; tests skip where Playwright is not installed."""
    api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        yield browser
        browser.close()


def open_page(tab: "Tab", server: Any) -> None:
    """Opens the page of a server, and waits until it can be used."""
    tab.page.goto(server.url)
    tab.page.wait_for_selector("#run:enabled")


class Tab:
    """A page in its own browser context.

    Attributes:
      page: The page of Playwright.
      messages: The errors and warnings of the console, and uncaught exceptions.
      requests: The addresses of all requests.
    """

    def __init__(self, browser: Any, **options: Any):
        self.context = browser.new_context(**{"viewport": WIDE, **options})
        self.context.set_default_timeout(30_000)
        self.page = self.context.new_page()
        self.messages: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", self._on_message)
        self.page.on("pageerror", lambda error: self.messages.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))

    def _on_message(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.messages.append(message.text)

    def check(self, origin: str) -> None:
        """Fails if the page logged an error, or requested anything from elsewhere."""
        assert not self.messages
        assert [url for url in self.requests if not url.startswith(origin)] == []

    def screenshot(self, name: str) -> None:
        """Keeps a picture of the page if the tests are to keep some."""
        if SCREENSHOTS is not None:
            SCREENSHOTS.mkdir(parents=True, exist_ok=True)
            self.page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)

    def close(self) -> None:
        self.context.close()
