"""Other spellings of a path: none reaches a route that its plain spelling would not."""

from __future__ import annotations

import pytest
from attacked import Target

# Only an admin may list the gateway's secrets; MLflow 3.17.2 serves some of these spellings as that route.
ADMINS = "/api/3.0/mlflow/gateway/secrets/list"
ALIASES = [
    "//api/3.0/mlflow/gateway/secrets/list",
    "///api/3.0/mlflow/gateway/secrets/list",
    "/api//3.0/mlflow/gateway/secrets/list",
    "/api/3.0/mlflow/gateway/secrets//list",
    "/./api/3.0/mlflow/gateway/secrets/list",
    "/api/3.0/./mlflow/gateway/secrets/list",
    "/x/../api/3.0/mlflow/gateway/secrets/list",
    "/version/../api/3.0/mlflow/gateway/secrets/list",
    "/health/%2e%2e/api/3.0/mlflow/gateway/secrets/list",
    "/static-files/../api/3.0/mlflow/gateway/secrets/list",
    "/static-files/..%2fapi/3.0/mlflow/gateway/secrets/list",
    "/%2e/api/3.0/mlflow/gateway/secrets/list",
    "/%61pi/3.0/mlflow/gateway/secrets/list",
    "/api/3%2e0/mlflow/gateway/%73ecrets/list",
    "/api%2F3.0/mlflow/gateway/secrets/list",
    "/api/3.0/mlflow/gateway/secrets%2flist",
    "/%2Fapi/3.0/mlflow/gateway/secrets/list",
    "/%2561pi/3.0/mlflow/gateway/secrets/list",
    "/api%252F3.0/mlflow/gateway/secrets/list",
    "/api\\3.0\\mlflow\\gateway\\secrets\\list",
    "/api/3.0/mlflow/gateway\\secrets/list",
    "/api%5c3.0/mlflow/gateway/secrets/list",
    "/\\api/3.0/mlflow/gateway/secrets/list",
    "/api/3.0/mlflow/gateway/secrets/list%00",
    "/api/3.0/mlflow/gateway/secrets/list%00.css",
    "/api/3.0/mlflow/gateway/secrets/list%0a",
    "/api/3.0/mlflow/gateway/secrets/list%20",
    "/api/3.0/mlflow/gateway/secrets/list.",
    "/api/3.0/mlflow/gateway/secrets/list/",
    "/api/3.0/mlflow/gateway/secrets/list/.",
    "/api/3.0/mlflow/gateway/secrets/list;x",
    "/api;x=y/3.0/mlflow/gateway/secrets/list",
    "/api/3.0/mlflow/gateway/secrets/list;/../list",
    "/api/3.0/mlflow/gateway/secrets/list%3f",
    "/api/3.0/mlflow/gateway/secrets/list%23",
    "/API/3.0/mlflow/gateway/secrets/list",
    "/api/3.0/MLFLOW/gateway/secrets/list",
    "/Ajax-Api/3.0/mlflow/gateway/secrets/list",
    "/api%c0%af3.0/mlflow/gateway/secrets/list",
    "/api%e0%80%af3.0/mlflow/gateway/secrets/list",
    "/%c1%a1pi/3.0/mlflow/gateway/secrets/list",
    "/api%ef%bc%8f3.0/mlflow/gateway/secrets/list",
    "/api/3.0/mlflow/gateway/%ef%bd%93ecrets/list",
    "/api/3.0/mlflow/gateway/secret%c5%bf/list",
    "/api/3.0/mlflow/gateway/secrets/l%c4%b1st",
    "/%u0061pi/3.0/mlflow/gateway/secrets/list",
    "/api%",
    "/api/3.0/mlflow/gateway/secrets/list%",
    "//127.0.0.1/api/3.0/mlflow/gateway/secrets/list",
    "//evil.example/api/3.0/mlflow/gateway/secrets/list",
    "http://127.0.0.1/api/3.0/mlflow/gateway/secrets/list",
    "http://evil.example/api/3.0/mlflow/gateway/secrets/list",
    "https://vera:x@127.0.0.1/api/3.0/mlflow/gateway/secrets/list",
    "HTTP://127.0.0.1//api/3.0/mlflow/gateway/secrets/list",
    "/api/3.0/mlflow/gateway/secrets/list#x",
    "/x#/../api/3.0/mlflow/gateway/secrets/list",
    "api/3.0/mlflow/gateway/secrets/list",
    "?/api/3.0/mlflow/gateway/secrets/list",
    "*",
    "/?/api/3.0/mlflow/gateway/secrets/list",
    "/health?/../api/3.0/mlflow/gateway/secrets/list",
]
# What stands in a query leads nowhere.
OPEN_IN_ITSELF = ALIASES[-2:]


@pytest.mark.parametrize("alias", ALIASES)
def test_an_alias_opens_nothing_to_a_viewer_nor_to_nobody(target: Target, alias: str) -> None:
    for user in ("vera", None):
        answer = target.ask(user, "GET", alias)
        assert b"secrets" not in answer.body.lower() or answer.status in (400, 403)
        if alias in OPEN_IN_ITSELF:
            continue
        assert answer.status in ((400, 403) if user else (400, 401))
        assert answer.json()["error_code"] in ("BAD_REQUEST", "PERMISSION_DENIED", "UNAUTHENTICATED")
        assert target.forwarded(answer) is None


def test_the_plain_spelling_opens_it_to_an_admin_alone(target: Target) -> None:
    assert target.ask("vera", "GET", ADMINS).status == 403
    assert target.ask("edda", "GET", ADMINS).status == 403
    assert target.ask("ada", "GET", ADMINS).status == 200


def test_an_encoded_letter_is_authorized_and_forwarded_as_itself(target: Target) -> None:
    answer = target.ask("ada", "GET", "/%61pi/3.0/mlflow/gateway/%73ecrets/list?a=%61%2F")
    assert answer.status == 200
    assert target.logged(answer)["operation"] == "list-gateway-secrets"
    method, sent, _ = target.forwarded(answer) or ("", "", {})
    assert (method, sent) == ("GET", ADMINS + "?a=%61%2F")


@pytest.mark.parametrize("path", ["/livez", "/metrics", "/health", "/version"])
def test_an_open_page_is_open_by_that_spelling_alone(target: Target, path: str) -> None:
    for alias in (
        f"/{path}",
        f"{path}/",
        f"{path};x",
        f"{path}%00",
        f"/x/..{path}",
        path.upper(),
        f"{path}/../x",
    ):
        assert target.ask(None, "GET", alias).status in (400, 401), alias
    # In absolute form it is a request to a forward proxy, for whatever page.
    assert target.ask(None, "GET", f"http://evil.example{path}").status == 400


@pytest.mark.parametrize(
    "name",
    [
        "..%2f..%2fusers",
        "../../users",
        "%2e%2e/%2e%2e/users",
        "..%252f..%252fusers",
        "..%5c..%5cusers",
        "%2fetc%2fpasswd",
        "/etc/passwd",
        "a%00.txt",
        "a%0d%0aSet-Cookie:%20x",
        "file:%2f%2f%2fetc%2fpasswd",
    ],
)
def test_no_artifact_is_read_or_written_outside_the_artifacts(target: Target, name: str) -> None:
    before = {path for path in target.service.folder.rglob("*") if path.is_file()}
    for user in ("ada", "edda"):
        for method, body in (("GET", b""), ("PUT", b"attack"), ("HEAD", b"")):
            answer = target.ask(user, method, f"/api/2.0/mlflow-artifacts/artifacts/{name}", body=body)
            assert answer.status in (400, 404), (method, answer)
            assert b"root:" not in answer.body
    after = {path for path in target.service.folder.rglob("*") if path.is_file()}
    assert not {path for path in after - before if path.read_bytes() == b"attack"}


def test_an_artifact_has_one_name_however_it_is_encoded(target: Target) -> None:
    base = "/api/2.0/mlflow-artifacts/artifacts/"
    place = f"{target.experiment}/aliases/artifacts"
    assert target.ask("edda", "PUT", f"{base}{place}%2Fsub%2fa%20b.txt", body=b"one name").status == 200
    assert target.ask("vera", "GET", f"{base}{place}/sub/a%20b.txt").body == b"one name"
    assert target.ask("edda", "PUT", f"{base}{place}/a%252Fb.txt", body=b"two names").status == 400


def test_what_a_refused_path_was_stands_in_the_log_on_one_line(target: Target) -> None:
    answer = target.ask(None, "GET", "/a%0a%22%7d%0d%e2%80%a8%1b[2J//b")
    assert answer.status == 400
    line = target.logged(answer)
    assert line["operation"] == "unparsed"
    assert line["refusal"] == "bad_path"
    assert line["path"] == '/a\n"}\r\u2028\x1b[2J//b'
