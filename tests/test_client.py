"""The client: what login leaves, and where; its plugin sends that where it belongs, and renews it once."""

from __future__ import annotations

import ast
import configparser
import http.server
import json
import os
import re
import signal
import stat
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import identity_provider
import login_site
import mlflow_proxy_client
import pytest
import requests
from client_driver import Person
from identity_provider import EDITOR, OidcProvider, approve, authorize
from login_site import PASSWORD, USER, LoginSite
from mlflow.utils.credentials import read_mlflow_creds
from mlflow_proxy_client import login as rooms
from mlflow_proxy_client import mlflow_file, renewal
from mlflow_proxy_client.addresses import covers, server_url
from mlflow_proxy_client.credentials import CredentialsFile, Entry, Grant, OwnToken
from mlflow_proxy_client.errors import Ended, Problem
from mlflow_proxy_client.oauth import Client, Tokens
from mlflow_proxy_client.plugin import Auth
from mlflow_proxy_client.server import Server, SignIn

import proxy

ROOT = Path(__file__).parent.parent
SERVER = "https://mlflow.example.com"


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OidcProvider]:
    if not identity_provider.installed():
        pytest.skip("not installed: node and oidc-provider (npm ci --ignore-scripts)")
    folder = tmp_path_factory.mktemp("provider")
    ttl = {"AccessToken": 4, "DeviceCode": 300}
    with identity_provider.provider(folder, "http://127.0.0.1:1", ttl=ttl) as running:
        yield running


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, provider: OidcProvider) -> Iterator[LoginSite]:
    with login_site.login_site(tmp_path_factory.mktemp("site"), provider.issuer, prefix="/ml") as running:
        yield running


@pytest.fixture(scope="module")
def passwords_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoginSite]:
    """Without an identity provider."""
    with login_site.login_site(tmp_path_factory.mktemp("passwords")) as running:
        yield running


@pytest.fixture
def person(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Person:
    """Somebody new; what runs in the test's own process has the same home."""
    monkeypatch.setenv("HOME", str(tmp_path))
    return Person(tmp_path)


@pytest.fixture(autouse=True)
def _untouched(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "site" in request.fixturenames:
        site = request.getfixturevalue("site")
        site.sent.clear()
        site.refuse.clear()
        site.redirect = None
        request.getfixturevalue("provider").set_down("")


def kept(person: Person) -> dict[str, Any]:
    return dict(json.loads((person.folder / "mlflow-proxy.json").read_text())["servers"])


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def signed_in(person: Person, site: LoginSite, provider: OidcProvider, *more: str, user: str = EDITOR) -> str:
    done = person.sign_in(
        lambda url: requests.get(authorize(url, user), timeout=10), site.url, "--no-browser", *more
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# ---- which server a credential is for ----


@pytest.mark.parametrize(
    ("typed", "server"),
    [
        ("https://MLflow.example.com/", SERVER),
        ("https://mlflow.example.com:443/#/experiments/0", SERVER),
        ("https://mlflow.example.com:8443/ml/?a=b", "https://mlflow.example.com:8443/ml"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("http://[::1]:5000/", "http://[::1]:5000"),
    ],
)
def test_a_server_is_known_by_its_address_alone(typed: str, server: str) -> None:
    assert server_url(typed) == server


@pytest.mark.parametrize(
    ("typed", "why"),
    [
        ("http://mlflow.example.com", "not encrypted"),
        ("http://127.0.0.1.example.com", "not encrypted"),
        ("https://ann:secret@mlflow.example.com", "leave the user name and password out"),
        ("mlflow.example.com", "is not the URL of a server"),
        ("file:///etc/passwd", "is not the URL of a server"),
        ("https://mlflow.example.com:port", "is not a URL"),
    ],
)
def test_what_can_not_take_a_credential_is_refused(typed: str, why: str) -> None:
    with pytest.raises(Problem, match=why):
        server_url(typed)


@pytest.mark.parametrize(
    ("url", "covered"),
    [
        (f"{SERVER}/ml", True),
        (f"{SERVER}/ml/api/2.0/mlflow/runs/create", True),
        (f"{SERVER}:443/ml/", True),
        (f"{SERVER}/mlother/api", False),
        (f"{SERVER}/", False),
        (f"{SERVER}/ml/../other", False),
        (f"{SERVER}/ml/%2e%2e/other", False),
        (f"{SERVER}:8443/ml/api", False),
        ("http://mlflow.example.com/ml/api", False),
        ("https://mlflow.example.com.evil.example/ml/api", False),
        ("https://mlflow.example.com@evil.example/ml/api", False),
        ("https://evil.example/ml/api", False),
    ],
)
def test_a_credential_is_for_one_server_and_what_lies_below_it(url: str, covered: bool) -> None:
    assert covers(f"{SERVER}/ml", url) is covered


def test_of_two_servers_on_one_host_the_nearer_one_is_meant(person: Person) -> None:
    file = CredentialsFile()
    with file.locked():
        for server in (SERVER, f"{SERVER}/ml"):
            file.put(server, Entry("ann", token=OwnToken("id", "name", f"for {server}", None)))
    found = file.find(f"{SERVER}/ml/api")
    assert found is not None
    assert found[0] == f"{SERVER}/ml"


# ---- the files ----


def test_what_is_kept_is_its_owners_alone(person: Person) -> None:
    old = os.umask(0)
    try:
        person.folder.mkdir(mode=0o777)
        (person.folder / "credentials").write_text("")
        (person.folder / "credentials").chmod(0o666)
        file = CredentialsFile()
        with file.locked():
            file.put(SERVER, Entry("ann"))
        mlflow_file.write("ann", "a-token")
    finally:
        os.umask(old)
    assert mode(person.folder) == 0o700
    assert {mode(path) for path in person.folder.iterdir()} == {0o600}


def test_a_writer_that_is_killed_leaves_a_whole_file(person: Person) -> None:
    script = (
        "from mlflow_proxy_client.credentials import *\n"
        "file = CredentialsFile()\n"
        "for number in range(10**9):\n"
        " with file.locked(): file.put(f'https://{number % 50}.example.com', Entry('x' * 2000))\n"
        " print(end='' if number else '\\n', flush=True)\n"
    )
    for wait in range(8):
        process = subprocess.Popen(
            [sys.executable, "-c", script], stdout=subprocess.PIPE, env=person.variables()
        )
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.02 + wait * 0.01)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        with CredentialsFile().locked():  # the dead have no lock
            assert CredentialsFile().read()


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"version": 1}', '{"version": 1, "servers": {"a": {"b": 1}}}']
)
def test_a_damaged_file_is_said_and_not_replaced(person: Person, text: str) -> None:
    person.folder.mkdir()
    (person.folder / "mlflow-proxy.json").write_text(text)
    assert "is damaged; remove it" in person.refused("whoami", SERVER)
    assert (person.folder / "mlflow-proxy.json").read_text() == text


def test_the_file_of_a_newer_version_is_left_alone(person: Person) -> None:
    person.folder.mkdir()
    (person.folder / "mlflow-proxy.json").write_text('{"version": 2, "servers": []}')
    assert "is of another version (2)" in person.refused("logout", SERVER)


OTHERS = "# mine\n[default]\nregion = here\n\n[mlflow]\n# not a secret\nmlflow_tracking_uri = x\n"


@pytest.mark.parametrize("user", ["ann", "ann@example.com", "100%", "service:nightly", " ann", "Ünï"])
@pytest.mark.parametrize(
    "before",
    [
        "",
        OTHERS,
        OTHERS + "mlflow_tracking_username = old\nmlflow_tracking_password = \n  continued\n[z]\na=b",
        "[mlflow]\nMLFLOW_TRACKING_PASSWORD: old",
    ],
)
def test_mlflow_finds_the_token_and_what_else_was_there_stays(
    person: Person, monkeypatch: pytest.MonkeyPatch, user: str, before: str
) -> None:
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.delenv(name, raising=False)
    person.folder.mkdir()
    path = person.folder / "credentials"
    path.write_text(before)
    mlflow_file.write(user, "mlfpat_new")
    found = read_mlflow_creds()
    assert found.password == "mlfpat_new"
    # A colon would end the name in a Basic header; the server goes by the token.
    assert found.username == (user if user in ("ann", "ann@example.com", "100%", "Ünï") else "token")
    parser = configparser.ConfigParser()
    parser.read(path)
    if "default" in before:
        assert parser["default"]["region"] == "here"
        assert parser["mlflow"]["mlflow_tracking_uri"] == "x"
        assert "# mine\n" in path.read_text()
        assert "# not a secret\n" in path.read_text()
    assert mlflow_file.remove("another") is False
    assert mlflow_file.remove("mlfpat_new") is True
    assert path.exists() is ("default" in before)
    assert read_mlflow_creds() == (None, None)


def test_a_file_that_mlflow_can_not_read_is_left_as_it_is(person: Person) -> None:
    person.folder.mkdir()
    (person.folder / "credentials").write_text("no section\n")
    with pytest.raises(Problem, match="can't be read by MLflow either"):
        mlflow_file.write("ann", "token")
    assert (person.folder / "credentials").read_text() == "no section\n"


def test_a_link_to_a_file_elsewhere_stays_one(person: Person) -> None:
    person.folder.mkdir()
    elsewhere = person.home / "elsewhere"
    elsewhere.write_text("")
    (person.folder / "credentials").symlink_to(elsewhere)
    mlflow_file.write("ann", "token")
    assert (person.folder / "credentials").is_symlink()
    assert "token" in elsewhere.read_text()
    assert mode(elsewhere) == 0o600


# ---- signing in ----


def test_by_device(person: Person, site: LoginSite, provider: OidcProvider) -> None:
    done = person.sign_in(lambda url: approve(url, EDITOR), site.url, "--device")
    assert done.returncode == 0, done.stderr
    said = done.stdout
    assert f"Signed in to {site.url} as bob@example.com." in said
    user, password = mlflow_file.read()
    assert user == "bob@example.com"
    assert password is not None
    assert password.startswith("mlfpat_")
    assert {mode(path) for path in person.folder.iterdir()} == {0o600}
    told = person.done("whoami")
    assert "bob@example.com (editor) at" in told
    assert "access token of 'mlflow-cli'" in told
    # As MLflow's client has it, by its own environment and file.
    told = person.done("whoami", MLFLOW_TRACKING_URI=site.url)
    assert "with the token 'login on " in told
    assert str(person.folder / "credentials") in told


def test_by_the_browser_of_this_machine(person: Person, site: LoginSite, provider: OidcProvider) -> None:
    def browser(url: str) -> None:
        query = parse_qs(urlsplit(url).query)
        assert query["code_challenge_method"] == ["S256"]
        back = authorize(url, EDITOR)
        # Whatever else comes to the port changes nothing.
        own = f"http://{urlsplit(back).netloc}"
        assert requests.get(f"{own}/favicon.ico", timeout=10).status_code == 404
        wrong = f"{own}/callback?{urlencode({'code': 'mine', 'state': 'guessed'})}"
        assert requests.get(wrong, timeout=10).status_code == 404
        page = requests.get(back, timeout=10)
        assert page.status_code == 200
        assert "You are signed in" in page.text

    done = person.sign_in(browser, site.url, "--no-browser", "--no-token")
    assert done.returncode == 0, done.stderr
    assert "bob@example.com" in done.stdout
    assert not (person.folder / "credentials").exists()
    assert kept(person)[site.url]["grant"]["tokens"]["refresh"]


def test_a_browser_is_opened_where_there_is_one(
    person: Person, site: LoginSite, provider: OidcProvider
) -> None:
    opened = person.home / "opened"
    script = person.home / "browser"
    script.write_text(f'#!/bin/sh\necho "$1" >{opened}\n')
    script.chmod(0o700)
    seen: list[str] = []

    def browser(url: str) -> None:
        seen.append(url)
        requests.get(authorize(url, EDITOR), timeout=10)

    person.environment["BROWSER"] = f"{script} %s"
    done = person.sign_in(browser, site.url, "--browser", "--no-token")
    assert done.returncode == 0, done.stderr
    assert opened.read_text().strip() == seen[0]


def test_a_server_that_names_another_server_s_audience_is_refused(
    person: Person, site: LoginSite, provider: OidcProvider, tmp_path: Path
) -> None:
    """It would be sent an access token that opens the other one."""
    done = person.sign_in(lambda url: approve(url, EDITOR), site.url, "--device", "--no-token")
    assert done.returncode == 0, done.stderr
    before = kept(person)
    with login_site.login_site(tmp_path / "other", provider.issuer) as other:
        refused = person.run("login", other.url, "--device", "--no-token")
        assert refused.returncode == 1
        assert f"an access token that is for {site.url}" in refused.stderr
        assert "Signing in to" not in refused.stderr
        assert kept(person) == before
        done = person.sign_in(
            lambda url: approve(url, EDITOR), other.url, "--device", "--no-token", "--force"
        )
        assert done.returncode == 0, done.stderr
        # And again to the first: what is known of it is its own.
        again = person.run("login", site.url, "--device", "--no-token")
        assert f"an access token that is for {other.url}" in again.stderr


@pytest.mark.parametrize(
    ("audience", "noted"),
    [
        ("", False),
        ("mlflow", False),
        ("https://mlflow.example.com", False),
        ("https://mlflow.example.com/", False),
        ("https://mlflow.example.com/team/", False),
        ("https://mlflow.example.com/other", True),
        ("https://mlflow.example.com.evil.example", True),
        ("https://api.example.com", True),
        ("http://mlflow.example.com", True),
    ],
)
def test_an_audience_that_is_another_address_is_pointed_out(audience: str, noted: bool) -> None:
    said: list[str] = []
    offered = SignIn(("provider",), "https://id.example.com", "cli", "openid", audience, "")
    rooms._check_audience(Server("https://mlflow.example.com/team"), offered, rooms.Wishes(), {}, said.append)
    assert bool(said) is noted


@pytest.mark.parametrize(
    ("other", "refused"),
    [
        ({}, True),
        ({"audience": "another"}, False),
        ({"issuer": "https://id.example.net"}, False),
        ({"audience": ""}, False),
    ],
)
def test_whose_audience_is_known_to_be_another_server_s_is_refused(
    other: dict[str, Any], refused: bool
) -> None:
    client = Client("https://id.example.com", "cli", "openid", "mlflow", "https://id.example.com/token")
    known = {"https://a.example.com": Entry("ada", Grant(client, Tokens("access", "refresh", 0.0, None)))}
    offered = replace(SignIn(("provider",), "https://id.example.com", "cli", "openid", "mlflow", ""), **other)

    def check(url: str, wishes: rooms.Wishes) -> bool:
        try:
            rooms._check_audience(Server(url), offered, wishes, known, lambda _: None)
        except Problem as problem:
            return "for https://a.example.com" in str(problem)
        return False

    assert check("https://b.example.com", rooms.Wishes()) is refused
    assert not check("https://a.example.com", rooms.Wishes())
    assert not check("https://b.example.com", rooms.Wishes(any_audience=True))


def test_an_answer_that_names_another_provider_is_refused(person: Person, site: LoginSite) -> None:
    def browser(url: str) -> None:
        query = parse_qs(urlsplit(url).query)
        fields = {"code": "x", "state": query["state"][0], "iss": "https://evil.example"}
        requests.get(f"{query['redirect_uri'][0]}?{urlencode(fields)}", timeout=10)

    done = person.sign_in(browser, site.url, "--no-browser")
    assert done.returncode == 1
    assert "is from another provider (https://evil.example)" in done.stderr
    assert not person.folder.exists()


@pytest.mark.parametrize("way", [pytest.param("--device", marks=pytest.mark.slow), "--no-browser"])
def test_a_person_who_says_no_is_not_signed_in(person: Person, site: LoginSite, way: str) -> None:
    def browser(url: str) -> None:
        if way == "--device":
            approve(url, EDITOR, abort=True)
            return
        query = parse_qs(urlsplit(url).query)
        fields = {"error": "access_denied", "state": query["state"][0], "iss": identity_of(url)}
        requests.get(f"{query['redirect_uri'][0]}?{urlencode(fields)}", timeout=10)

    done = person.sign_in(browser, site.url, way)
    assert done.returncode == 1
    said = "refused in the browser" if way == "--device" else "refuses the sign-in: access_denied"
    assert said in done.stderr
    assert not person.folder.exists()


def identity_of(url: str) -> str:
    return f"{urlsplit(url).scheme}://{urlsplit(url).netloc}"


def test_somebody_without_a_role_is_told_so(person: Person, site: LoginSite, provider: OidcProvider) -> None:
    stranger = identity_provider.STRANGER
    done = person.sign_in(
        lambda url: requests.get(authorize(url, stranger), timeout=10), site.url, "--no-browser"
    )
    assert done.returncode == 1
    assert "role" in done.stderr
    assert not person.folder.exists()


def test_by_password(person: Person, passwords_site: LoginSite) -> None:
    url = passwords_site.url
    said = person.done("login", url, "--username", USER, "--name", "mine", "--days", "2", typed=PASSWORD)
    assert "as tester" in said
    entry = kept(person)[url]
    assert entry["token"]["name"] == "mine"
    assert entry["token"]["expires"] == pytest.approx(time.time() + 2 * 86400, abs=60)
    assert PASSWORD not in (person.folder / "mlflow-proxy.json").read_text()
    assert PASSWORD not in (person.folder / "credentials").read_text()
    login = ("login", url, "--username", USER)
    assert "There is a token 'mine'" in person.refused(*login, "--name", "mine", typed=PASSWORD)
    assert "wrong" in person.refused(*login, typed="not it")


def test_with_a_token_made_elsewhere(person: Person, passwords_site: LoginSite) -> None:
    made = requests.post(
        f"{passwords_site.url}/-/api/tokens",
        json={"name": "from the page"},
        auth=(USER, PASSWORD),
        timeout=10,
    ).json()
    said = person.done("login", passwords_site.url, "--with-token", typed=made["token"] + "\n")
    assert "'from the page'" in said
    assert mlflow_file.read() == (USER, made["token"])
    login = ("login", passwords_site.url, "--with-token")
    assert "not whole: its checksum is wrong" in person.refused(*login, typed=made["token"][:-1])
    assert "token" in person.refused(*login, typed="something else")
    assert "standard input" in person.refused(*login)


def test_the_token_of_an_earlier_login_is_revoked(person: Person, passwords_site: LoginSite) -> None:
    url = passwords_site.url
    secrets = []
    for _ in range(2):
        person.done("login", url, "--username", USER, typed=PASSWORD)
        secrets.append(str(mlflow_file.read()[1]))
    answers = [requests.get(f"{url}/-/whoami", auth=("x", secret), timeout=10) for secret in secrets]
    assert [answer.status_code for answer in answers] == [401, 200]
    assert "revoked" in answers[0].json()["message"]


def test_logout_revokes_and_removes_all_of_it(
    person: Person, site: LoginSite, provider: OidcProvider
) -> None:
    signed_in(person, site, provider)
    entry = kept(person)[site.url]
    assert "Signed out" in person.done("logout", site.url)
    assert kept(person) == {}
    assert not (person.folder / "credentials").exists()
    answer = requests.get(f"{site.url}/-/whoami", auth=("x", entry["token"]["secret"]), timeout=10)
    assert answer.status_code == 401
    renewed = requests.post(
        entry["grant"]["client"]["token_endpoint"],
        data={
            "grant_type": "refresh_token",
            "client_id": identity_provider.NATIVE,
            "refresh_token": entry["grant"]["tokens"]["refresh"],
        },
        timeout=10,
    )
    assert renewed.status_code == 400
    assert "nobody is signed in" in person.refused("logout", site.url)


def test_logout_removes_what_it_can_not_revoke_and_says_so(person: Person, tmp_path: Path) -> None:
    with login_site.login_site(tmp_path / "site") as site:
        person.done("login", site.url, "--username", USER, typed=PASSWORD)
    run = person.run("logout")
    assert run.returncode == 1
    assert "could not be revoked, and counts until it expires: the token 'login on" in run.stderr
    assert kept(person) == {}
    assert not (person.folder / "credentials").exists()


def test_a_credential_of_somebody_elses_is_not_replaced(person: Person, passwords_site: LoginSite) -> None:
    person.folder.mkdir()
    theirs = "[mlflow]\nmlflow_tracking_username = ann\nmlflow_tracking_password = hers\n"
    (person.folder / "credentials").write_text(theirs)
    login = ("login", passwords_site.url, "--username", USER)
    assert "'ann' that was not left by mlflow-proxy login; --force" in person.refused(*login, typed=PASSWORD)
    assert (person.folder / "credentials").read_text() == theirs
    person.done(*login, "--force", typed=PASSWORD)
    assert mlflow_file.read()[0] == USER


def test_a_second_server_takes_mlflows_file_and_the_plugin_has_both(
    person: Person, passwords_site: LoginSite, tmp_path: Path
) -> None:
    with login_site.login_site(tmp_path / "site") as other:
        for server in (passwords_site, other):
            run = person.run("login", server.url, "--username", USER, typed=PASSWORD)
            assert run.returncode == 0
        assert f"had the token for {passwords_site.url}, and holds one alone" in run.stderr
        for server in (passwords_site, other):
            answer = requests.get(f"{server.url}/api/x", auth=Auth(CredentialsFile()), timeout=10)
            assert answer.json()["user"] == USER
        assert "name one of the servers" in person.refused("whoami")


def test_a_server_that_is_no_mlflow_proxy_is_said_to_be_none(person: Person) -> None:
    with bare_server() as (url, _):
        assert "is not served by mlflow-proxy" in person.refused("login", url)


def test_what_is_in_netrc_goes_nowhere(person: Person) -> None:
    (person.home / ".netrc").write_text("machine 127.0.0.1 login ann password hers\n")
    (person.home / ".netrc").chmod(0o600)
    with bare_server() as (url, seen):
        person.refused("login", url)
    assert seen == [("/-/login.json", None)]


def test_what_is_not_encrypted_goes_through_no_proxy(person: Person, passwords_site: LoginSite) -> None:
    with bare_server() as (url, seen):
        login = ("login", passwords_site.url, "--username", USER)
        person.done(*login, typed=PASSWORD, HTTP_PROXY=url, http_proxy=url, ALL_PROXY=url)
    assert seen == []


def test_options_that_exclude_each_other_are_said(person: Person) -> None:
    assert "exclude each other" in person.refused("login", SERVER, "--with-token", "--device")
    assert "--no-token" in person.refused("login", SERVER, "--username", "ann", "--no-token")


def test_a_variable_that_counts_before_it_is_pointed_out(person: Person, passwords_site: LoginSite) -> None:
    run = person.run(
        "login", passwords_site.url, "--username", USER, typed=PASSWORD, MLFLOW_TRACKING_PASSWORD="other"
    )
    assert "MLFLOW_TRACKING_PASSWORD is set and counts before" in run.stderr


# ---- the plugin ----


@contextmanager
def bare_server(location: str | None = None) -> Iterator[tuple[str, list[tuple[str, str | None]]]]:
    """A server of somebody else's, and what it was sent: path and Authorization."""
    seen: list[tuple[str, str | None]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append((self.path, self.headers["Authorization"]))
            self.send_response(404 if location is None else 307)
            if location is not None:
                self.send_header("Location", location)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", seen
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def grant(person: Person, site: LoginSite, provider: OidcProvider) -> CredentialsFile:
    """Signed in without a token of the server's: access tokens alone, good for 4 s each."""
    signed_in(person, site, provider, "--no-token")
    return CredentialsFile()


def call(site: LoginSite, file: CredentialsFile, **more: Any) -> requests.Response:
    return requests.post(f"{site.url}/api/2.0/mlflow/x", auth=Auth(file), timeout=60, **more)


def change(file: CredentialsFile, site: LoginSite, **tokens: Any) -> None:
    """As if time had passed."""
    with file.locked():
        entry = file.read()[site.url]
        assert entry.grant is not None
        newer = replace(entry.grant, tokens=replace(entry.grant.tokens, **tokens))
        file.put(site.url, replace(entry, grant=newer))


def refreshes(provider: OidcProvider) -> int:
    return provider.token_requests().get("refresh_token", 0)


def test_mlflow_finds_the_plugin() -> None:
    (found,) = [
        one for one in entry_points(group="mlflow.request_auth_provider") if one.name == "mlflow-proxy"
    ]
    assert found.load()().get_name() == "mlflow-proxy"


@pytest.mark.slow
def test_processes_that_share_the_file_renew_once(
    person: Person, site: LoginSite, provider: OidcProvider, grant: CredentialsFile
) -> None:
    script = (
        "import sys, time, requests\n"
        "from mlflow_proxy_client.plugin import RequestAuthProvider\n"
        "auth = RequestAuthProvider().get_auth()\n"
        "end = time.monotonic() + 14\n"
        "statuses = set()\n"
        "with requests.Session() as session:\n"
        " while time.monotonic() < end:\n"
        "  statuses.add(session.post(sys.argv[1], auth=auth, timeout=30).status_code)\n"
        "  time.sleep(0.02)\n"
        "print(statuses)\n"
    )
    before = refreshes(provider)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, f"{site.url}/api/x"],
            stdout=subprocess.PIPE,
            text=True,
            env=person.variables(),
        )
        for _ in range(4)
    ]
    assert [process.communicate(timeout=60)[0] for process in processes] == ["{200}\n"] * 4
    used = {sent for sent in site.sent if sent}
    assert len(used) >= 4
    # The first came with the sign-in. One renewed at the very end may not have been used.
    assert len(used) - 1 <= refreshes(provider) - before <= len(used)


def test_threads_of_one_process_renew_once(
    site: LoginSite, provider: OidcProvider, grant: CredentialsFile
) -> None:
    change(grant, site, expires=time.time() - 1)
    before, statuses = refreshes(provider), []
    auth = Auth(grant)

    def run() -> None:
        statuses.append(requests.get(f"{site.url}/api/x", auth=auth, timeout=30).status_code)

    threads = [threading.Thread(target=run) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [200] * 12
    assert refreshes(provider) == before + 1


def test_a_token_that_another_process_has_just_renewed_is_not_renewed_again(
    site: LoginSite, provider: OidcProvider, grant: CredentialsFile
) -> None:
    before = refreshes(provider)
    renewal.renew_meanwhile(grant, site.url)  # what it saw before it had the lock was an older one
    assert refreshes(provider) == before


def test_a_refused_token_is_renewed_and_the_upload_sent_again_whole(
    site: LoginSite, provider: OidcProvider, grant: CredentialsFile, tmp_path: Path
) -> None:
    old = site_token(grant, site)
    change(grant, site, obtained=time.time() - 60, expires=time.time() + 600)
    site.refuse.add(f"Bearer {old}")
    (tmp_path / "file").write_bytes(b"x" * 300_000)
    with (tmp_path / "file").open("rb") as file:
        file.seek(1000)
        answer = call(site, grant, data=file)
    assert answer.json() == {"user": "bob@example.com", "size": 299_000}
    assert [sent == f"Bearer {old}" for sent in site.sent] == [True, False]


def test_a_body_that_can_not_be_sent_again_is_not(
    site: LoginSite, provider: OidcProvider, grant: CredentialsFile
) -> None:
    old = site_token(grant, site)
    change(grant, site, obtained=time.time() - 60, expires=time.time() + 600)
    site.refuse.add(f"Bearer {old}")
    assert call(site, grant, data=iter([b"x" * 1000])).status_code == 401
    assert len(site.sent) == 1
    assert call(site, grant, data=b"x").status_code == 200  # what comes next has the new one


def test_a_token_that_is_refused_when_new_is_not_renewed_for_it(
    site: LoginSite, provider: OidcProvider, grant: CredentialsFile
) -> None:
    change(grant, site, obtained=time.time(), expires=time.time() + 600)
    site.refuse.add(f"Bearer {site_token(grant, site)}")
    before = refreshes(provider)
    for _ in range(3):
        answer = call(site, grant)
        assert answer.status_code == 401
        assert answer.json()["message"] == "Not this one."
    assert refreshes(provider) == before


def test_a_sign_in_that_has_ended_is_said_with_the_command_that_mends_it(
    person: Person, site: LoginSite, provider: OidcProvider, grant: CredentialsFile
) -> None:
    change(grant, site, expires=time.time() - 1, refresh="revoked long ago")
    refused = "invalid_grant refresh token not found"
    before = provider.log.read_text().count(refused)
    for _ in range(3):
        with pytest.raises(Ended, match="invalid_grant") as caught:
            call(site, grant)
        assert f"run `mlflow-proxy login {site.url}`" in str(caught.value)
    assert provider.log.read_text().count(refused) == before + 1
    assert site.sent == []
    assert "run `mlflow-proxy login" in person.refused("whoami")
    signed_in(person, site, provider, "--no-token")
    assert call(site, grant).status_code == 200


def test_a_provider_that_is_away_is_no_matter_while_the_token_counts(
    site: LoginSite, provider: OidcProvider, grant: CredentialsFile
) -> None:
    change(grant, site, obtained=time.time() - 596)  # of its 600 s, the last 4
    provider.set_down("/token")
    for _ in range(5):
        assert call(site, grant).status_code == 200
    assert len(set(site.sent)) == 1


@pytest.mark.slow
def test_a_provider_that_comes_back_is_waited_for(
    site: LoginSite, provider: OidcProvider, grant: CredentialsFile
) -> None:
    change(grant, site, expires=time.time() - 1)
    provider.set_down("/token")
    back = threading.Timer(3, provider.set_down, [""])
    back.start()
    assert call(site, grant).status_code == 200
    back.join()


def test_a_token_of_the_servers_takes_over_where_nothing_can_be_renewed(
    person: Person, site: LoginSite, provider: OidcProvider
) -> None:
    signed_in(person, site, provider)
    file = CredentialsFile()
    change(file, site, expires=time.time() - 1, refresh="revoked long ago")
    assert call(site, file).status_code == 200
    assert site.sent[-1].startswith("Bearer mlfpat_")


def test_a_folder_that_is_read_only_is_said(
    site: LoginSite, provider: OidcProvider, grant: CredentialsFile, tmp_path: Path
) -> None:
    change(grant, site, expires=time.time() - 1)
    lock = grant.path.with_suffix(".lock")
    lock.unlink()
    lock.mkdir()  # root may write to what is read-only
    with pytest.raises(Problem, match="can't be written"):
        call(site, grant)


def test_the_credential_goes_to_no_other_server(
    site: LoginSite, provider: OidcProvider, grant: CredentialsFile
) -> None:
    with bare_server() as (url, seen):
        requests.get(f"{url}/ml/api/x", auth=Auth(grant), timeout=10)
        site.redirect = f"{url}/ml/api/x"
        requests.get(f"{site.url}/api/x", auth=Auth(grant), timeout=10)
    assert seen == [("/ml/api/x", None), ("/ml/api/x", None)]


@pytest.mark.parametrize("path", ["/other/api/x", "/ml/../other/x", "/mlother"])
def test_a_redirect_to_another_folder_of_the_host_takes_the_credential_along_to_nobody(
    site: LoginSite, provider: OidcProvider, grant: CredentialsFile, path: str
) -> None:
    site.redirect = path
    with pytest.raises(requests.TooManyRedirects):
        requests.get(f"{site.url}/api/x", auth=Auth(grant), timeout=10)
    assert site.sent[0].startswith("Bearer ")
    assert set(site.sent[1:]) == {""}


def test_a_redirect_within_the_server_keeps_it(
    site: LoginSite, provider: OidcProvider, grant: CredentialsFile
) -> None:
    site.redirect = "/ml/api/y"
    with pytest.raises(requests.TooManyRedirects):
        requests.get(f"{site.url}/api/x", auth=Auth(grant), timeout=10)
    assert "" not in site.sent


def test_who_is_not_signed_in_is_told_what_to_run(person: Person, passwords_site: LoginSite) -> None:
    with pytest.raises(Problem, match=f"run `mlflow-proxy login {passwords_site.url}`"):
        requests.get(f"{passwords_site.url}/api/x", auth=Auth(CredentialsFile()), timeout=10)


def site_token(file: CredentialsFile, site: LoginSite) -> str:
    grant = file.read()[site.url].grant
    assert grant is not None
    return grant.tokens.access


# ---- the distribution ----


def test_the_client_needs_requests_and_click_alone() -> None:
    project = tomllib.loads((ROOT / "client" / "pyproject.toml").read_text())["project"]
    assert [re.split(r"[><=]", text)[0] for text in project["dependencies"]] == ["requests", "click"]
    allowed = {"requests", "click", "mlflow_proxy_client", *sys.stdlib_module_names}
    for path in (ROOT / "client" / "mlflow_proxy_client").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [str(node.module)]
            assert {name.partition(".")[0] for name in names} <= allowed, path


def test_mlflow_loads_nothing_of_ours_but_what_a_call_needs() -> None:
    code = "import sys, mlflow_proxy_client.plugin; print('click' in sys.modules, 'mlflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "False False\n"


def test_client_and_server_are_of_one_version() -> None:
    assert mlflow_proxy_client.__version__ == proxy.__version__
    server = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert f"mlflow-proxy-client>={proxy.__version__}" in server["dependencies"]
