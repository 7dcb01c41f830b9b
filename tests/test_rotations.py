"""docs/rotation.md, each secret that no other test exchanges: under clients that notice nothing."""

from __future__ import annotations

import contextlib
import re
import secrets
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import fake_provider
import pytest
import requests
from backup_site import site
from cryptography import x509
from doctor_site import fake_service, issue
from fake_provider import CLIENT_ID, CLIENT_SECRET
from service import Service, clean_environment

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
ASK = "/api/2.0/mlflow/experiments/get?experiment_id=0"


@contextlib.contextmanager
def busy(*clients: Callable[[requests.Session], requests.Response]) -> Iterator[list[object]]:
    """Those are called over and over, each in a session of its own; what was not answered with 200 is in the
    list, and at least one answer of each has come when it ends."""
    failed: list[object] = []
    over, answered = threading.Event(), [threading.Event() for _ in clients]

    def work(call: Callable[[requests.Session], requests.Response], once: threading.Event) -> None:
        with requests.Session() as session:
            session.trust_env = False
            while not over.is_set() or not once.is_set():
                try:
                    answer = call(session)
                    if answer.status_code != 200:
                        failed.append((answer.status_code, answer.text))
                except requests.RequestException as error:
                    failed.append(error)
                once.set()

    threads = [threading.Thread(target=work, args=pair) for pair in zip(clients, answered, strict=True)]
    for thread in threads:
        thread.start()
    try:
        for once in answered:
            assert once.wait(60)
        yield failed
        for once in answered:  # and once more, with what is in force now
            once.clear()
            assert once.wait(60)
    finally:
        over.set()
        for once in answered:
            once.set()
        for thread in threads:
            thread.join(60)


def command(service: Service, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "proxy", *arguments, "--data-dir", str(service.data)],
        capture_output=True,
        text=True,
        timeout=150,
        cwd=service.folder,
        env=clean_environment(),
    )
    assert done.returncode == 0, done.stdout + done.stderr + service.log()
    return done.stdout + done.stderr


def test_a_token_is_renewed_under_its_jobs(tmp_path: Path) -> None:
    with fake_service(tmp_path / "s") as service:

        def token(*arguments: str) -> tuple[str, str]:
            said = command(service, "token", *arguments)
            secret, shown = re.search(r"mlf[a-z]+_\w+", said), re.search(r"token ([0-9a-f]{16}) ", said)
            assert secret is not None, said
            assert shown is not None, said
            return secret[0], shown[1]

        in_use: dict[str, str] = {}

        def job(session: requests.Session) -> requests.Response:
            header = {"Authorization": f"Bearer {in_use['token']}"}
            return session.get(service.url + ASK, headers=header, timeout=60)

        command(service, "service-account", "add", "nightly", "--role", "editor")
        in_use["token"], id_ = token("create", "--service-account", "nightly", "--name", "jobs")
        old = in_use["token"]
        with busy(job, job) as failed:
            new, _ = token("renew", id_[:8], "--overlap", "24")
            still = requests.get(service.url + ASK, headers={"Authorization": f"Bearer {old}"}, timeout=60)
            assert still.status_code == 200, "both count"
            in_use["token"] = new
        assert failed == []
        with busy(job, job) as failed:
            assert id_ in command(service, "token", "list")
            command(service, "token", "revoke", id_[:8])
        assert failed == []
        deadline = time.monotonic() + 60
        while True:
            refused = requests.get(service.url + ASK, headers={"Authorization": f"Bearer {old}"}, timeout=60)
            if refused.status_code == 401:
                break
            assert time.monotonic() < deadline, refused.text
            time.sleep(0.1)


def test_a_certificate_of_another_authority_is_taken_up_under_load(tmp_path: Path) -> None:
    first = issue(tmp_path / "one", "first authority", authority=True)
    second = issue(tmp_path / "two", "second authority", authority=True)
    before, after = issue(tmp_path / "old", "localhost", first), issue(tmp_path / "new", "localhost", second)
    cert, key = tmp_path / "tls.crt", tmp_path / "tls.key"
    cert.write_bytes(before.chain.read_bytes())
    key.write_bytes(before.key_file.read_bytes())
    both = tmp_path / "both.pem"
    both.write_bytes(first.chain.read_bytes() + second.chain.read_bytes())
    with fake_service(
        tmp_path / "s",
        until="listening",
        PROXY_TLS="on",
        PROXY_TLS_CERT_FILE=str(cert),
        PROXY_TLS_KEY_FILE=str(key),
        PROXY_PUBLIC_URL="https://localhost",
    ) as service:
        url = f"https://localhost:{service.port}"
        deadline = time.monotonic() + 60
        while requests.get(f"{url}/readyz", verify=str(both), timeout=30).status_code != 200:
            assert time.monotonic() < deadline, service.log()
            time.sleep(0.1)

        def client(*, keeps: bool) -> Callable[[requests.Session], requests.Response]:
            def call(session: requests.Session) -> requests.Response:
                more = {} if keeps else {"Connection": "close"}
                return session.get(
                    url + ASK,
                    auth=(service.user, service.password),
                    verify=str(both),
                    headers=more,
                    timeout=60,
                )

            return call

        def served() -> int:
            context = ssl.create_default_context(cafile=both)
            with (
                socket.create_connection(("127.0.0.1", service.port), timeout=30) as plain,
                context.wrap_socket(plain, server_hostname="localhost") as tls,
            ):
                shown = tls.getpeercert(binary_form=True)
            assert shown is not None
            return x509.load_der_x509_certificate(shown).serial_number

        assert served() == before.certificate.serial_number
        with busy(client(keeps=True), client(keeps=False)) as failed:
            for made, place in ((after.key_file, key), (after.chain, cert)):
                beside = place.with_suffix(".new")
                beside.write_bytes(made.read_bytes())
                beside.rename(place)
            command(service, "reload")
            assert served() == after.certificate.serial_number
        assert failed == []


PUBLIC = "http://localhost:1"
NAVIGATION = {"Host": PUBLIC.removeprefix("http://"), "Accept": "text/html", "Sec-Fetch-Mode": "navigate"}


def sign_in(replica: Service) -> requests.Session:
    """A browser that has signed in at that replica of the service at PUBLIC. Cookies know no ports, so it
    shows its own to every replica."""
    person = requests.Session()
    person.trust_env = False

    def get(url: str) -> requests.Response:
        headers = NAVIGATION if url.startswith(replica.local) else {}
        return person.get(url, headers=headers, timeout=60, allow_redirects=False)

    started = get(f"{replica.local}/oauth2/start?rd=/")
    assert started.status_code == 303, started.text
    back = get(started.headers["location"]).headers["location"]
    done = get(back.replace(PUBLIC, replica.local))
    assert done.status_code == 303, done.text
    return person


def test_replicas_accept_each_others_cookies_at_each_step(tmp_path: Path) -> None:
    old, new = secrets.token_hex(32), secrets.token_hex(32)
    with contextlib.ExitStack() as stack:
        provider = stack.enter_context(fake_provider.running())
        files = [tmp_path / name for name in ("a.env", "b.env")]
        for file in files:
            file.write_text(f"PROXY_COOKIE_SECRET={old}\n")
        replicas = [
            stack.enter_context(
                fake_service(
                    tmp_path / file.stem,
                    PROXY_ENV_FILE=str(file),
                    PROXY_PUBLIC_URL=PUBLIC,
                    PROXY_DATABASE_URL=f"sqlite:///{tmp_path}/sessions.db",
                    MLFLOW_UI_OAUTH_ISSUER_URL=provider.issuer,
                    MLFLOW_UI_OAUTH_CLIENT_ID=CLIENT_ID,
                    MLFLOW_UI_OAUTH_CLIENT_SECRET=CLIENT_SECRET,
                    PROXY_DEFAULT_ROLE="viewer",
                )
            )
            for file in files
        ]
        people = [sign_in(replicas[0])]
        for value in (f"{old},{new}", f"{new},{old}"):
            for file, replica in zip(files, replicas, strict=True):
                file.write_text(f"PROXY_COOKIE_SECRET={value}\n")
                command(replica, "reload")
                people += [sign_in(where) for where in replicas]
                for number, person in enumerate(people):
                    for where in replicas:
                        answer = person.get(
                            f"{where.local}/oauth2/userinfo",
                            headers={**NAVIGATION, "Sec-Fetch-Mode": "cors"},
                            timeout=60,
                        )
                        assert answer.status_code == 200, (number, value, answer.text)


def test_backups_move_to_another_key_and_every_set_can_be_opened(tmp_path: Path) -> None:
    made = site(tmp_path / "site", artifacts=2)
    first = made.public
    made.run("backup")

    said = made.run("backup", "keygen", str(tmp_path / "new.key"))
    found = re.search(r"age1[0-9a-z]+", said)
    assert found is not None, said
    second = found[0]
    made.environment["PROXY_BACKUP_RECIPIENT"] = f"{second},{first}"
    made.run("backup")
    between = made.newest()
    assert set(between.encryption) == {first, second}
    made.environment["PROXY_BACKUP_RECIPIENT"] = second
    made.run("backup")
    assert made.newest().encryption == (second,)

    both = tmp_path / "both.key"
    both.write_bytes((tmp_path / "new.key").read_bytes() + made.key_file.read_bytes())
    sets = re.findall(r"\d{8}T\d{6}Z-[0-9a-f]+", made.run("backup", "list"))
    assert len(sets) == 3
    for number, name in enumerate(sets):
        other = made.elsewhere(tmp_path / f"other-{number}")
        other.environment["PROXY_BACKUP_IDENTITY_FILE"] = str(both)
        other.run("restore", name, "--yes")
        assert other.tables() == made.tables()
    other = made.elsewhere(tmp_path / "new-alone")
    other.environment["PROXY_BACKUP_IDENTITY_FILE"] = str(tmp_path / "new.key")
    other.run("restore", between.set, "--yes")
    other = made.elsewhere(tmp_path / "old-alone")
    other.run("restore", sets[2], "--yes", fails=True)


def test_every_rotation_names_the_tests_that_run_it() -> None:
    text = (HERE.parent / "docs" / "rotation.md").read_text()
    sections = re.split(r"^## ", text, flags=re.MULTILINE)[1:]
    assert len(sections) == 8
    for section in sections[:-1]:
        named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", section)
        assert named, section.splitlines()[0]
        for file, name in named:
            assert f"def {name}(" in (HERE.parent / file).read_text(), name
