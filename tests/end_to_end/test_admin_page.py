"""/-/admin in a real browser: what an admin sees, what others are told, and that it renews itself."""

from __future__ import annotations

import base64
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from account_site import fits
from chromium import CHROMIUM, DRIVER, Window, window
from programs import needs
from service import PASSWORD, USER, Service, clean_environment, running

from proxy.auth.passwords import hash_password

pytestmark = [pytest.mark.slow, needs(CHROMIUM, DRIVER)]
HOSTILE = "agent <script>document.title='run'</script>"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("admin")
    (folder / "users").write_text(f"vera:{hash_password('a-viewers-password')}:viewer\n")
    with running(folder, PROXY_USERS_FILE=str(folder / "users"), PROXY_PROBE_INTERVAL="1") as made:
        yield made


@pytest.fixture
def browser(service: Service) -> Iterator[Window]:
    given = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    with window() as opened:
        opened.execute_cdp_cmd("Network.enable", {})
        headers = {"headers": {"Authorization": f"Basic {given}"}}
        opened.execute_cdp_cmd("Network.setExtraHTTPHeaders", headers)
        yield opened


def test_only_admins_see_it(service: Service) -> None:
    page = f"{service.url}/-/admin"
    assert service.anonymous().get(page, timeout=10).status_code == 401
    assert service.session("vera", "a-viewers-password").get(page, timeout=10).status_code == 403
    assert service.session().post(page, timeout=10).status_code == 405
    found = service.session().get(page, timeout=10)
    assert found.status_code == 200
    assert "script-src" not in found.headers["Content-Security-Policy"]
    assert service.logged(found.headers["X-Request-Id"])["operation"] == "admin"


def test_it_shows_the_last_minutes_and_renews_itself(
    service: Service, browser: Window, tmp_path: Path
) -> None:
    for _ in range(20):
        answer = service.session().get(
            f"{service.url}/api/2.0/mlflow/experiments/search?max_results=1", timeout=10
        )
        assert answer.status_code == 200
    service.anonymous().get(f"{service.url}/<b>", headers={"User-Agent": HOSTILE}, timeout=10)
    browser.get(f"{service.url}/-/admin")
    browser.shows("All is well")
    browser.shows("probe-database")
    browser.shows("search-experiments")
    # A sample a minute; nobody touches the page meanwhile.
    browser.until(lambda: len(browser.find_elements("css selector", "svg polyline")) >= 4, "charts", 200)
    assert "<b>" not in browser.title
    fits(browser)
    browser.pictures(tmp_path, "admin")
    assert not [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


def test_it_tells_of_the_last_backup(service: Service, browser: Window, tmp_path: Path) -> None:
    def backup(destination: str) -> int:
        environment = clean_environment(
            PROXY_DATA_DIR=str(service.data), PROXY_BACKUP_DESTINATION=destination
        )
        command = [sys.executable, "-m", "proxy", "backup"]
        return subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True).returncode

    def told() -> str:
        browser.get(f"{service.url}/-/admin")
        return str(browser.find_element("xpath", "//dt[.='Last backup']/following-sibling::dd").text)

    assert told() == "none that this data directory knows of"
    assert backup(str(tmp_path / "backups")) == 0
    assert re.fullmatch(r"[-0-9]{10} [0-9]{2}:[0-9]{2} UTC, (just now|1 minute ago), .* (KiB|MiB)", told())
    assert backup("/proc/no-folder") != 0
    assert re.search(r"(ago|just now).* the latest failed PROXY_BACKUP_DESTINATION", told())


def test_what_is_wrong_comes_first(service: Service, browser: Window) -> None:
    database = service.data / "mlflow.db"
    moved = database.rename(service.data / "moved.db")
    try:
        database.write_text("no SQLite database")
        browser.get(f"{service.url}/-/admin")
        browser.until(
            lambda: "failed" in browser.find_element("css selector", "ul.list li").text,
            "the failed check",
            60,
        )
    finally:
        moved.rename(database)
    browser.shows("All is well", 60)
