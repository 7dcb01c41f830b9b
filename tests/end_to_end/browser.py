"""Debian's Chromium without a window, which trusts the service's authority as a person's browser would."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service as Driver
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from service import Service, clean_environment

PROGRAMS = ("chromium", "chromedriver", "certutil")
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1400,1000",
)


class Browser:
    """One signed-in (or not) person at one service."""

    def __init__(self, chrome: webdriver.Chrome, service: Service) -> None:
        self.chrome = chrome
        self.service = service

    def sign_in(self, user: str | None = None, password: str | None = None) -> None:
        """Answer the service's challenge, as in the browser's own dialogue; it is remembered from then on."""
        user = quote(user or self.service.user, safe="")
        password = quote(password or self.service.password, safe="")
        self.chrome.get(self.service.url.replace("://", f"://{user}:{password}@") + "/")

    def open(self, fragment: str = "") -> None:
        """A page of MLflow's UI, from the beginning."""
        self.chrome.get("about:blank")
        self.chrome.get(f"{self.service.url}/{fragment}")

    def text(self) -> str:
        return str(self.chrome.execute_script("return document.body ? document.body.innerText : ''"))

    def wait_for(self, *texts: str, patience: float = 40) -> str:
        """Until all of those are on the page; the page's text."""
        return self.until(lambda: all(text in self.text() for text in texts) and self.text(), patience, texts)

    def wait_for_one(self, selector: str, patience: float = 40) -> WebElement:
        """The first element of a CSS selector, once there is one that can be seen."""

        def find() -> WebElement | None:
            found = self.chrome.find_elements(By.CSS_SELECTOR, selector)
            return next((element for element in found if element.is_displayed()), None)

        return self.until(find, patience, selector)

    def click(self, text: str, selector: str = "button, a, [role=tab], [role=treeitem], span") -> None:
        """Click what says exactly that."""

        def click() -> bool:
            for element in self.chrome.find_elements(By.CSS_SELECTOR, selector):
                if element.is_displayed() and element.text.strip() == text:
                    element.click()
                    return True
            return False

        self.until(click, 20, text)

    def until(self, true: Callable[[], Any], patience: float, what: object) -> Any:
        deadline = time.monotonic() + patience
        while True:
            with contextlib.suppress(WebDriverException):  # a page that is just being replaced
                if value := true():
                    return value
            assert time.monotonic() < deadline, f"{what} did not appear:\n{self.text()}\n{self.messages()}"
            time.sleep(0.2)

    def keep(self, path: Path) -> None:
        self.chrome.save_screenshot(str(path))

    def messages(self) -> list[str]:
        """What the console has said of severity SEVERE since the last time it was asked."""
        entries = self.chrome.get_log("browser")
        return [entry["message"] for entry in entries if entry["level"] == "SEVERE"]


@contextlib.contextmanager
def browsing(service: Service, folder: Path) -> Iterator[Browser]:
    """A browser with a new profile in `folder`, whose certificate store holds the service's authority."""
    home = folder / "home"
    store = home / ".pki" / "nssdb"
    store.mkdir(parents=True)
    certutil = ("certutil", "-d", f"sql:{store}")
    subprocess.run([*certutil, "-N", "--empty-password"], check=True)
    authority = ("-A", "-t", "C,,", "-n", "mlflow-proxy", "-i", str(service.ca))
    subprocess.run([*certutil, *authority], check=True)
    options = Options()
    options.binary_location = "/usr/bin/chromium"
    for flag in (*FLAGS, f"--user-data-dir={folder / 'profile'}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    environment = clean_environment(HOME=str(home), XDG_CONFIG_HOME=str(home), XDG_CACHE_HOME=str(home))
    environment.pop("XDG_DATA_HOME", None)
    driver = Driver("/usr/bin/chromedriver", env=environment)
    chrome = webdriver.Chrome(options=options, service=driver)
    try:
        chrome.set_page_load_timeout(60)
        yield Browser(chrome, service)
    finally:
        chrome.quit()
