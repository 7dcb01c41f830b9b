"""`mlflow-proxy doctor`, the public URL: what nginx in front does to requests, and what is said of it."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import requests
from doctor_site import Told, doctor, fake_service, issue, nginx
from programs import needs
from service import PASSWORD, USER, Service, free_port

from proxy import control

pytestmark = [pytest.mark.slow, needs("nginx")]

GOOD = """
    client_max_body_size 0;
    location / {
        proxy_pass UPSTREAM;
        proxy_http_version 1.1;
        proxy_set_header Host $http_host;
        proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
        proxy_request_buffering off;
        proxy_buffering off;
        proxy_read_timeout 600s;
    }
"""
# Each is GOOD but for one thing.
WAYS = {
    "good": GOOD,
    "bodies of 1 MiB": GOOD.replace("client_max_body_size 0;", ""),
    "bodies of 50 MiB": GOOD.replace("client_max_body_size 0;", "client_max_body_size 50m;"),
    "bodies of 5 GiB": GOOD.replace("client_max_body_size 0;", "client_max_body_size 5g;"),
    # With HTTP/1.1 nginx passes each chunk on.
    "held back": GOOD.replace("proxy_http_version 1.1;", "").replace(
        "proxy_request_buffering off;\n        proxy_buffering off;", ""
    ),
    "impatient": GOOD.replace("600s", "1s"),
    "another host": GOOD.replace("$http_host", "mlflow.internal"),
    "posing": GOOD.replace("$proxy_add_x_forwarded_for", "$http_x_forwarded_for"),
    "silent": GOOD.replace("proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;",
                           'proxy_set_header X-Forwarded-For ""; proxy_set_header Via "1.1 front";'),
    "without credentials": GOOD.replace(
        "proxy_buffering", 'proxy_set_header Authorization ""; proxy_buffering'
    ),
    "to nobody": GOOD.replace("UPSTREAM", "http://127.0.0.1:1"),
    "sent on": "location / { return 301 https://elsewhere.example.com$request_uri; }",
    "signs in by itself": "location / { return 401 'who are you'; }",
    "another program": "location / { default_type text/html; return 200 '<h1>Welcome</h1>'; }",
}  # fmt: skip


class Front:
    """A service, and nginx in front of it in many ways."""

    def __init__(self, service: Service, ports: dict[str, int]) -> None:
        self.service = service
        self.ports = ports

    def look(
        self,
        way: str,
        *checks: str,
        trusting: Service | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> Told:
        url = f"http://localhost:{self.ports[way]}"
        data = (trusting or self.service).data
        return doctor(
            *checks, "--data-dir", data, "--url", url, cwd=self.service.folder, environment=environment
        )


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    folder = tmp_path_factory.mktemp("f")
    ports = {way: free_port() for way in WAYS}
    with fake_service(folder / "service", PROXY_HOLD_SECONDS="3") as service:
        blocks = [
            f"server {{ listen 127.0.0.1:{port}; {WAYS[way].replace('UPSTREAM', service.local)} }}"
            for way, port in ports.items()
        ]
        with nginx(folder / "nginx", *blocks):
            yield Front(service, ports)


def test_a_good_terminator_is_found_good_but_for_whom_it_is_not_named_as_trusted(front: Front) -> None:
    told = front.look("good", "front", "time", "address")
    assert told.wrong() == {("front", "addresses")}, told.text
    told.says("front", "addresses", "warning", "PROXY_TRUSTED_PROXIES=127.0.0.1")
    told.says("front", "stream", "ok")
    told.says("front", "body", "ok", "10 GiB")
    told.says("time", "time", "ok")
    assert told.code == 1


@pytest.mark.parametrize(
    ("way", "outcome", "words"),
    [
        ("bodies of 1 MiB", "failure", ("an upload of 2 MiB is refused", "client_max_body_size 0")),
        ("bodies of 50 MiB", "failure", ("refuses bodies of 100 MiB", "PROXY_BODY_LIMIT")),
        ("bodies of 5 GiB", "warning", ("refuses artifacts of 10 GiB", "client_max_body_size 0")),
    ],
)
def test_a_limit_on_bodies_is_found(front: Front, way: str, outcome: str, words: tuple[str, ...]) -> None:
    front.look(way, "front").says("front", "body", outcome, *words)


def test_answers_that_are_held_back_are_found(front: Front) -> None:
    told = front.look("held back", "front")
    told.says("front", "stream", "warning", "until they are whole", "proxy_buffering off")
    assert told.wrong() == {("front", "stream"), ("front", "addresses")}, told.text


def test_a_terminator_that_waits_too_short_is_found(front: Front) -> None:
    told = front.look("impatient", "time")
    told.says("time", "time", "warning", "gives up after", "PROXY_HOLD_SECONDS", "proxy_read_timeout")
    assert told.code == 1


def test_a_host_that_is_not_passed_on_is_found(front: Front) -> None:
    told = front.look("another host", "front", "time")
    told.says("front", "host", "failure", "Host 'mlflow.internal'", "proxy_set_header Host $http_host")
    assert told.code == 2


def test_addresses_that_anybody_can_pose_with_are_found(front: Front, tmp_path: Path) -> None:
    front.look("posing", "front").says("front", "addresses", "warning", "can pose", "X-Forwarded-For")
    with fake_service(tmp_path / "s", PROXY_TRUSTED_PROXIES="127.0.0.1") as trusting:
        ports = {way: free_port() for way in ("good", "posing")}
        blocks = [
            f"server {{ listen 127.0.0.1:{port}; {WAYS[way].replace('UPSTREAM', trusting.local)} }}"
            for way, port in ports.items()
        ]
        with nginx(tmp_path / "n", *blocks):
            site = Front(trusting, ports)
            site.look("posing", "front").says("front", "addresses", "failure", "pose as any address")
            assert site.look("good", "front").code == 0


def test_a_terminator_that_does_not_tell_whose_requests_it_passes_on_is_found(front: Front) -> None:
    front.look("silent", "front").says("front", "addresses", "warning", "does not say whose requests")


def test_credentials_that_do_not_arrive_are_found(front: Front) -> None:
    front.look("without credentials", "front").says("front", "headers", "failure", "Authorization")


@pytest.mark.parametrize(
    ("way", "words"),
    [
        ("to nobody", ("502", "MLFLOW_PORT")),
        ("sent on", ("https://elsewhere.example.com", "PROXY_PUBLIC_URL")),
        ("signs in by itself", ("401", "a sign-in of its own")),
        ("another program", ("something else answers", "Welcome")),
    ],
)
def test_a_way_that_does_not_lead_to_the_service_is_found(
    front: Front, way: str, words: tuple[str, ...]
) -> None:
    front.look(way, "front").says("front", "way", "failure", *words)


def test_another_service_at_the_address_is_told_from_this_one(front: Front, tmp_path: Path) -> None:
    with fake_service(tmp_path / "s") as other:
        told = front.look("good", "front", trusting=other)
    told.says("front", "way", "failure", "it is not this one", "data directory")
    refusals = {line["refusal"] for line in front.service.access_log()}
    assert "locked_out" not in refusals, "the doctor's header counts as no wrong credential there"


def test_the_settings_own_password_is_sent_to_no_other_program(front: Front) -> None:
    login = {"MLFLOW_TRACKING_USERNAME": USER, "MLFLOW_TRACKING_PASSWORD": PASSWORD}
    for way in ("another program", "to nobody"):
        (result,) = front.look(way, "client", environment=login).results("client")
        assert result["outcome"] == "skipped"
        assert "is not sent to http://localhost" in result["seen"]


def test_nobody_but_the_doctor_finds_its_page_and_it_is_gone_with_it(front: Front) -> None:
    service = front.service
    anonymous = service.anonymous()
    nowhere = anonymous.get(f"{service.local}/-/doctor/{'A' * 32}", timeout=10)
    with _visit(service) as path:
        for guess in ("/-/doctor", "/-/doctor/", path[:-1], path + "A", path.swapcase()):
            answer = anonymous.get(service.local + guess, timeout=10)
            assert (answer.status_code, _plain(answer)) == (nowhere.status_code, _plain(nowhere)), guess
        seen = anonymous.get(service.local + path, timeout=10, headers={"Cookie": "secret=1", "Via": "1.1 f"})
        assert seen.status_code == 200
        assert "secret" not in seen.text
        assert seen.json()["forwarded"] == {"via": ["1.1 f"]}
        assert (
            anonymous.get(service.local + path, timeout=10, headers={"Host": "evil.example"}).status_code
            == 421
        )
    assert anonymous.get(service.local + path, timeout=10).status_code == nowhere.status_code


def test_no_more_doctors_than_a_few_can_be_at_work(front: Front) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(8):
            stack.enter_context(_visit(front.service))
        assert list(control.ask(front.service.data, do="doctor"))[-1] is False
    with _visit(front.service):
        pass


@contextlib.contextmanager
def _visit(service: Service) -> Iterator[str]:
    said, done = control.ask(service.data, do="doctor", seconds=60)
    assert done is True
    path = json.loads(str(said))["path"]
    try:
        yield path
    finally:
        list(control.ask(service.data, do="doctor-end", path=path))


def _plain(answer: requests.Response) -> str:
    """Without what differs from request to request."""
    return re.sub(r"[0-9a-f]{20}", "", answer.text)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, tuple[int, Path]]]:
    """nginx with certificates of all kinds: a port each, and the authority's file."""
    folder = tmp_path_factory.mktemp("c")
    root = issue(folder, "root authority", authority=True)
    between = issue(folder, "intermediate authority", root, authority=True)
    shown = {
        "good": issue(folder / "good", "localhost", between),
        "expired": issue(folder / "expired", "localhost", root, days=(-40, -3)),
        "ends soon": issue(folder / "soon", "localhost", root, days=(-40, 3)),
        "another name": issue(folder / "name", "mlflow.example.org", root),
        "incomplete": issue(folder / "incomplete", "localhost", between),
        "by itself": issue(folder / "itself", "localhost"),
    }
    leaf = shown["incomplete"].certificate
    shown["incomplete"].chain.write_bytes(_pem(leaf))
    ports = {name: free_port() for name in (*shown, "no TLS")}
    blocks = [
        f"server {{ listen 127.0.0.1:{ports[name]} ssl; ssl_certificate {one.chain}; "
        f"ssl_certificate_key {one.key_file}; }}"
        for name, one in shown.items()
    ]
    with nginx(folder / "nginx", *blocks, f"server {{ listen 127.0.0.1:{ports['no TLS']}; }}"):
        yield {name: (port, root.chain) for name, port in ports.items()}


def _pem(certificate: object) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    return certificate.public_bytes(Encoding.PEM)  # type: ignore[attr-defined, no-any-return]


@pytest.mark.parametrize(
    ("shown", "outcome", "words"),
    [
        ("good", "ok", ("localhost", "intermediate authority")),
        ("expired", "failure", ("it expired on", "renew it")),
        ("ends soon", "warning", ("3 days left", "renew it")),
        ("another name", "failure", ("it is for mlflow.example.org, and not for localhost",)),
        ("incomplete", "failure", ("is not known here",)),
        ("by itself", "failure", ("signed by itself",)),
        ("no TLS", "failure", ("does not speak TLS",)),
    ],
)
def test_a_certificate_that_clients_refuse_is_found(
    certificates: dict[str, tuple[int, Path]],
    shown: str,
    outcome: str,
    words: tuple[str, ...],
    tmp_path: Path,
) -> None:
    port, root = certificates[shown]
    told = doctor("address", "--url", f"https://localhost:{port}", "--ca", root, cwd=tmp_path)
    told.says("address", "certificate", outcome, *words)


def test_a_name_that_nobody_knows_and_a_port_that_nobody_listens_on_are_found(tmp_path: Path) -> None:
    told = doctor("address", "--url", "https://mlflow.invalid", cwd=tmp_path)
    told.says("address", "name", "failure", "mlflow.invalid is not known here", "DNS")
    told = doctor("address", "--url", f"https://localhost:{free_port()}", cwd=tmp_path)
    told.says("address", "port", "failure", "takes no connection", "firewall")
