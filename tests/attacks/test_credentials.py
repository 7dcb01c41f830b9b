"""Guessing, and credentials at doors that they are not for."""

from __future__ import annotations

import base64
import concurrent.futures
import http.client

import pytest
import wire
from attacked import METRICS_TOKEN, PASSWORDS, Target
from service import PASSWORD, USER
from tap import arguments, environment, web_server

SEARCH = "/api/2.0/mlflow/experiments/search?max_results=1"
ALLOWED = 6  # PROXY_LOGIN_FAILURES of this service


def bearer(token: str) -> tuple[str, str]:
    return "Authorization", f"Bearer {token}"


def jobs_token(target: Target) -> str:
    return environment(web_server(target.service))["MLFLOW_TRACKING_TOKEN"]


def internal(target: Target, path: str, *headers: tuple[str, str]) -> tuple[int, str]:
    """Ask at the loopback listener that is for MLflow's jobs."""
    command = arguments(web_server(target.service))
    port = int(command[command.index("--port") + 1])
    assert port != target.service.port
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", path, headers=dict(headers))
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def test_the_scraper_s_token_opens_the_metrics_and_nothing_else(target: Target) -> None:
    token = bearer(METRICS_TOKEN)
    answer = wire.ask(target.service, "GET", "/metrics", token)
    assert answer.status == 200
    assert "mlflow_proxy_requests_total" in answer.text
    for method, path in (
        ("GET", "/"),
        ("GET", SEARCH),
        ("POST", "/graphql"),
        ("GET", "/ajax-api/2.0/mlflow/users/current"),
        ("GET", "/metrics/"),
        ("GET", "/no/such/route"),
    ):
        answer = wire.ask(target.service, method, path, token)
        assert answer.status == 403, path
        assert target.forwarded(answer) is None
    assert wire.ask(target.service, "POST", "/metrics", token).status == 405
    for user in ("metrics", "ada", ""):
        as_password = wire.basic(user, METRICS_TOKEN)
        assert wire.ask(target.service, "GET", "/metrics", as_password, source="127.0.4.1").status == 401


def test_the_metrics_are_for_admins_and_the_scraper(target: Target) -> None:
    assert wire.ask(target.service, "GET", "/metrics").status == 401
    assert target.ask("vera", "GET", "/metrics").status == 403
    assert target.ask("edda", "GET", "/metrics").status == 403
    assert target.ask("ada", "GET", "/metrics").status == 200


def test_the_jobs_credential_is_worth_nothing_at_the_public_door(target: Target) -> None:
    token = jobs_token(target)
    assert len(token) >= 32
    for credential in (bearer(token), wire.basic("mlflow-jobs", token), wire.basic("ada", token)):
        for source in (wire.HERE, wire.TRUSTED):
            headers = (credential, ("X-Forwarded-For", "127.0.5.1"))
            answer = wire.ask(target.service, "GET", SEARCH, *headers, source=source)
            assert answer.status == 401


def test_the_jobs_door_is_open_to_the_jobs_alone(target: Target) -> None:
    token = jobs_token(target)
    assert internal(target, SEARCH, bearer(token))[0] == 200
    assert internal(target, SEARCH)[0] == 401
    for credential in (
        wire.basic("ada", PASSWORDS["ada"]),
        wire.basic(USER, PASSWORD),
        bearer(METRICS_TOKEN),
        bearer(""),
        bearer(token[:-1]),
        wire.basic("mlflow-jobs", ""),
        ("Authorization", token),
    ):
        status, text = internal(target, SEARCH, credential)
        assert status == 401, credential
        assert "public URL" in text
    # A password that was right at the public door a moment ago is not remembered here.
    assert target.ask("ada", "GET", SEARCH).status == 200
    assert internal(target, SEARCH, wire.basic("ada", PASSWORDS["ada"]))[0] == 401
    # And the jobs administer nothing.
    for path in ("/metrics", "/api/3.0/mlflow/gateway/secrets/list", "/no/such/route"):
        assert internal(target, path, bearer(token))[0] == 403
    assert internal(target, SEARCH, bearer(token), ("X-Forwarded-For", "203.0.113.1"))[0] == 200
    assert "203.0.113.1" not in [line["client"] for line in target.service.access_log()[-2:]]


@pytest.mark.parametrize(
    "credential",
    [
        "",
        "Basic",
        "Basic ",
        "Basic !!!",
        "Basic " + base64.b64encode(b"ada").decode(),
        "Basic " + base64.b64encode(b":" + PASSWORDS["ada"].encode()).decode(),
        "Basic " + base64.b64encode(b"ada:").decode(),
        "Basic " + base64.b64encode(b"ada\x00:" + PASSWORDS["ada"].encode()).decode(),
        "Basic " + base64.b64encode(b"ADA:" + PASSWORDS["ada"].encode()).decode(),
        "Basic " + base64.b64encode(b" ada:" + PASSWORDS["ada"].encode()).decode(),
        "Basic " + base64.b64encode(b"ada:" + PASSWORDS["ada"].encode() + b"\x00").decode(),
        "Basic " + base64.b64encode(b"\xff:\xff").decode(),
        "Bearer",
        "Bearer ",
        "Bearer null",
        "Digest username=ada",
        "Negotiate x",
        PASSWORDS["ada"],
    ],
)
def test_a_malformed_credential_opens_nothing(target: Target, credential: str) -> None:
    source = f"127.0.6.{1 + sum(credential.encode()) % 250}"
    answer = wire.ask(target.service, "GET", SEARCH, ("Authorization", credential), source=source)
    assert answer.status == 401
    assert answer.json()["error_code"] == "UNAUTHENTICATED"
    assert target.forwarded(answer) is None


def test_guessing_is_stopped_and_stops_nobody_else(target: Target) -> None:
    assert target.ask("vera", "GET", SEARCH, source="127.0.7.2").status == 200
    guesser = "127.0.7.1"

    def guess(number: int) -> int:
        credential = wire.basic("vera", f"guess {number}")
        return wire.ask(target.service, "GET", SEARCH, credential, source=guesser).status

    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        statuses = list(pool.map(guess, range(3 * ALLOWED)))
    assert set(statuses) == {401, 429}
    assert statuses.count(401) <= ALLOWED + 1  # two hashes are computed at once
    # Right from wrong is not told any more from there,
    answer = target.ask("vera", "GET", SEARCH, source=guesser)
    assert answer.status == 429
    assert int(answer.headers["retry-after"]) <= 60
    assert "Wait" in answer.json()["message"]
    # an address of one's own making helps an untrusted peer nothing,
    for forged in ("203.0.113.50", "127.0.7.2"):
        assert target.ask("vera", "GET", SEARCH, ("X-Forwarded-For", forged), source=guesser).status == 429
    # and she herself, at work elsewhere, notices nothing.
    assert target.ask("vera", "GET", SEARCH, source="127.0.7.2").status == 200
    assert target.ask("edda", "GET", SEARCH, source="127.0.7.3").status == 200


def test_behind_a_trusted_proxy_each_caller_is_stopped_alone(target: Target) -> None:
    def ask(client: str, password: str) -> int:
        headers = (wire.basic("edda", password), ("X-Forwarded-For", client))
        return wire.ask(target.service, "GET", SEARCH, *headers, source=wire.TRUSTED).status

    assert ask("203.0.113.61", PASSWORDS["edda"]) == 200
    seen = {ask("127.0.0.1, 203.0.113.60", f"guess {number}") for number in range(ALLOWED + 2)}
    assert seen == {401, 429}
    assert ask("203.0.113.60", PASSWORDS["edda"]) == 429
    assert ask("198.51.100.9, 203.0.113.60", PASSWORDS["edda"]) == 429  # what it wrote itself is not read
    assert ask("203.0.113.61", PASSWORDS["edda"]) == 200
