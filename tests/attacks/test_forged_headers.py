"""Headers that claim to come from a proxy of ours: who is calling, from where, under which name."""

from __future__ import annotations

import pytest
import wire
from attacked import Target

SEARCH = "/api/2.0/mlflow/experiments/search"
JSON = ("Content-Type", "application/json")
IDENTITY = [
    "X-Forwarded-For",
    "X-Forwarded-User",
    "X-Forwarded-Email",
    "X-Forwarded-Groups",
    "X-Forwarded-Preferred-Username",
    "X-Forwarded-Access-Token",
    "X-Forwarded-Host",
    "X-Forwarded-Proto",
    "X-Forwarded-Prefix",
    "X-Forwarded-Port",
    "X-Forwarded-Server",
    "X-Forwarded-Uri",
    "X-Remote-User",
    "X-Remote-Group",
    "Remote-User",
    "X-Auth-Request-User",
    "X-Auth-Request-Email",
    "X-Auth-Request-Access-Token",
    "X-WebAuth-User",
    "X-Authenticated-User",
    "X-User",
    "X-Email",
    "X-Proxy-User",
    "X-Proxy-Secret",
    "X-Authentik-Username",
    "X-Real-IP",
    "X-Client-IP",
    "X-Cluster-Client-IP",
    "True-Client-IP",
    "Forwarded",
    "X-Original-URL",
    "X-Original-Host",
    "X-Original-Forwarded-For",
    "Proxy-Authorization",
    "X-MLflow-Authorization",
    "Authorization",
]
# Spellings that WSGI, or something lax between, would take for the header itself.
SPELLINGS = [
    str.lower,
    str.upper,
    lambda name: name.replace("-", "_"),
    lambda name: name.replace("-", "_", 1),
    lambda name: name.replace("-", "_").upper(),
]


@pytest.mark.parametrize("source", [wire.HERE, wire.TRUSTED])
def test_a_forged_identity_does_not_arrive(target: Target, source: str) -> None:
    forged = [
        (spelling(name), "10.9.8.7") for name in IDENTITY if name != "Authorization" for spelling in SPELLINGS
    ]
    answer = target.post("vera", SEARCH, {"max_results": 1}, *forged, source=source)
    assert answer.status == 200
    _, _, headers = target.forwarded(answer) or ("", "", {})
    assert set(headers) <= {
        "host", "content-type", "content-length", "x-forwarded-for", "x-forwarded-user", "x-request-id"
    }  # fmt: skip
    assert headers["x-forwarded-user"] == "vera"
    assert headers["x-forwarded-for"] == ("127.0.0.1" if source == wire.HERE else "10.9.8.7")
    assert headers["host"].startswith("127.0.0.1:")


def test_the_callers_credential_and_our_cookies_stay_here(target: Target) -> None:
    cookies = "theirs=1; mlflow_proxy_session=S3CRET; __Host-mlflow_proxy_session=S3CRET; other=2"
    answer = target.post("vera", SEARCH, {"max_results": 1}, ("Cookie", cookies))
    _, _, headers = target.forwarded(answer) or ("", "", {})
    assert "authorization" not in headers
    assert headers["cookie"].replace(" ", "") == "theirs=1;other=2"


def test_a_hop_can_not_be_told_to_drop_what_we_say(target: Target) -> None:
    named = "close, X-Forwarded-User, X-Forwarded-For, X-Request-Id, Host, Content-Length, X-Secret, Cookie"
    body = b'{"max_results": 1}'
    lines = [
        f"POST {SEARCH} HTTP/1.1",
        "Host: 127.0.0.1",
        "{}: {}".format(*wire.basic("vera", "viewer-of-many-things")),
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        "X-Secret: for this hop alone",
        f"Connection: {named}",
    ]
    with wire.connection(target.service) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode() + body)
        answer = wire.read(connection, "POST")
    assert answer.status == 200
    _, _, headers = target.forwarded(answer) or ("", "", {})
    assert headers["x-forwarded-user"] == "vera"
    assert headers["x-forwarded-for"] == "127.0.0.1"
    assert headers["content-length"] == str(len(body))
    assert not {"x-secret", "connection"} & set(headers)


def test_an_underscore_smuggles_no_header_into_mlflow(target: Target) -> None:
    """MLflow refuses a workspace where it has none: it shows which header Flask has read."""
    plain = target.post("vera", SEARCH, {"max_results": 1}, ("X-MLFLOW-WORKSPACE", "elsewhere"))
    assert plain.json()["error_code"] == "FEATURE_DISABLED"
    for name in ("X_MLFLOW_WORKSPACE", "X-MLFLOW_WORKSPACE", "x_mlflow-workspace"):
        assert target.post("vera", SEARCH, {"max_results": 1}, (name, "elsewhere")).status == 200


@pytest.mark.parametrize("name", ["X-Original-URL", "X-Rewrite-URL", "X-Original-URI", "X_Original_URL"])
def test_a_header_names_no_other_path(target: Target, name: str) -> None:
    admins = "/api/3.0/mlflow/gateway/secrets/list"
    answer = target.ask("vera", "GET", "/api/2.0/mlflow/experiments/get?experiment_id=0", (name, admins))
    assert answer.json()["experiment"]["experiment_id"] == "0"
    assert target.ask("vera", "GET", admins, (name, "/version")).status == 403
    assert target.ask(None, "GET", admins, (name, "/livez")).status == 401


@pytest.mark.parametrize(
    "name", ["X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override", "X_HTTP_METHOD_OVERRIDE"]
)
def test_a_header_names_no_other_method(target: Target, name: str) -> None:
    route = "/api/3.0/mlflow/datasets/search"
    for method in ("DELETE", "PATCH", "PUT"):
        answer = target.ask("vera", "GET", f"{route}?experiment_ids=0&_method={method}", (name, method))
        assert target.logged(answer)["operation"] == "search-evaluation-datasets"
        sent = target.forwarded(answer)
        assert sent is not None
        assert sent[0] == "GET"


@pytest.mark.parametrize(("source", "client"), [(wire.HERE, "127.0.0.1"), (wire.TRUSTED, "203.0.113.9")])
def test_the_logged_address_is_the_one_that_a_trusted_proxy_saw(
    target: Target, source: str, client: str
) -> None:
    forged = (
        ("X-Forwarded-For", "127.0.0.1, 10.0.0.1"),
        ("X-Forwarded-For", "203.0.113.9:4711"),
        ("X-Real-IP", "198.51.100.1"),
        ("Forwarded", "for=198.51.100.2"),
    )
    answer = target.ask("vera", "GET", SEARCH, *forged, source=source)
    assert target.logged(answer)["client"] == client
    sent = target.forwarded(answer)
    assert sent is not None
    assert sent[2]["x-forwarded-for"] == client


@pytest.mark.parametrize(
    "forged", ["", "unknown", ",", "127.0.0.1, ", "127.0.0.1, _secret", "::1%eth0", "127.0.0.1\x80"]
)
def test_an_unreadable_address_from_a_trusted_proxy_is_not_taken(target: Target, forged: str) -> None:
    answer = target.ask("vera", "GET", SEARCH, ("X-Forwarded-For", forged), source=wire.TRUSTED)
    assert target.logged(answer)["client"] in (wire.TRUSTED, "::1")


@pytest.mark.parametrize(
    ("source", "forged", "kept"),
    [
        (wire.HERE, "forged-by-a-stranger", False),
        (wire.TRUSTED, "kept-4711/a:b=c+d.e_f", True),
        (wire.TRUSTED, 'x","user":"admin', False),
        (wire.TRUSTED, "x y", False),
        (wire.TRUSTED, "x" * 129, False),
        (wire.TRUSTED, "x\xe9", False),
        (wire.TRUSTED, "", False),
    ],
)
def test_a_request_id_is_kept_from_a_trusted_proxy_alone(
    target: Target, source: str, forged: str, kept: bool
) -> None:
    answer = target.ask("vera", "GET", SEARCH, ("X-Request-Id", forged), source=source)
    assert (answer.request_id == forged) is kept
    assert target.logged(answer)["user"] == "vera"
    sent = target.forwarded(answer)
    assert sent is not None
    assert sent[2]["x-request-id"] == answer.request_id


@pytest.mark.parametrize(
    "user_agent",
    ['curl" 200 - "admin', '{"user":"admin"}', "\x1b[2J\x9b31m", "a\x85b\x0bc", "x" * 5000, "\xff\xfe"],
)
def test_a_user_agent_breaks_no_line_of_the_log(target: Target, user_agent: str) -> None:
    if "\x1b" in user_agent or "\x0b" in user_agent:
        answer = target.ask(None, "GET", SEARCH, ("User-Agent", user_agent))
        assert answer.status in (400, 401)
    parsed = user_agent.replace("\x1b", "").replace("\x0b", "")
    answer = target.ask("vera", "GET", SEARCH, ("User-Agent", parsed))
    assert target.logged(answer)["user"] == "vera"
    for line in (target.service.folder / "access.log").read_bytes().split(b"\n"):
        assert line.decode().isprintable()


def test_a_user_name_that_nobody_has_breaks_no_line_either(target: Target) -> None:
    for name in ('x","role":"admin', "x\r\nY: z", "vera\x00", "ada\u202e", "\u2028", "x" * 20_000):
        answer = target.ask(None, "GET", SEARCH, wire.basic(name, "wrong"), source="127.0.3.1")
        assert answer.status in (401, 429)
        assert target.logged(answer)["user"] is None


# The Assistant: an agent with tools on the server's host, which MLflow opens to callers from "localhost".
ASSISTANT = "/ajax-api/3.0/mlflow/assistant"
ACTS = [
    ("PUT", "/config", b'{"projects": {}}'),
    ("POST", "/message", b'{"message": "hello"}'),
    ("POST", "/skills/install", b'{"type": "global"}'),
    ("GET", "/providers/claude_code/health", b""),
]
NEAR = ["127.0.0.1", "::1", "localhost", "127.0.0.1, 127.0.0.1", "", "::ffff:127.0.0.1"]


@pytest.mark.parametrize("source", [wire.HERE, wire.TRUSTED])
@pytest.mark.parametrize("forged", [None, *NEAR])
def test_the_assistant_is_open_to_nobody(target: Target, source: str, forged: str | None) -> None:
    names = ("X-Forwarded-For", "X_Forwarded_For", "X-Real-IP", "Forwarded", "X-Client-IP")
    headers = [] if forged is None else [(name, forged) for name in names]
    for method, path, body in ACTS:
        answer = target.ask("ada", method, ASSISTANT + path, JSON, *headers, body=body, source=source)
        assert answer.status == 403, (method, path)
        assert "only accessible from the same host" in answer.text
    # Its settings MLflow shows to everybody, emptied for who is not on the same host.
    answer = target.ask("ada", "GET", ASSISTANT + "/config", *headers, source=source)
    assert answer.json() == {"providers": {}, "projects": {}, "remote_access_allowed": False}


def test_the_assistant_is_for_admins_even_so(target: Target) -> None:
    for user, status in (("edda", 403), ("vera", 403), (None, 401)):
        for method, path, body in (*ACTS, ("GET", "/config", b"")):
            answer = target.ask(user, method, ASSISTANT + path, JSON, body=body)
            assert answer.status == status
            assert target.forwarded(answer) is None


def test_a_trailer_is_no_header(target: Target) -> None:
    """RFC 9110, section 6.5.1: what a proxy before us did not look at is not what it said."""
    lines = [
        f"POST {SEARCH} HTTP/1.1",
        "Host: 127.0.0.1",
        "{}: {}".format(*wire.basic("vera", "viewer-of-many-things")),
        "Content-Type: application/json",
        "Transfer-Encoding: chunked",
        "X-Forwarded-For: 203.0.113.9",
        "Connection: close",
        "",
        "2",
        "{}",
        "0",
        "X-Forwarded-For: 198.51.100.1",
        "X-Request-Id: from-a-trailer",
        "X-Secret: from-a-trailer",
        "",
        "",
    ]
    with wire.connection(target.service, wire.TRUSTED) as connection:
        connection.sendall("\r\n".join(lines).encode())
        answer = wire.read(connection, "POST")
    assert answer.request_id != "from-a-trailer"
    assert target.logged(answer)["client"] == "203.0.113.9"
    sent = target.forwarded(answer)
    assert sent is not None
    assert "x-secret" not in sent[2]
