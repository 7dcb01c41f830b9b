"""Hostile and odd requests on the lane past ASGI and on the ordinary way: nobody can tell the two apart.

Each case goes to two services over one kind of stand-in for MLflow; one of the two has no lane. What the
client is answered, what MLflow is sent, what is logged and what is counted has to be the same.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import wire
from attacked import PASSWORDS, ROLES
from forwarding import ARTIFACT, CREATE, FLASK, GATEWAY, Answer, Client, Rig, Truncated, rigged, told, until
from test_smuggling import AMBIGUOUS

from proxy.auth.passwords import hash_password

LOG_METRIC = "/api/2.0/mlflow/runs/log-metric"
CREATE_RUN = "/api/2.0/mlflow/runs/create"
VERA, EDDA, ADA = ("{}: {}".format(*wire.basic(name, PASSWORDS[name])) for name in ("vera", "edda", "ada"))
WRONG = "{}: {}".format(*wire.basic("edda", "editor-of-nothing"))
BODY_LIMIT = 100 * 1024
# The stand-in's answer says which of its connections it came on.
LEFT_OUT = frozenset({"time", "request_id", "bytes_out"})


class Seen(NamedTuple):
    """All that a case leaves behind."""

    answers: list[tuple[int, list[tuple[str, str]], str]]
    ended: bool
    """Whether the service ended the connection."""
    upstream: list[tuple[str, str, list[tuple[str, str]]]]
    bodies: list[tuple[str, int, bool]]
    logged: list[dict[str, Any]]


def ask(method: str, target: str, *headers: str, body: bytes | None = None, user: str = EDDA) -> bytes:
    lines = [f"{method} {target} HTTP/1.1", "Host: localhost", *([user] if user else []), *headers]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + (body or b"")


def get(*headers: str, user: str = EDDA, target: str = FLASK) -> bytes:
    return ask("GET", target, *headers, user=user)


def post(*headers: str, body: bytes = b'{"key": "a"}', target: str = LOG_METRIC, user: str = EDDA) -> bytes:
    return ask("POST", target, *headers, body=body, user=user)


CHUNKS = b"3;a=b\r\n{}\n\r\n0\r\n"
HEADERS = {
    "plain": (),
    "nothing in it": ("X-Empty:",),
    "case": ("x-oDD: y", "COOKIE: a=b"),
    "blanks": ("X-Blank: \t y \t ",),
    "high bytes": ("X-High: \xe4\xff",),
    "a long value": ("X-Long: " + "v" * 50_000,),
    "too long a value": ("X-Long: " + "v" * 70_000,),
    "many": tuple(f"X-{n}: {n}" for n in range(1_000)),
    "a second credential": (VERA,),
    "the same credential twice": (EDDA,),
    "a wrong second credential": (WRONG,),
    "a bearer beside": ("Authorization: Bearer x.y.z",),
    "for a provider": (VERA.replace("Authorization", "X-MLflow-Authorization"),),
    "a second Host": ("Host: evil.example",),
    "the same Host twice": ("Host: localhost",),
    "cookies": (
        "Cookie: a=b",
        "Cookie: mlflow_proxy_session=x; c=d",
        "cookie: __Host-mlflow_proxy_session=y",
    ),
    "our cookie alone": ("Cookie: mlflow_proxy_session=x",),
    "who it says it is": (
        *("X-Forwarded-User: ada", "X-Remote-User: ada", "Remote-User: ada", "X-Forwarded-Email: a@b"),
        *("X_Forwarded_User: ada", "x-proxy-user: ada", "X-Auth-Request-User: ada", "X_Remote_User: ada"),
    ),
    "where it says it comes from": (
        *("X-Forwarded-For: 127.0.0.1", "X-Forwarded-For: 203.0.113.7, 10.0.0.1", "Forwarded: for=127.0.0.1"),
        *(
            "X-Real-IP: 127.0.0.1",
            "X-Forwarded-Proto: https",
            "X-Forwarded-Host: evil",
            "True-Client-IP: 1.2.3.4",
        ),
        *("X-Forwarded-Prefix: /x", "X_Forwarded_For: 127.0.0.1", "X-Original-URL: /api/2.0/mlflow/hidden"),
    ),
    "an empty X-Forwarded-For": ("X-Forwarded-For:",),
    "an id": ("X-Request-Id: mine",),
    "a bad id": ('X-Request-Id: a b"c',),
    "two ids": ("X-Request-Id: one", "X-Request-Id: two"),
    "a trace": ("traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "tracestate: a=b"),
    "for this hop": ("Connection: keep-alive, X-Hop", "X-Hop: 1", "Keep-Alive: timeout=5", "TE: trailers"),
    "ours for this hop": (
        "Connection: x-forwarded-for, x-forwarded-user, x-request-id, host, content-length",
    ),
    "the credential for this hop": ("Connection: authorization, cookie", "Cookie: a=b"),
    "two hops": ("Connection: x-a", "Connection: x-b", "X-A: 1", "X-B: 2", "X-C: 3"),
    "the last one": ("Connection: close",),
    "the last one, and not": ("Connection: keep-alive, close",),
    "an upgrade": ("Connection: upgrade", "Upgrade: websocket"),
    "an upgrade of nothing": ("Upgrade: h2c",),
    "no upgrade": ("Connection: upgrade",),
    "a trailer to come": ("Trailer: X-Late",),
    "another expectation": ("Expect: tea",),
    "for a proxy": ("Proxy-Authorization: Basic eA==", "Proxy-Connection: keep-alive"),
    "a part": ("Range: bytes=0-1", "If-Range: x"),
    "compressed": ("Accept-Encoding: gzip, br;q=0",),
    "another site": ("Origin: https://evil.example",),
    "another site's page": ("Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: no-cors"),
    "null": ("Origin: null",),
    "MLflow's client": ("User-Agent: mlflow-python-client/3.17.2", "Accept-Encoding: gzip"),
    "a browser": ("User-Agent: Mozilla/5.0", "Accept: text/html", "Sec-Fetch-Mode: navigate"),
    "a workspace": ("X-MLFLOW-WORKSPACE: other",),
    "quotes for the log": ('User-Agent: "\\\x01 \xff',),
}
# The ordinary way has begun to answer by then, and can only end the connection; before the lane there is 400.
IN_THE_BODY = {"TE.TE x", "a chunk longer than said", "a chunk's end by LF", "an extension with LF"} | {
    *(
        "a chunk's size beyond 64 bits",
        "a chunk's size with a sign",
        "a chunk's size as 0x",
        "a trailer of CL",
    ),
}
TARGETS = (
    *(
        "/%61pi/2.0/mlflow/experiments/search",
        "//api/2.0/mlflow/experiments/search",
        "/api//2.0",
        "/api/2.0/..",
    ),
    *("/api/2.0/mlflow/experiments/search/", "/api/2.0/mlflow/experiments/search;x=y", "/API/2.0/mlflow/x"),
    *("/api/2.0/mlflow/./experiments/search", "/api%2F2.0/mlflow/experiments/search", "/api/2.0/%2e%2e/x"),
    *(
        "/api/2.0/mlflow/experiments/search%00",
        "/api/2.0/mlflow/experiments/search\\",
        "/api/x%zz",
        "/api/%ff",
    ),
    *(
        FLASK + "?",
        FLASK + "??a=b?c",
        FLASK + "?a=%zz&b=%00",
        FLASK + "?a=#b",
        FLASK + "#b",
        FLASK + "?a=\xe4",
    ),
    *(FLASK + '?a="b"', FLASK + "?a={b}|c[d]^`<>", FLASK + "?a=\\", FLASK + "?token=secret&password=x"),
    *("http://localhost" + FLASK, "http://evil.example" + FLASK, "*", "localhost:80", "api/2.0", "/api/"),
    *("/", "/livez", "/version", "/health", "/metrics", "/nothing", "/graphql", "/api/2.0/mlflow/nothing"),
    *(FLASK.replace("/api/", "/ajax-api/"), "/ajax-api/2.0/mlflow/users/current", ARTIFACT, GATEWAY),
    *("/api/3.0/mlflow/server-info", "/get-artifact?path=x&run_id=y", FLASK + "?" + "q" * 15_000),
    *(FLASK + "?" + "q" * 30_000, FLASK + "?" + "q" * 70_000, "/api/" + "p" * 30_000),
    *(FLASK + "?a=b&a=c&experiment_id=0", FLASK + "?~!$&'()*+,;=:@/?-._"),
)
METHODS = (
    "HEAD",
    "POST",
    "PUT",
    "DELETE",
    "PATCH",
    "OPTIONS",
    "TRACE",
    "PROPFIND",
    "M-SEARCH",
    "get",
    "CONNECT",
)
REQUESTS = {
    **{name: get(*headers) for name, headers in HEADERS.items()},
    **{f"{name}, with a body": post(*headers) for name, headers in HEADERS.items()},
    **{f"{number} {target[:60]}": get(target=target) for number, target in enumerate(TARGETS)},
    **{method: ask(method, FLASK) for method in METHODS},
    "nobody": get(user=""),
    "a viewer reads": get(user=VERA),
    "a viewer writes": post(user=VERA),
    "a wrong password": get(user=WRONG),
    "a credential that is none": get(user="Authorization: Basic !!!"),
    "an empty credential": get(user="Authorization:"),
    "blanks in the credential": get(user=EDDA.replace("Basic ", "Basic   ")),
    "no Host": get().replace(b"Host: localhost\r\n", b""),
    "an empty Host": get().replace(b"Host: localhost", b"Host:"),
    "a Host with a port": get().replace(b"Host: localhost", b"Host: localhost:8080"),
    "another Host": get().replace(b"Host: localhost", b"Host: evil.example"),
    "a Host in capitals": get().replace(b"Host: localhost", b"HOST: LOCALHOST"),
    "blanks before the target": get().replace(b"GET ", b"GET   "),
    "a blank after the version": get().replace(b"HTTP/1.1\r", b"HTTP/1.1 \r"),
    "HTTP/1.0": get().replace(b"HTTP/1.1", b"HTTP/1.0"),
    "HTTP/1.0, kept": get("Connection: keep-alive").replace(b"HTTP/1.1", b"HTTP/1.0"),
    "a line before it": b"\r\n" + get(),
    "a body where none is meant": ask("GET", FLASK, body=b'{"max_results": 1}'),
    "a length of nothing": ask("GET", FLASK, body=b""),
    "no length": ask("POST", LOG_METRIC),
    "no JSON": post(body=b"\xff\x00"),
    "another's name": post(target=CREATE_RUN, body=b'{"experiment_id": "0", "user_id": "ada"}'),
    "another's tag": post(
        target=CREATE_RUN, body=b'{"experiment_id": "0", "tags": [{"key": "mlflow.user", "value": "ada"}]}'
    ),
    "a large body": post(body=b"x" * 64 * 1024),
    "a larger body": post(body=b"x" * (64 * 1024 + 1)),
    "too large a body": post(body=b"x" * (BODY_LIMIT + 1)),
    "a deed": post(target="/api/2.0/mlflow/runs/delete", body=b'{"run_id": "x"}'),
    "100-continue": post("Expect: 100-continue"),
    "chunks": ask("POST", LOG_METRIC, "Transfer-Encoding: chunked") + CHUNKS + b"\r\n",
    "trailers": ask("POST", LOG_METRIC, "Transfer-Encoding: chunked", "Trailer: Authorization")
    + CHUNKS
    + VERA.encode()
    + b"\r\nX-Forwarded-User: ada\r\n\r\n",
    "in small letters": ask("POST", LOG_METRIC, "transfer-encoding: Chunked") + CHUNKS + b"\r\n",
    "a name that is verified": post(target=CREATE, body=b'{"name": "x"}'),
    **{f"ambiguous: {name}": request for name, request in AMBIGUOUS.items() if name not in IN_THE_BODY},
}


class Pair:
    """The two services; `lane` has it, `ordinary` has not."""

    def __init__(self, lane: Rig, ordinary: Rig, prefix: str) -> None:
        self.lane = lane
        self.ordinary = ordinary
        self.prefix = prefix

    def alike(self, packets: list[bytes], *, together: bool = False) -> Seen:
        """What both saw, which has to be the same. The packets go one by one, each after the answer to the
        one before; or `together`, and then all answers are read."""
        packets = [self.below(packet) for packet in packets]
        lane, ordinary = (
            seen(rig, packets, self.prefix, together=together) for rig in (self.lane, self.ordinary)
        )
        assert lane.answers == ordinary.answers
        assert lane.ended == ordinary.ended
        assert lane.upstream == ordinary.upstream
        assert lane.bodies == ordinary.bodies
        assert lane.logged == ordinary.logged
        return lane

    def below(self, packet: bytes) -> bytes:
        return re.sub(
            rb"^([A-Za-z-]+ +(?:http://[a-z.]+)?)/",
            rb"\1%s/" % self.prefix.encode(),
            packet,
            flags=re.MULTILINE,
        )


def seen(rig: Rig, packets: list[bytes], prefix: str, *, together: bool) -> Seen:
    record, access = ((rig.folder / name).stat().st_size for name in ("record", "access.log"))
    answers: list[Answer] = []
    ended = False
    with rig.client() as client:
        try:
            if together:
                client.send(b"".join(packets))
            for packet in packets:
                if not together:
                    client.send(packet)
                answers.append(final(client, packet))
        except (Truncated, ConnectionError):
            ended = True
        else:
            ended = client.ended(0.05)
    until(lambda: rig.at_rest(clients=0))
    last = told(FLASK, mark="the last one")
    rig.logged(request_id=rig.ask("GET", prefix + last).header("x-request-id"))
    events: list[dict[str, Any]] = until(
        lambda: (
            (found := lines(rig.folder / "record", record))
            and Counter(event["event"] for event in found)["head"]
            == Counter(event["event"] for event in found)["over"]
            and found
        )
    )
    upstream = [
        (event["target"], event["method"], [clean(*header) for header in event["headers"]])
        for event in events
        if event["event"] == "head" and event["target"] != last
    ]
    bodies = [
        (event["target"], event["received"], event["whole"]) for event in events if event["event"] == "over"
    ]
    logged = [
        {key: value for key, value in line.items() if key not in LEFT_OUT and not key.endswith("_ms")}
        for line in lines(rig.folder / "access.log", access)
    ]
    return Seen([plain(answer) for answer in answers], ended, upstream, bodies, logged)


def final(client: Client, packet: bytes) -> Answer:
    method = packet.lstrip().split(b" ")[0].decode("latin-1")
    while (answer := client.answer(method)).status < 200:
        pass
    return answer


def lines(file: Path, start: int) -> list[dict[str, Any]]:
    with file.open("rb") as stream:
        stream.seek(start)
        return [json.loads(line) for line in stream if line.endswith(b"\n")]


def clean(name: str, value: str) -> tuple[str, str]:
    return (name, re.sub(r"^[0-9a-f]{20}$", "ID", value) if name == "x-request-id" else value)


def plain(answer: Answer) -> tuple[int, list[tuple[str, str]], str]:
    body = re.sub(r"\b[0-9a-f]{20}\b", "ID", answer.body.decode("latin-1"))
    body, echoes = re.subn(r'"connection": \d+', '"connection": N', body)
    left_out = {"date", "content-length"} if echoes else {"date"}
    headers = [clean(name, value) for name, value in answer.headers if name not in left_out]
    if answer.header("content-type") == "text/plain; version=0.0.4; charset=utf-8":
        body = ""  # the metrics, with their times
    return answer.status, sorted(headers), body


PREFIX = "/ml"
COUNTED = re.compile(
    r"mlflow_proxy_(requests_total|refusals_total|errors_total|authentications_total|request_bytes_total)"
)
# What an address below a path, or a trusted proxy before it, changes.
NEAR_A_PROXY = re.compile(r"comes from|id\b|ids\b|hop|trace|X-Forwarded|api|Host|says|^plain$|ambiguous: CL")


@pytest.fixture(scope="module", params=["alone", "behind a proxy"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    users = tmp_path_factory.mktemp("users") / "users"
    users.write_text(
        "".join(f"{name}:{hash_password(PASSWORDS[name])}:{role}\n" for name, role in ROLES.items())
    )
    users.chmod(0o600)
    settings: dict[str, Any] = {"users_file": str(users), "body_limit": BODY_LIMIT, "login_failures": 1000}
    prefix = ""
    if request.param == "behind a proxy":
        prefix = PREFIX
        settings |= {"trusted_proxies": "127.0.0.1", "public_url": "http://localhost" + PREFIX}
    with ExitStack() as stack:
        lane, ordinary = (stack.enter_context(rigged(lane=lane, **settings)) for lane in (True, False))
        for rig in (lane, ordinary):
            if prefix:
                (rig.folder / "below").touch()
            for user in (VERA, EDDA, ADA):  # their hashes are paid here
                with rig.client() as client:
                    client.send(get(user=user, target=prefix + FLASK))
                    assert client.answer().status == 200, rig.log()
        yield Pair(lane, ordinary, prefix)


def taken_the_same(pair: Pair, name: str) -> None:
    odd = REQUESTS[name]
    packets = [get(), odd, odd, post(), odd, get()]
    if not pair.alike(packets).ended:
        pair.alike(packets, together=True)


@pytest.mark.parametrize("pair", ["alone"], indirect=True)
@pytest.mark.parametrize("request_", REQUESTS)
def test_a_request_among_plain_ones_is_taken_the_same_on_both_ways(pair: Pair, request_: str) -> None:
    taken_the_same(pair, request_)


@pytest.mark.parametrize("pair", ["behind a proxy"], indirect=True)
@pytest.mark.parametrize("request_", list(filter(NEAR_A_PROXY.search, REQUESTS)))
def test_a_request_behind_a_proxy_is_taken_the_same_on_both_ways(pair: Pair, request_: str) -> None:
    taken_the_same(pair, request_)


def test_what_is_counted_is_the_same_on_both_ways(pair: Pair) -> None:
    def counted(rig: Rig) -> dict[str, str]:
        text = rig.ask("GET", "/metrics").body.decode()
        found = dict(line.rpartition(" ")[::2] for line in text.splitlines() if COUNTED.match(line))
        assert any("search-experiments" in series for series in found)
        return found

    pair.alike([get(), get(), post(), get(user=VERA), post(user=VERA), get("Host: x")], together=True)
    assert counted(pair.lane) == counted(pair.ordinary)


def test_a_known_request_in_two_parts_is_that_request(pair: Pair) -> None:
    rig, body = pair.lane, b'{"key": "a"}'
    request = pair.below(post(body=body))
    with rig.client() as client:
        for end in range(1, len(request)):
            client.send(request)
            assert client.answer().status == 200
            client.send(request[:end])
            rig.standing()  # it has read that by now, mostly
            client.send(request[end:])
            assert client.answer().json()["body"] == body.decode()


def test_many_users_on_one_connection_are_each_themselves(pair: Pair) -> None:
    """As behind a proxy that shares its connections: in one packet, in many, with bodies of all sizes."""
    users = {"edda": EDDA, "ada": ADA, "vera": VERA, "nobody": "", "wrong": WRONG}
    asked = []
    for number in range(60):
        name = list(users)[number * 7 % 5]
        target = told(LOG_METRIC if number % 3 else FLASK, mark=number)
        body = str(number).encode() * (number % 4 * 300)
        headers = (f"X-Mine: {name}", f"Cookie: mine={name}")
        ask_ = post if number % 3 else get
        more: dict[str, Any] = {"body": body} if number % 3 else {}
        status = 401 if name in ("nobody", "wrong") else 403 if name == "vera" and number % 3 else 200
        asked.append(
            (name, status, pair.below(ask_(*headers, target=target, user=users[name], **more)), body)
        )
    for size in (1, 2, 5, 60):
        with pair.lane.client() as client:
            for start in range(0, len(asked), size):
                part = asked[start : start + size]
                client.send(b"".join(request for _, _, request, _ in part))
                ids = set()
                for name, status, request, body in part:
                    answer = client.answer()
                    ids.add(answer.header("x-request-id"))
                    assert answer.status == status
                    if status != 200:
                        continue
                    assert answer.arrived("x-forwarded-user") == [name]
                    assert (answer.arrived("x-mine"), answer.arrived("cookie")) == ([name], [f"mine={name}"])
                    assert answer.arrived("authorization") == []
                    assert answer.json()["target"].encode() in request
                    assert answer.json()["length"] == (len(body) if request.startswith(b"POST") else 0)
                assert len(ids) == len(part)
