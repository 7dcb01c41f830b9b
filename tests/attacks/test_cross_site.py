"""A page of another site, in the browser of somebody who is signed in; and a name that is not ours."""

from __future__ import annotations

import pytest
import wire
from attacked import Target

EVIL = "https://evil.example"
SEARCH = "/api/2.0/mlflow/experiments/search"
CREATE = "/api/2.0/mlflow/experiments/create"
WRITES = [
    ("POST", "/api/2.0/mlflow/runs/create"),
    ("POST", "/ajax-api/2.0/mlflow/runs/create"),
    ("POST", CREATE),
    ("POST", SEARCH),
    ("POST", "/graphql"),
    ("POST", "/v1/traces"),
    ("POST", "/gateway/openai/v1/chat/completions"),
    ("POST", "/gateway/proxy/any/v1/responses"),
    ("POST", "/ajax-api/2.0/mlflow/upload-artifact?run_uuid=x&path=x"),
    ("POST", "/ajax-api/3.0/mlflow/assistant/message"),
    ("POST", "/ajax-api/3.0/jobs/"),
    ("PUT", "/api/2.0/mlflow-artifacts/artifacts/0/x"),
    ("PATCH", "/api/2.0/mlflow/registered-models/update"),
    ("DELETE", "/api/2.0/mlflow/registered-models/delete"),
    ("POST", "/no/such/route"),
    # They are GETs, and do something all the same.
    ("GET", "/ajax-api/3.0/mlflow/assistant/sessions/x/stream"),
    ("GET", "/ajax-api/3.0/mlflow/assistant/providers/x/models?base_url=https://evil.example"),
    ("GET", "/api/2.0/mlflow-artifacts/presigned/0/x"),
    ("GET", "/no/such/route"),
]
SITES = [
    (("Sec-Fetch-Site", "cross-site"),),
    (("Sec-Fetch-Site", "same-site"), ("Origin", "https://sister.example.com")),
    (("Sec-Fetch-Site", "cross-site"), ("Origin", "https://127.0.0.1:{port}")),
    (("Origin", EVIL),),
    (("Origin", "null"),),
    (("Origin", "https://127.0.0.1"),),
    (("Origin", "http://127.0.0.1:{port}"),),
    (("Origin", "https://127.0.0.1:{port}.evil.example"),),
    (("Origin", "https://127.0.0.1:{port}@evil.example"),),
    (("Origin", "https://localhost:{port}"),),
]


@pytest.mark.parametrize("route", WRITES, ids=lambda route: " ".join(route))
def test_another_site_makes_a_browser_do_nothing(target: Target, route: tuple[str, str]) -> None:
    for site in SITES:
        headers = [(name, value.replace("{port}", str(target.service.port))) for name, value in site]
        answer = target.ask("ada", *route, *headers, body=b"" if route[0] == "GET" else b"{}")
        assert answer.status == 403, (headers, answer)
        assert target.logged(answer)["refusal"] == "cross_origin"
        assert target.forwarded(answer) is None


def test_a_form_of_another_site_logs_nothing(target: Target) -> None:
    """What needs no preflight: a form's three content types, with a JSON document in it."""
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        headers = (("Content-Type", kind), ("Origin", EVIL))
        answer = target.ask("edda", "POST", CREATE, *headers, body=b'{"name": "by another site"}')
        assert answer.status == 403
    found = target.post("vera", SEARCH, {"max_results": 100}).json()["experiments"]
    assert "by another site" not in [experiment["name"] for experiment in found]


def test_another_site_reads_nothing_of_what_it_may_ask_for(target: Target) -> None:
    headers = (("Origin", EVIL), ("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Mode", "cors"))
    answer = target.ask("vera", "GET", f"{SEARCH}?max_results=1", *headers)
    assert answer.status == 200
    assert not [name for name in answer.headers if name.startswith("access-control-")]


def test_another_site_is_granted_no_preflight(target: Target) -> None:
    asked = (("Origin", EVIL), ("Access-Control-Request-Method", "POST"))
    for user, status in ((None, 403), ("ada", 403)):
        answer = target.ask(user, "OPTIONS", CREATE, *asked)
        assert answer.status == status
        assert not [name for name in answer.headers if name.startswith("access-control-")]


def test_the_ui_is_shown_in_no_frame_of_another_site(target: Target) -> None:
    answer = target.ask("vera", "GET", "/", ("Sec-Fetch-Site", "cross-site"))
    assert answer.status == 200
    assert answer.headers["x-frame-options"] == "SAMEORIGIN"


def test_the_same_page_works_under_whatever_name_is_served(target: Target) -> None:
    for host in (f"127.0.0.1:{target.service.port}", "mlflow.example.com", "MLflow.Example.com:8443"):
        for headers in (
            (("Origin", f"https://{host}"),),
            (("Origin", f"https://{host}"), ("Sec-Fetch-Site", "same-origin")),
            (("Sec-Fetch-Site", "none"),),
        ):
            answer = target.post("vera", SEARCH, {"max_results": 1}, *headers, host=host)
            assert answer.status == 200, headers
            sent = target.forwarded(answer)
            assert sent is not None
            assert "origin" not in sent[2]


def test_a_program_is_not_disturbed(target: Target) -> None:
    for route in ("/graphql", SEARCH):
        assert target.post("vera", route, {"query": "{__typename}"}).status in (200, 400)
    answer = target.post("edda", "/ajax-api/2.0/mlflow/runs/create", {"experiment_id": target.experiment})
    assert answer.status == 200


FOREIGN = [
    "evil.example",
    "evil.example:8443",
    "127.0.0.1.evil.example",
    "10.evil.com",
    "localhost@evil.example",
    "evil.example@localhost",
    "mlflow.example.com.evil.example",
    "127.0.0.2",
    "0x7f000001",
    "[::ffff:127.0.0.1]",
    "localhost:8443:8443",
    "localhost, evil.example",
    "mlflow.example.com/x",
    "",
    "\xe9vil.example",
]


@pytest.mark.parametrize("host", FOREIGN)
def test_a_name_that_is_not_ours_leads_nowhere(target: Target, host: str) -> None:
    """DNS rebinding: a page of evil.example, whose name now means this address."""
    for user, path in (("ada", "/"), ("ada", SEARCH), (None, "/"), (None, "/health"), (None, "/version")):
        answer = target.ask(user, "GET", path, ("Origin", f"https://{host}"), host=host)
        assert answer.status == 421, answer
        assert "PROXY_ALLOWED_HOSTS" in answer.json()["message"]
        assert "PROXY_PUBLIC_URL" in answer.json()["message"]
        assert target.logged(answer)["refusal"] == "misdirected"
    for path in ("/livez", "/readyz"):
        assert target.ask(None, "GET", path, host=host).status == 200


def test_our_names_are_ours_however_they_are_written(target: Target) -> None:
    for host in ("LocalHost", "localhost.", "localhost:1", "[::1]:8443", "MLFLOW.EXAMPLE.COM", "127.0.0.1:9"):
        assert target.ask("vera", "GET", f"{SEARCH}?max_results=1", host=host).status == 200, host


@pytest.mark.parametrize("second", ["evil.example", "127.0.0.1", ""])
def test_a_request_has_one_name(target: Target, second: str) -> None:
    answer = target.ask("vera", "GET", SEARCH, ("Host", second))
    assert answer.status == 400


def test_a_request_without_a_name_leads_nowhere(target: Target) -> None:
    assert wire.statuses(target.service, b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n") == [421]
    assert wire.statuses(target.service, b"GET /health HTTP/1.0\r\n\r\n") == [421]


def test_a_forwarded_name_counts_for_nothing(target: Target) -> None:
    for source in (wire.HERE, wire.TRUSTED):
        forged = (("X-Forwarded-Host", "127.0.0.1"), ("Forwarded", "host=127.0.0.1"))
        assert target.ask("vera", "GET", SEARCH, *forged, host="evil.example", source=source).status == 421
        forged = (("X-Forwarded-Host", "evil.example"), ("X-Forwarded-Proto", "http"))
        answer = target.post("vera", SEARCH, {}, *forged, ("Origin", EVIL), source=source)
        assert answer.status == 403
