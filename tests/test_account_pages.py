"""/-/account: tokens and service accounts as people make, renew and revoke them; real tokens in SQLite."""

from __future__ import annotations

import base64
import hashlib
import html
import re
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from account_site import ALICE, BOB, BY_TOKEN, LONGEST, NEW, ROOT, AccountSite, account_site, copied, fits
from chromium import CHROMIUM, DRIVER, window
from mlflow.utils import credentials
from programs import needs
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import Select

from proxy.exchange import Refused
from proxy.identity import Identity, Role
from proxy.pages import token_forms, tokens
from proxy.pages.token_forms import DAY, Rules
from proxy.pages.wording import ahead, duration

SECRET = re.compile(r"mlf[ps]at_[0-9A-Za-z]{36}")
ID = re.compile(r"id <code>([0-9a-f]{16})</code>")
NOW = 1_800_000_000.0  # 2027-01-15 08:00 UTC
FORMS = ("tokens", "tokens/renew", "tokens/revoke", "end", "service-accounts/remove")


@pytest.fixture
def site(tmp_path: Path) -> Iterator[AccountSite]:
    with account_site(tmp_path) as site:
        yield site


def made(site: AccountSite, **fields: str) -> str:
    """The secret of a new token."""
    answer, text = site.post("tokens", **{**NEW, **fields})
    assert answer.status == 200, text
    return shown_once(text)


def shown_once(text: str) -> str:
    (secret,) = set(SECRET.findall(text))
    return str(secret)


def only_id(text: str) -> str:
    (found,) = set(ID.findall(text))
    return str(found)


def alert(text: str) -> str:
    found = re.search(r'<p class="notice message" role="alert">(.*?)</p>', text, re.DOTALL)
    assert found is not None, text
    return html.unescape(found[1])


# Making one.


def test_a_token_is_shown_when_it_is_made_and_never_again(site: AccountSite) -> None:
    answer, text = site.post("tokens", **NEW, read_only="on")
    assert answer.status == 200
    secret = shown_once(text)
    who = site.who(secret)
    assert isinstance(who, Identity)
    assert (who.user, who.role) == ("alice", Role.EDITOR)
    assert who.credential is not None
    assert (who.credential.name, who.credential.read_only) == ("nightly", True)
    listed = site.get()
    assert "<strong>nightly</strong>" in listed
    assert "read-only</span>" in listed
    assert "Expires <span" in listed
    assert "in 30 days" in listed
    assert not SECRET.search(listed)
    assert who.credential.id == only_id(listed)


def test_the_page_with_the_secret_is_kept_by_no_cache_and_has_it_in_no_address(site: AccountSite) -> None:
    answer, text = site.post("tokens", **NEW)
    assert answer.getheader("cache-control") == "no-store"
    assert answer.getheader("referrer-policy") == "same-origin"
    assert answer.getheader("location") is None
    secret = shown_once(text)
    assert not any(secret in found for found in re.findall(r'(?:href|src|action|value)="([^"]*)"', text))
    policy = dict(part.split(" ", 1) for part in str(answer.getheader("content-security-policy")).split("; "))
    assert (policy["default-src"], policy["form-action"]) == ("'none'", "'none'")
    for kind in ("style", "script"):
        (inside,) = re.findall(f"<{kind}>(.*?)</{kind}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert policy[f"{kind}-src"] == f"'sha256-{digest}'"


def test_sending_the_form_once_more_makes_no_second_token(site: AccountSite) -> None:
    made(site)
    answer, text = site.post("tokens", **NEW)
    assert answer.status == 409
    assert not SECRET.search(text)
    assert len(ID.findall(site.get())) == 1


def test_the_lines_are_what_a_shell_and_mlflows_client_take(
    site: AccountSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, text = site.post("tokens", **NEW)
    secret = shown_once(text)
    blocks = {
        name: html.unescape(block)
        for name, block in re.findall(r'<pre id="(\w+)"[^>]*>(.*?)</pre>', text, re.DOTALL)
    }
    assert blocks["secret"] == secret
    script = "MLFLOW_TRACKING_USERNAME=x; " + blocks["shell"] + "; env; echo user=$MLFLOW_TRACKING_USERNAME"
    printed = subprocess.run(["sh", "-euc", script], capture_output=True, text=True, check=False).stdout
    assert f"MLFLOW_TRACKING_URI={site.url}\n" in printed
    assert f"MLFLOW_TRACKING_TOKEN={secret}\n" in printed
    # The file is MLflow's to read: its own code finds the token there.
    (tmp_path / ".mlflow").mkdir()
    (tmp_path / ".mlflow" / "credentials").write_text(blocks["file"])
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert credentials.read_mlflow_creds() == ("token", secret)


@pytest.mark.parametrize(
    ("fields", "status", "words"),
    [
        ({"name": " "}, 400, "A token has a name"),
        ({"name": "x" * 101}, 400, "at most 100 characters"),
        ({"name": "a\nb"}, 400, "one line"),
        ({"expiry": ""}, 400, "Choose when the token expires."),
        ({"expiry": "0"}, 400, "Choose when the token expires."),
        ({"expiry": "-1"}, 400, "Choose when the token expires."),
        ({"expiry": "1e9"}, 400, "Choose when the token expires."),
        ({"expiry": "nan"}, 400, "Choose when the token expires."),
        ({"expiry": str(LONGEST + 1)}, 400, "at most 400 days"),
        ({"expiry": "date"}, 400, "Give the token's last day as a date"),
        ({"expiry": "date", "until": "tomorrow"}, 400, "Give the token's last day as a date"),
        ({"expiry": "date", "until": "2001-02-03"}, 400, "can't be 2001-02-03, which is over"),
        ({"expiry": "date", "until": "9999-12-31"}, 400, "at most 400 days"),
        ({"role": "none"}, 400, "Choose a role"),
        ({"role": "root"}, 400, "Choose a role"),
        ({"role": "admin"}, 403, "no higher than its owner's"),
    ],
)
def test_a_token_that_can_not_be_is_refused_on_the_page(
    site: AccountSite, fields: dict[str, str], status: int, words: str
) -> None:
    answer, text = site.post("tokens", **{**NEW, **fields})
    assert answer.status == status
    assert words in alert(text)
    assert site.answered[-1].status == status
    site.identity = ROOT
    assert not ID.search(site.get("/-/account?everyone"))


def test_what_was_typed_is_there_again_beside_what_is_wrong(site: AccountSite) -> None:
    made(site, name='a "job" <b>')
    answer, text = site.post(
        "tokens", name='a "job" <b>', expiry="date", until="2027-02-03", role="viewer", read_only="on"
    )
    assert answer.status in (400, 409)
    assert site.answered[-1].refusal is not None
    assert 'value="a &#34;job&#34; &lt;b&gt;"' in text
    assert '<option value="date" selected>' in text
    assert 'type="date" min="' in text
    assert 'value="2027-02-03"' in text
    assert '<option value="viewer" selected>' in text
    assert 'name="read_only" checked' in text
    assert '<details id="make" class="make" open>' in text


def test_what_was_typed_is_kept_while_the_database_is_away(site: AccountSite) -> None:
    with sqlite3.connect(site.database) as database:
        database.execute("ALTER TABLE mlflow_proxy_tokens RENAME TO gone")
    answer, text = site.post("tokens", **NEW)
    assert answer.status == 503
    assert answer.getheader("retry-after")
    assert site.answered[-1].refusal == "no_database"
    assert alert(text)
    assert 'value="nightly"' in text
    assert "They can't be listed just now." in text
    assert site.ask("GET", "/-/account")[0].status == 503


def test_no_role_above_ones_own_is_offered(site: AccountSite) -> None:
    for identity, roles in (
        (BOB, ["viewer"]),
        (ALICE, ["viewer", "editor"]),
        (ROOT, ["viewer", "editor", "admin"]),
    ):
        site.identity = identity
        assert re.findall(r'<option value="(viewer|editor|admin)"', site.get()) == roles


def test_a_name_is_shown_as_text(site: AccountSite) -> None:
    answer, text = site.post("tokens", **{**NEW, "name": "<script>alert(1)</script>"})
    assert answer.status == 200
    for page in (text, site.get()):
        assert "&lt;script&gt;alert(1)" in page
        assert "<script>alert(1)" not in page


# Renewing and revoking.


def test_a_renewed_token_goes_on_beside_the_new_one_for_as_long_as_was_chosen(site: AccountSite) -> None:
    old = made(site)
    answer, text = site.post("tokens/renew", token=only_id(site.get()), overlap="3600", back="")
    assert answer.status == 200
    new = shown_once(text)
    assert new != old
    assert "The old one goes on for 1 hour" in text
    for secret in (old, new):
        assert isinstance(site.who(secret), Identity)
    listed = site.get()
    assert listed.count("<strong>nightly</strong>") == 2
    assert listed.count("replaced by a newer one") == 1
    assert listed.count('aria-label="Renew the token nightly"') == 1
    assert "in 1 hour" in listed


def test_a_renewed_token_can_end_at_once(site: AccountSite) -> None:
    old = made(site)
    answer, text = site.post("tokens/renew", token=only_id(site.get()), overlap="0", back="")
    assert answer.status == 200
    assert "The old one counts no more." in text
    assert isinstance(site.who(old), str)
    assert isinstance(site.who(shown_once(text)), Identity)


@pytest.mark.parametrize("overlap", ["", "-1", "x", "1e3", "99999999999"])
def test_an_overlap_that_was_not_offered_renews_nothing(site: AccountSite, overlap: str) -> None:
    made(site)
    answer, text = site.post("tokens/renew", token=only_id(site.get()), overlap=overlap, back="")
    assert answer.status == 400
    assert alert(text)
    assert len(ID.findall(site.get())) == 1


def test_the_overlap_of_the_settings_is_chosen_beforehand(site: AccountSite) -> None:
    made(site)
    assert f'<option value="{2 * DAY}" selected>for 2 days more</option>' in site.get()


def test_a_revoked_token_counts_no_more_and_says_who_did_it(site: AccountSite) -> None:
    secret = made(site)
    answer, _ = site.post("tokens/revoke", token=only_id(site.get()), back="")
    assert (answer.status, answer.getheader("location")) == (303, "/-/account?revoked")
    assert isinstance(site.who(secret), str)
    text = site.get("/-/account?revoked")
    assert "The token is revoked: it counts no more." in text
    assert "Expired and revoked (1)" in text
    assert "revoked by alice" in text
    assert "/-/account/tokens/re" not in text  # neither renewed nor revoked again


def test_the_newest_tokens_that_ended_are_shown(site: AccountSite) -> None:
    for number in range(tokens.OVER_SHOWN + 3):
        made(site, name=f"short {number}.")
        site.post("tokens/revoke", token=only_id(site.get().partition("Expired and revoked")[0]), back="")
    text = site.get()
    assert f"Expired and revoked ({tokens.OVER_SHOWN + 3})" in text
    shown = [number for number in range(tokens.OVER_SHOWN + 3) if f"short {number}." in text]
    assert shown == list(range(3, tokens.OVER_SHOWN + 3))
    assert "And 3 older:" in text


def test_anothers_token_is_as_one_that_there_is_not_but_for_an_admin(site: AccountSite) -> None:
    secret = made(site)
    which = only_id(site.get())
    site.identity = BOB
    assert not ID.search(site.get("/-/account?everyone"))
    refusals = []
    for token in (which, "f" * 16):
        for path in ("tokens/revoke", "tokens/renew"):
            answer, text = site.post(path, token=token, overlap="0", back="everyone")
            refusals.append((answer.status, alert(text).replace(token, "…")))
    assert {status for status, _ in refusals} == {404}
    assert refusals[:2] == refusals[2:]
    assert isinstance(site.who(secret), Identity)
    site.identity = ROOT
    text = site.get("/-/account?everyone")
    assert which in text
    assert "Nobody has one." not in text
    assert which not in site.get()
    answer, _ = site.post("tokens/revoke", token=which, back="everyone")
    assert answer.getheader("location") == "/-/account?revoked&everyone"
    assert isinstance(site.who(secret), str)


def test_where_and_when_a_token_was_last_used_is_listed(site: AccountSite) -> None:
    secret = made(site)
    assert "Never used" in site.get()
    assert isinstance(site.who(secret), Identity)
    text = re.sub("<[^>]+>", "", site.get())
    assert "Last used just now from 198.51.100.7" in text


# Who may.


def test_a_token_manages_neither_tokens_nor_sessions_whatever_its_role(site: AccountSite) -> None:
    secret = made(site)
    which = only_id(site.get())
    site.identity = BY_TOKEN
    text = site.get("/-/account?everyone")
    assert "a token, a job" in text
    assert "A token can't make, renew, revoke or list tokens" in html.unescape(text)
    assert "<form" not in text
    assert not ID.search(text)
    for path in (*FORMS, "service-accounts"):
        answer, _ = site.post(path, **NEW, token=which, session="a" * 8, overlap="0", description="")
        assert answer.status == 403, path
    assert site.ask("GET", "/-/account/service-accounts")[0].status == 403
    assert site.sessions.ended == []
    assert isinstance(site.who(secret), Identity)


def test_without_an_identity_provider_there_are_tokens_and_no_sessions(tmp_path: Path) -> None:
    with account_site(tmp_path, sessions=False) as site:
        site.identity = ROOT
        text = site.get("/-/account?everyone")
        assert "Your tokens" in text
        assert "Nobody has one." in text
        assert "a user name and password with each request" in text
        assert "session" not in text.partition("<body>")[2]
        assert site.post("end", session="a" * 8)[0].status == 303
        assert site.sessions.ended == []


@pytest.mark.parametrize("path", FORMS)
def test_the_address_of_a_form_leads_back_to_the_page_it_stood_on(site: AccountSite, path: str) -> None:
    site.identity = ROOT
    back = "/-/account/service-accounts" if path.startswith("service") else "/-/account"
    answer, _ = site.ask("GET", f"/-/account/{path}")
    assert (answer.status, answer.getheader("location")) == (303, back)
    answer, _ = site.ask("DELETE", f"/-/account/{path}")
    assert (answer.status, answer.getheader("allow")) == (405, "GET, HEAD, POST")


# Service accounts.


def test_an_admin_makes_a_service_account_gives_it_a_token_and_removes_it(site: AccountSite) -> None:
    site.identity = ROOT
    path = "/-/account/service-accounts"
    answer, _ = site.post("service-accounts", name="nightly", role="editor", description="Airflow <1>")
    assert (answer.status, answer.getheader("location")) == (303, f"{path}?made")
    text = site.get(f"{path}?made")
    assert "service:nightly" in text
    assert "Airflow &lt;1&gt;" in text
    assert "by root" in text
    answer, text = site.post("tokens", **{**NEW, "name": "dag"}, service_account="nightly")
    secret = shown_once(text)
    assert secret.startswith("mlfsat_")
    assert f'href="{path}"' in text
    who = site.who(secret)
    assert isinstance(who, Identity)
    assert (who.user, who.role) == ("service:nightly", Role.EDITOR)
    which = only_id(site.get(path))
    assert which not in site.get()
    answer, text = site.post("tokens/renew", token=which, overlap="0", back="service-accounts")
    assert answer.status == 200
    renewed = shown_once(text)
    assert isinstance(site.who(renewed), Identity)
    answer, _ = site.post("service-accounts/remove", name="nightly")
    assert (answer.status, answer.getheader("location")) == (303, f"{path}?removed")
    assert isinstance(site.who(renewed), str)
    assert "There is none yet." in site.get(path)


def test_a_service_accounts_token_is_revoked_where_it_is_listed(site: AccountSite) -> None:
    site.identity = ROOT
    site.post("service-accounts", name="ci", role="viewer", description="")
    site.post("tokens", **{**NEW, "role": "viewer"}, service_account="ci")
    which = only_id(site.get("/-/account/service-accounts"))
    answer, _ = site.post("tokens/revoke", token=which, back="service-accounts")
    assert answer.getheader("location") == "/-/account/service-accounts?revoked"


def test_a_service_account_that_can_not_be_is_refused_with_what_was_typed(site: AccountSite) -> None:
    site.identity = ROOT
    for fields, status in (
        ({"name": "A b", "role": "admin", "description": "what for"}, 400),
        ({"name": "ci", "role": "none", "description": "what for"}, 400),
    ):
        answer, text = site.post("service-accounts", **fields)
        assert answer.status == status
        assert alert(text)
        assert f'value="{fields["name"]}"' in text
        assert 'value="what for"' in text
    assert (
        '<option value="admin" selected>'
        in site.post("service-accounts", name="", role="admin", description="")[1]
    )


def test_a_token_refused_to_a_service_account_is_said_where_it_was_asked_for(site: AccountSite) -> None:
    site.identity = ROOT
    site.post("service-accounts", name="ci", role="viewer", description="")
    answer, text = site.post("tokens", **{**NEW, "role": "editor"}, service_account="ci")
    assert answer.status == 403
    assert '<details id="for-ci" class="make" open>' in text
    assert 'value="nightly"' in text
    assert "service:ci has the role viewer" in alert(text)
    answer, text = site.post("tokens", **NEW, service_account="nobody")
    assert answer.status == 404
    assert alert(text)


def test_service_accounts_are_for_admins(site: AccountSite) -> None:
    site.identity = ROOT
    site.post("service-accounts", name="ci", role="viewer", description="")
    site.identity = ALICE
    assert "service-accounts" not in site.get("/-/account?everyone")
    assert site.ask("GET", "/-/account/service-accounts")[0].status == 403
    for path, fields in (
        ("service-accounts", {"name": "more", "role": "viewer", "description": ""}),
        ("service-accounts/remove", {"name": "ci"}),
        ("tokens", {**NEW, "role": "viewer", "service_account": "ci"}),
    ):
        assert site.post(path, **fields)[0].status == 403, path
    site.identity = ROOT
    text = site.get("/-/account/service-accounts")
    assert "service:ci" in text
    assert "service:more" not in text
    assert not ID.search(text)


# What forms offer, and what comes of it.


@pytest.mark.parametrize(
    ("longest", "offered", "chosen", "last_day"),
    [
        (3650 * DAY, ["7 days", "30 days", "90 days", "365 days"], "90 days", "2037-01-11"),
        (365 * DAY, ["7 days", "30 days", "90 days", "365 days"], "90 days", "2028-01-14"),
        (100 * DAY, ["7 days", "30 days", "90 days", "100 days"], "90 days", "2027-04-24"),
        (30 * DAY, ["7 days", "30 days"], "30 days", "2027-02-13"),
        (3 * DAY, ["3 days"], "3 days", "2027-01-17"),
        (3600, ["1 hour"], "1 hour", None),
    ],
)
def test_no_expiry_beyond_the_longest_is_offered(
    longest: int, offered: list[str], chosen: str, last_day: str | None
) -> None:
    choices = token_forms.choices(Rules(longest, DAY), Role.EDITOR, NOW, {})
    expiries = choices["expiries"]
    assert isinstance(expiries, list)
    assert [words for value, words in expiries if value != "date"] == [f"after {one}" for one in offered]
    assert dict(expiries)[choices["expiry"]] == f"after {chosen}"
    assert ("date" in dict(expiries)) is (last_day is not None)
    if last_day is not None:
        assert (choices["first_day"], choices["last_day"]) == ("2027-01-15", last_day)
        until = token_forms.asked({**NEW, "expiry": "date", "until": last_day}, NOW)
        assert longest - DAY < until.lifetime <= longest


def test_a_last_day_counts_to_its_end() -> None:
    today = token_forms.asked({**NEW, "expiry": "date", "until": "2027-01-15"}, NOW)
    assert today.lifetime == 16 * 3600
    with pytest.raises(Refused, match="which is over"):
        token_forms.asked({**NEW, "expiry": "date", "until": "2027-01-14"}, NOW)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(90 * DAY, "90 days"), (DAY, "1 day"), (36 * 3600, "36 hours"), (90, "90 seconds"), (120, "2 minutes")],
)
def test_a_length_of_time_is_said_exactly(seconds: int, words: str) -> None:
    assert duration(seconds) == words


def test_what_is_ahead_is_said_to_the_nearest_unit() -> None:
    assert ahead(90 * DAY - 1) == "in 90 days"
    assert ahead(1.4 * DAY) == "in 1 day"
    assert ahead(3599) == "in 1 hour"
    assert ahead(DAY - 1) == "in 1 day"
    assert ahead(5) == "within a minute"


def test_the_public_address_is_the_one_to_paste() -> None:
    lines = tokens.shell_lines("https://mlflow.example.com/a b", "mlfpat_x")
    assert "export MLFLOW_TRACKING_URI='https://mlflow.example.com/a b'\n" in lines


# In a browser.


@pytest.mark.slow
@needs(CHROMIUM, DRIVER)
def test_a_person_makes_copies_and_revokes_a_token(site: AccountSite, kept: Path) -> None:
    site.identity = ROOT
    with window() as browser:
        browser.get(f"{site.url}/-/account")
        browser.find("#make-name").send_keys("nightly")
        Select(browser.find("#make-expiry")).select_by_value("date")
        day = time.strftime("%Y-%m-%d", time.gmtime(time.time() + 10 * DAY))
        browser.execute_script("arguments[0].value = arguments[1]", browser.find("#make-until"), day)
        browser.pictures(kept, "account-make")
        browser.find("#make button").click()
        browser.shows("it is never shown again")
        browser.pictures(kept, "account-token-made")
        fits(browser)
        secret = browser.find("#secret").text
        assert copied(browser, "secret") == secret
        assert copied(browser, "shell").splitlines()[1] == f"export MLFLOW_TRACKING_TOKEN={secret}"
        assert secret not in browser.current_url
        assert isinstance(site.who(secret), Identity)
        browser.find_text("To your account").click()
        browser.shows("Last used just now from 198.51.100.7")
        browser.shows("in 1")
        browser.find('summary[aria-label="Renew the token nightly"]').click()
        browser.pictures(kept, "account-tokens")
        fits(browser)
        browser.find('summary[aria-label="Revoke the token nightly"]').click()
        browser.find_text("Revoke nightly").click()
        browser.shows("The token is revoked")
        assert isinstance(site.who(secret), str)
        assert [entry["message"] for entry in browser.get_log("browser")] == []


@pytest.mark.slow
@needs(CHROMIUM, DRIVER)
def test_an_admin_works_with_service_accounts(site: AccountSite, kept: Path) -> None:
    site.identity = ROOT
    with window() as browser:
        browser.get(f"{site.url}/-/account")
        browser.find_text("Service accounts").click()
        for name in ("nightly", "deploy"):
            browser.find("#account-name").send_keys(name)
            browser.find("#account-description").send_keys("what it is for")
            browser.find_text("Make the account").click()
            browser.shows("The service account is there.")
        browser.find('summary[aria-label="Make a token for service:nightly"]').click()
        browser.find("#for-nightly-name").send_keys("dag")
        browser.find("#for-nightly button").click()
        browser.shows("it is never shown again")
        assert browser.find("#secret").text.startswith("mlfsat_")
        browser.find_text("To the service accounts").click()
        browser.find('summary[aria-label="Remove service:deploy"]').click()
        browser.pictures(kept, "account-service-accounts")
        fits(browser)
        browser.find_text("Remove service:deploy").click()
        browser.shows("is removed")
        assert browser.find_elements(By.ID, "account-deploy") == []
        # Refused: said beside the form, in view, with what was typed.
        browser.find('summary[aria-label="Make a token for service:nightly"]').click()
        browser.find("#for-nightly-name").send_keys("dag")
        browser.find("#for-nightly button").click()
        notice = browser.find("#for-nightly [role=alert]")
        assert "There is a token" in notice.text
        assert browser.execute_script("return arguments[0].getBoundingClientRect().top", notice) < 800
        browser.pictures(kept, "account-token-refused")
