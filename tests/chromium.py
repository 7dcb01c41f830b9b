"""Real headless Chromium, as the tests drive it: one window with a profile of its own, and pictures of it."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from selenium.common.exceptions import WebDriverException
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service as Driver
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

CHROMIUM, DRIVER = "/usr/bin/chromium", "/usr/bin/chromedriver"
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--disable-dev-shm-usage", "--disable-extensions", "--hide-scrollbars"),
)
PHONE = (390, 844)


class Window(Chrome):
    """A browser's window; every wait ends with what the page showed instead."""

    def until(self, true: Callable[[], Any], what: str, patience: float = 30) -> Any:
        """The first value of `true` that is true; what fails as the page changes counts as false."""
        deadline = time.monotonic() + patience
        while True:
            with contextlib.suppress(WebDriverException):
                if value := true():
                    return value
            if time.monotonic() > deadline:
                raise AssertionError(f"not in {patience} s: {what}\n{self._instead()}")
            time.sleep(0.1)

    def _instead(self) -> str:
        try:
            return f"{self.current_url}\n{self.text()}"
        except WebDriverException as error:
            return f"and the page is gone: {error.msg}"

    def text(self) -> str:
        """What the page shows, and what the console said."""
        shown = self.find_element(By.TAG_NAME, "body").text
        said = "\n".join(entry["message"] for entry in self.get_log("browser"))
        return f"{shown}\n--- console:\n{said}"

    def shows(self, text: str, patience: float = 30) -> None:
        self.until(lambda: text in self.find_element(By.TAG_NAME, "body").text, f"{text!r} shown", patience)

    def at(self, address: str, patience: float = 30) -> None:
        """Until the address ends like that."""
        self.until(lambda: self.current_url.endswith(address), f"at {address}", patience)

    def find(self, selector: str, patience: float = 30) -> WebElement:
        def found() -> WebElement | None:
            return next((e for e in self.find_elements(By.CSS_SELECTOR, selector) if e.is_displayed()), None)

        element = self.until(found, f"{selector} there", patience)
        assert isinstance(element, WebElement)
        return element

    def find_text(self, words: str, kinds: str = "a, button", patience: float = 30) -> WebElement:
        """The first shown element of those kinds with exactly that text or label."""

        def found() -> WebElement | None:
            for element in self.find_elements(By.CSS_SELECTOR, kinds):
                if words in (element.text.strip(), element.get_attribute("aria-label")):
                    return element if element.is_displayed() else None
            return None

        element = self.until(found, f"{words!r} there", patience)
        assert isinstance(element, WebElement)
        return element

    def ours(self, selector: str, patience: float = 30) -> WebElement:
        """An element of proxy/ui.js, which keeps its own in a shadow tree."""

        def found() -> WebElement | None:
            root = self.find_element(By.CSS_SELECTOR, "#mlflow-proxy").shadow_root
            return next((e for e in root.find_elements(By.CSS_SELECTOR, selector) if e.is_displayed()), None)

        element = self.until(found, f"our {selector} there", patience)
        assert isinstance(element, WebElement)
        return element

    def has_ours(self, selector: str) -> bool:
        """Whether it is shown just now."""
        root = self.find_element(By.CSS_SELECTOR, "#mlflow-proxy").shadow_root
        return any(element.is_displayed() for element in root.find_elements(By.CSS_SELECTOR, selector))

    def dark(self, on: bool) -> None:
        value = "dark" if on else "light"
        features = [{"name": "prefers-color-scheme", "value": value}]
        self.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def screen(self, width: int, height: int) -> None:
        """The size of the page itself, also one narrower than a window can be."""
        self.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500},
        )

    def picture(self, path: Path) -> None:
        self.save_screenshot(str(path))

    def pictures(self, folder: Path, name: str) -> None:
        """The page in light, dark, and on a phone in both."""
        for size, words in (((1200, 800), ""), (PHONE, "-phone")):
            self.screen(*size)
            for dark in (False, True):
                self.dark(dark)
                self.picture(folder / f"{name}{words}{'-dark' if dark else ''}.png")
        self.dark(False)
        self.screen(1200, 800)


@contextlib.contextmanager
def window() -> Iterator[Window]:
    """A new window that knows nobody, and takes our own certificate for good."""
    with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as profile:
        options = ChromeOptions()
        options.binary_location = CHROMIUM
        options.accept_insecure_certs = True
        for flag in (*FLAGS, f"--user-data-dir={profile}", "--window-size=1200,800", "--lang=en-US"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        driver = Window(options=options, service=Driver(DRIVER))
        try:
            driver.set_page_load_timeout(60)
            yield driver
        finally:
            driver.quit()
