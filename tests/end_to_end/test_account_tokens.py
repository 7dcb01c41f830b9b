"""A token made in a browser, its lines pasted into a shell, and MLflow's own client at work with it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import pytest
import requests
from account_site import copied, fits
from chromium import CHROMIUM, DRIVER, Window, window
from identity_provider import EDITOR, PASSWORD, installed
from identity_world import world
from programs import needs
from selenium.webdriver.support.ui import Select
from service import PASSWORD as OWN_PASSWORD
from service import USER, Service, clean_environment, running

pytestmark = [pytest.mark.slow, needs(CHROMIUM, DRIVER)]

SCRIPT = """
import mlflow
mlflow.set_experiment("of a program")
with mlflow.start_run() as run:
    mlflow.log_metric("m", 1.0)
    mlflow.log_text("hello", "a.txt")
found = mlflow.search_runs(experiment_names=["of a program"])
print(len(found), mlflow.artifacts.load_text(f"{run.info.artifact_uri}/a.txt"))
"""
FORMS = ("tokens", "tokens/renew", "tokens/revoke", "end", "service-accounts", "service-accounts/remove")


def pasted(service: Service, lines: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """MLflow's client in a shell into which those lines were pasted."""
    script = folder / "program.py"
    script.write_text(SCRIPT)
    environment = clean_environment(HOME=str(folder), MLFLOW_HTTP_REQUEST_MAX_RETRIES="2")
    environment |= {"MLFLOW_TRACKING_SERVER_CERT_PATH": str(service.ca), "PYTHON": sys.executable}
    text = f'{lines}\nexec "$PYTHON" {script}\n'
    return subprocess.run(
        ["sh", "-eu"], input=text, env=environment, capture_output=True, text=True, timeout=120, check=False
    )


def works(service: Service, lines: str, folder: Path) -> None:
    done = pasted(service, lines, folder)
    assert done.returncode == 0, done.stderr
    assert re.search(r"[1-9] hello$", done.stdout.strip())


def refused(service: Service, secret: str) -> str:
    """What a program with that token is told."""
    answer = bearer(service, secret)
    assert answer.status_code == 401, answer.text
    return str(answer.json()["message"])


def bearer(service: Service, secret: str) -> requests.Response:
    return service.anonymous().get(
        f"{service.url}/ajax-api/2.0/mlflow/users/current",
        headers={"Authorization": f"Bearer {secret}"},
        timeout=30,
    )


def user(service: Service, secret: str) -> str:
    answer = bearer(service, secret)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["user"]["username"])


def make(browser: Window, form: str, name: str) -> str:
    """Fill in that form; the secret."""
    browser.find(f"#{form}-name").send_keys(name)
    browser.find(f"#{form} button").click()
    browser.shows("it is never shown again")
    return browser.find("#secret").text


def unseen(service: Service, *secrets: str) -> None:
    """None of them is in a log or in anything else that the service keeps."""
    kept = [path for path in service.folder.rglob("*") if path.is_file()]
    assert any(path.name == "proxy.db" for path in kept)
    for path in kept:
        data = path.read_bytes()
        assert not any(secret.encode() in data for secret in secrets), path


def test_with_a_password_alone(tmp_path: Path, kept: Path) -> None:
    with running(tmp_path / "service") as service, window() as browser:
        at_home = f"{quote(USER)}:{quote(OWN_PASSWORD)}@"
        browser.get(service.url.replace("://", f"://{at_home}") + "/-/account")
        browser.shows("a user name and password with each request")
        secret = make(browser, "make", "nightly training")
        fits(browser)
        browser.picture(kept / "account-real-token-made.png")
        lines = copied(browser, "shell")
        assert copied(browser, "secret") == secret
        assert f"MLFLOW_TRACKING_URI={service.url}\n" in lines
        works(service, lines, tmp_path)
        in_file = copied(browser, "file")
        (tmp_path / ".mlflow").mkdir()
        (tmp_path / ".mlflow" / "credentials").write_text(in_file)
        works(service, f"export MLFLOW_TRACKING_URI={service.url}", tmp_path)
        (tmp_path / ".mlflow" / "credentials").unlink()

        browser.find_text("To your account").click()
        browser.shows("Last used")
        browser.shows("from 127.0.0.1")
        browser.find('summary[aria-label="Renew the token nightly training"]').click()
        Select(browser.find("select[name=overlap]")).select_by_value("3600")
        browser.find_text("Renew nightly training").click()
        browser.shows("The old one goes on for 1 hour")
        renewed = browser.find("#secret").text
        assert user(service, secret) == user(service, renewed) == USER
        browser.find_text("To your account").click()
        browser.shows("replaced by a newer one")
        browser.picture(kept / "account-real-tokens.png")

        browser.find('summary[aria-label="Revoke the token nightly training"]').click()
        browser.find_text("Revoke nightly training").click()
        browser.shows("The token is revoked")
        # The list has the newest first.
        assert "was revoked on" in refused(service, renewed)
        assert "/-/account" in refused(service, renewed)
        assert user(service, secret) == USER
        done = pasted(service, lines.replace(secret, renewed), tmp_path)
        assert done.returncode != 0
        assert "was revoked on" in done.stderr

        browser.get(f"{service.url}/-/account/service-accounts")
        browser.find("#account-name").send_keys("airflow")
        browser.find_text("Make the account").click()
        browser.find('summary[aria-label="Make a token for service:airflow"]').click()
        of_account = make(browser, "for-airflow", "dag")
        works(service, copied(browser, "shell"), tmp_path)
        assert user(service, of_account) == "service:airflow"
        browser.find_text("To the service accounts").click()
        browser.find('summary[aria-label="Remove service:airflow"]').click()
        browser.find_text("Remove service:airflow").click()
        browser.shows("its tokens count no more")
        assert "was revoked on" in refused(service, of_account)
        assert [entry["message"] for entry in browser.get_log("browser") if "favicon" not in entry] == []

        another_site_changes_nothing(service, secret)
        assert user(service, secret) == USER
        unseen(service, secret, renewed, of_account)


def another_site_changes_nothing(service: Service, secret: str) -> None:
    """What a browser with a remembered password sends for another site's page is refused."""
    person = service.session()
    listed = person.get(f"{service.url}/-/account", timeout=30).text
    which = re.findall(r'name="token" value="([0-9a-f]{16})"', listed)
    fields = {"name": "x", "expiry": "604800", "role": "viewer", "description": "", "overlap": "0"}
    for path in FORMS:
        for headers in ({"Sec-Fetch-Site": "cross-site"}, {"Origin": "https://evil.example.com"}):
            answer = person.post(
                f"{service.url}/-/account/{path}",
                data={**fields, "token": which[0]},
                headers=headers,
                allow_redirects=False,
                timeout=30,
            )
            assert answer.status_code == 403, (path, answer.text)
    by_token = {"Authorization": f"Bearer {secret}"}
    for path in FORMS:
        answer = service.anonymous().post(
            f"{service.url}/-/account/{path}",
            data={**fields, "token": which[0]},
            headers=by_token,
            timeout=30,
        )
        assert answer.status_code == 403, (path, answer.text)
        assert "mlfpat_" not in answer.text


@pytest.mark.skipif(not installed(), reason="not installed: oidc-provider (npm ci)")
def test_with_an_identity_provider(tmp_path: Path, kept: Path) -> None:
    with world(tmp_path / "world") as here, window() as browser:
        browser.get(f"{here.url}/#/experiments")
        browser.find("#start").click()
        browser.find("input[name=login]").send_keys(EDITOR)
        browser.find("input[name=password]").send_keys(PASSWORD)
        browser.find("button[type=submit]").click()
        browser.find(f'button[aria-label="Account menu for {EDITOR}@example.com"]').click()
        browser.ours("a.item").click()
        browser.shows("Your tokens")
        browser.pictures(kept, "account-of-a-person")
        secret = make(browser, "make", "notebook")
        works(here.service, copied(browser, "shell"), tmp_path)
        assert user(here.service, secret) == f"{EDITOR}@example.com"
        browser.find_text("To your account").click()
        browser.shows("Last used")
        browser.find_text("Sign out").click()
        browser.until(lambda: "/-/account" not in browser.current_url, "signed out")
        # A token outlives its owner's session.
        assert user(here.service, secret) == f"{EDITOR}@example.com"
        unseen(here.service, secret)
