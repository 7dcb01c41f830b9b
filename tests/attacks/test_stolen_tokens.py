"""Tokens in wrong hands: guessed, raised, revoked in the middle, left in a URL, passed off as a person."""

from __future__ import annotations

import asyncio
import itertools
import json
import statistics
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import token_site
import wire
from attacked import Target
from session_site import ADA, exchange_from
from token_site import ADA_SIGNED_IN, BOB, ROOT, Replica, replicas

from proxy.auth.tokens.format import made
from proxy.auth.tokens.in_use import POLL_SECONDS
from proxy.auth.verified import Verified, Wrong
from proxy.exchange import Refused
from proxy.identity import Role

API = "/-/api/tokens"
SEARCH = "/api/2.0/mlflow/experiments/search?max_results=1"
CREATE = "/api/2.0/mlflow/experiments/create"
ARTIFACT = "/api/2.0/mlflow-artifacts/artifacts/{}/upload.bin"
JSON = ("Content-Type", "application/json")
numbers = itertools.count()


def bearer(secret: str) -> tuple[str, str]:
    return "Authorization", f"Bearer {secret}"


def make(target: Target, user: str = "edda", **asked: Any) -> dict[str, Any]:
    answer = target.post(user, API, {"name": f"job {next(numbers)}", **asked})
    assert answer.status == 201, answer.text
    found = answer.json()
    assert isinstance(found, dict)
    return found


def revoke(target: Target, token_id: str, user: str = "ada") -> None:
    assert target.post(user, f"{API}/revoke", {"id": token_id}).status == 200


def strangers() -> Iterator[tuple[str, str]]:
    """An address of its own for each request, as a botnet has them."""
    for number in range(1, 65_000):
        yield "X-Forwarded-For", f"10.7.{number // 250}.{number % 250 + 1}"


# ---- Guessing ----


def test_a_wrong_checksum_never_reaches_the_database(target: Target) -> None:
    secret = make(target)["token"]
    asked = "mlflow_proxy_database_queries_total"
    tail = "a" if secret[-1] != "a" else "b"
    shapes = [secret[:-1] + tail, "mlfpat_" + "a" * 36, "mlfsat_x", secret + "x", secret[:-1]]
    address = strangers()

    def queries() -> float:
        text = target.ask("ada", "GET", "/metrics").text
        return float(next(line for line in text.splitlines() if line.startswith(asked)).split()[1])

    before, started = queries(), time.monotonic()
    for number in range(200):
        headers = (bearer(shapes[number % len(shapes)]), next(address))
        answer = wire.ask(target.service, "GET", SEARCH, *headers, source=wire.TRUSTED)
        assert answer.status == 401
        assert answer.json()["error_code"] == "UNAUTHENTICATED"
        assert target.forwarded(answer) is None
    # What the service asks by itself, every two seconds: tokens in use, the audit log's head.
    assert queries() - before <= 3 * (time.monotonic() - started) + 3


def test_guessed_tokens_are_counted_and_refused_unheard(target: Target) -> None:
    source = "127.0.7.1"
    start = f"GET {SEARCH} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    guesses = ["{}{}: {}\r\n\r\n".format(start, *bearer(made("person"))) for _ in range(602)]
    guesses[-1] = guesses[-1].replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n")
    statuses = wire.statuses(target.service, "".join(guesses).encode(), source=source, patience=60)
    assert statuses == [401] * 600 + [429] * 2
    answer = wire.ask(target.service, "GET", SEARCH, bearer(made("person")), source=source)
    assert int(answer.headers["retry-after"]) > 0


def test_wrong_keys_and_passwords_from_an_address_stop_no_token_there(target: Target) -> None:
    """Behind one address there are many: one sends a model provider's key, one guesses passwords, and jobs
    begin with tokens that were not in use yet."""
    source = "127.0.7.2"
    for number in range(20):
        for header in (bearer(f"sk-{number}"), wire.basic("edda", f"wrong {number}")):
            answer = wire.ask(target.service, "GET", SEARCH, header, source=source)
            assert answer.status in (401, 429)
    assert answer.status == 429
    token = make(target)["token"]
    assert wire.ask(target.service, "GET", SEARCH, bearer(token), source=source).status == 200


def test_an_unknown_token_takes_as_long_as_a_wrong_one(tmp_path: Path) -> None:
    """Of a token there is no half that could be right: whatever is sent is hashed and looked for by that.
    Here are the times and queries for tokens of no owner and for those that differ from a live one in one
    character, with the checksum that goes with it."""

    def neighbour(secret: str, place: int) -> str:
        from proxy.auth.tokens.format import _checksum

        other = "x" if secret[place] != "x" else "y"
        body = secret[:place] + other + secret[place + 1 : -6]
        return body + _checksum(body)

    async def test(replica: Replica) -> None:
        secret, _ = await replica.make()
        kinds: dict[str, list[float]] = {"unknown": [], "wrong": []}
        messages = set()
        for round_ in range(200):
            for kind in kinds:
                token = made("person") if kind == "unknown" else neighbour(secret, 7 + round_ % 30)
                replica.tokens._in_use._refused.clear()
                asked, began = replica.store.queries, time.perf_counter()
                outcome = await replica.ask(token)
                kinds[kind].append(time.perf_counter() - began)
                assert isinstance(outcome, Wrong)
                assert replica.store.queries == asked + 1
                messages.add(outcome.message)
        assert len(messages) == 1
        unknown, wrong = (statistics.median(times) for times in kinds.values())
        assert 0.7 < unknown / wrong < 1.4, (unknown, wrong)

    with replicas(token_site.settings(tmp_path)) as (replica,):
        asyncio.run(test(replica))


# ---- More than was given ----


@pytest.mark.parametrize(
    "role", ["admin", "ADMIN", " admin ", 3, ["admin"], {"admin": 1}, "editor\0", "owner", True, ""]
)
def test_a_role_above_the_owner_s_is_not_given(target: Target, role: Any) -> None:
    for user in ("vera", "edda"):
        answer = target.post(user, API, {"name": f"job {next(numbers)}", "role": role})
        assert answer.status in (400, 403), answer.text
        assert "token" not in answer.json()


@pytest.mark.parametrize(
    "body",
    [
        b'{"name": "x", "role": "viewer", "role": "admin"}',
        b'{"name": "x", "Role": "admin"}',
        b'{"name": "x", "user": "ada"}',
        b'{"name": "x", "owner": "ada", "service_account": "ci"}',
        b'{"name": "x", "lifetime": 1e300}',
        b'{"name": "x", "lifetime": NaN}',
        b'{"name": "x", "lifetime": -1}',
        b'{"name": "x", "lifetime": true}',
        b'[{"name": "x"}]',
        b'"{\\"name\\": \\"x\\"}"',
        b"name=x&role=admin",
        b"{" * 5000,
    ],
)
def test_a_body_that_asks_for_more_in_another_way_makes_nothing(target: Target, body: bytes) -> None:
    answer = target.ask("edda", "POST", API, JSON, body=body)
    assert answer.status in (400, 403), answer.text
    assert "mlfpat_" not in answer.text


def test_a_viewer_s_and_a_read_only_token_change_nothing(target: Target) -> None:
    for asked in ({"role": "viewer"}, {"read_only": True}, {"role": "editor", "read_only": True}):
        token = bearer(make(target, **asked)["token"])
        assert wire.ask(target.service, "GET", SEARCH, token).status == 200
        answer = wire.post(target.service, CREATE, {"name": f"x{next(numbers)}"}, token)
        assert answer.status == 403
        assert answer.json()["error_code"] == "PERMISSION_DENIED"
        upload = ARTIFACT.format(target.experiment)
        assert wire.ask(target.service, "PUT", upload, token, body=b"x").status == 403
        for method, path in (("GET", API), ("POST", API), ("POST", f"{API}/renew")):
            body = json.dumps({"name": "x"} if path == API else {"id": "f" * 16}).encode()
            answer = wire.ask(target.service, method, path, token, JSON, body=body)
            assert answer.status == 403, (method, path)


def test_a_token_makes_renews_and_lists_none(target: Target) -> None:
    found = make(target, "ada")
    for credential in (bearer(found["token"]), wire.basic("ada", found["token"])):
        for method, path, body in (
            ("GET", API, {}),
            ("POST", API, {"name": "x"}),
            ("POST", f"{API}/renew", {"id": found["id"]}),
            ("POST", f"{API}/revoke", {"id": make(target, "ada")["id"]}),
        ):
            data = json.dumps(body).encode()
            answer = wire.ask(target.service, method, path, credential, JSON, body=data)
            assert answer.status == 403, (method, path)
            assert "token" not in answer.json()
        assert wire.ask(target.service, "GET", SEARCH, credential).status == 200


def test_another_s_token_can_be_neither_seen_renewed_nor_revoked(target: Target) -> None:
    hers = make(target, "ada")
    assert hers["id"] not in target.ask("edda", "GET", API).text
    for what in ("renew", "revoke"):
        there = target.post("edda", f"{API}/{what}", {"id": hers["id"]})
        nowhere = target.post("edda", f"{API}/{what}", {"id": "f" * 16})
        assert (there.status, nowhere.status) == (404, 404)
        assert there.text.replace(hers["id"], "") == nowhere.text.replace("f" * 16, "")
    assert wire.ask(target.service, "GET", SEARCH, bearer(hers["token"])).status == 200


def test_a_token_of_one_user_is_not_another_s_because_the_name_says_so(target: Target) -> None:
    secret = make(target, "vera")["token"]
    for name in ("ada", "edda", "metrics", "x"):
        answer = wire.ask(target.service, "GET", SEARCH, wire.basic(name, secret))
        assert target.logged(answer)["user"] == "vera"
        answer = wire.post(target.service, CREATE, {"name": "x"}, wire.basic(name, secret))
        assert answer.status == 403


def test_a_token_is_no_header_s_cookie_s_or_query_s(target: Target) -> None:
    secret = make(target)["token"]
    for path, *headers in (
        (f"{SEARCH}&token={secret}&access_token={secret}",),
        (SEARCH, ("Cookie", f"token={secret}; access_token={secret}")),
        (SEARCH, ("X-Api-Key", secret), ("X-MLflow-Authorization", f"Bearer {secret}")),
        (SEARCH, ("Authorization", secret)),
        (SEARCH, ("Authorization", f"Token {secret}")),
        (SEARCH, wire.basic(secret, "x")),
        (SEARCH, wire.basic(secret, "")),
    ):
        answer = wire.ask(target.service, "GET", path, *headers, source="127.0.7.9")
        assert answer.status == 401, headers


# ---- Once it is over ----


def test_a_revoked_token_is_refused_with_the_next_request(target: Target) -> None:
    found = make(target)
    for credential in (bearer(found["token"]), wire.basic("x", found["token"])):
        assert wire.ask(target.service, "GET", SEARCH, credential).status == 200
    revoke(target, found["id"])
    for credential in (bearer(found["token"]), wire.basic("x", found["token"])):
        answer = wire.ask(target.service, "GET", SEARCH, credential)
        assert answer.status == 401
        assert answer.json()["error_code"] == "UNAUTHENTICATED"
        assert "was revoked on" in answer.json()["message"]
        assert " by ada. " in answer.json()["message"]
        assert "retry-after" not in answer.headers


def logged(target: Target, path: str) -> dict[str, Any]:
    """The access log's line of an upload, which comes a little after the answer."""
    deadline = time.monotonic() + 30
    while True:
        for line in target.service.access_log():
            if (line["path"], line["method"]) == (path, "PUT"):
                return line
        assert time.monotonic() < deadline, "it is not in the access log"
        time.sleep(0.1)


def test_a_token_revoked_in_mid_upload_ends_the_upload(target: Target) -> None:
    found = make(target)
    path = ARTIFACT.format(f"{target.experiment}/mid-{next(numbers)}")
    head = (
        f"PUT {path} HTTP/1.1\r\nHost: 127.0.0.1:{target.service.port}\r\n"
        f"Authorization: Bearer {found['token']}\r\nContent-Length: 100000000\r\n\r\n"
    )
    with wire.connection(target.service, patience=30) as connection:
        connection.sendall(head.encode())
        for _ in range(10):
            connection.sendall(b"x" * 65536)
            time.sleep(0.05)
        revoke(target, found["id"])
        revoked = time.monotonic()
        answer = wire.read(connection, "PUT")
        assert time.monotonic() - revoked < POLL_SECONDS + 10
    assert answer.status == 401
    assert target.ask("edda", "GET", path).status == 404
    assert logged(target, path)["error"] == "revoked"


def test_an_upload_with_another_token_of_the_same_owner_goes_on(target: Target) -> None:
    kept, other = make(target), make(target)
    assert wire.ask(target.service, "GET", SEARCH, bearer(other["token"])).status == 200
    path = ARTIFACT.format(f"{target.experiment}/kept-{next(numbers)}")
    head = (
        f"PUT {path} HTTP/1.1\r\nHost: 127.0.0.1:{target.service.port}\r\n"
        f"Authorization: Bearer {kept['token']}\r\nContent-Length: 4\r\nConnection: close\r\n\r\n"
    )
    with wire.connection(target.service) as connection:
        connection.sendall(head.encode() + b"ab")
        time.sleep(0.2)
        revoke(target, other["id"])
        time.sleep(0.2)
        connection.sendall(b"cd")
        assert wire.read(connection, "PUT").status == 200
    assert target.ask("edda", "GET", path).body == b"abcd"


# ---- Where it could show ----


def test_a_token_in_a_url_or_a_header_stands_in_no_log(target: Target) -> None:
    found = make(target)
    secret = found["token"]
    for path, *headers in (
        (SEARCH, bearer(secret)),
        (SEARCH, wire.basic("x", secret)),
        (f"{SEARCH}&token={secret}", bearer(secret)),
        (f"/-/api/tokens?token={secret}", bearer(secret)),
        (f"//refused?{secret}", bearer(secret)),
        ("/no/such/route?" + secret, ("Referer", f"https://x/{secret}"), bearer(secret)),
        (SEARCH, ("Cookie", secret), bearer(secret)),
        (SEARCH, bearer(secret[:-1] + "!")),
    ):
        target.logged(wire.ask(target.service, "GET", path, *headers))
    revoke(target, found["id"])
    answer = wire.ask(target.service, "GET", SEARCH, bearer(secret))
    target.logged(answer)
    time.sleep(1.5)  # the audit log's writer
    audit = target.service.data / "audit"
    shown = {
        "answer": answer.text,
        "access log": (target.service.folder / "access.log").read_text(),
        "application log": target.service.log(),
        "metrics": target.ask("ada", "GET", "/metrics").text,
        "list": target.ask("edda", "GET", API).text,
        "audit log": "".join(path.read_text() for path in audit.glob("*.jsonl")),
    }
    for where, text in shown.items():
        assert text, where
        assert secret[7:-1] not in text, where
    assert found["id"] in shown["audit log"]
    assert found["id"] in shown["access log"]


def test_a_token_goes_no_further_than_here(target: Target) -> None:
    secret = make(target)["token"]
    for credential in (bearer(secret), wire.basic("edda", secret)):
        answer = wire.ask(target.service, "GET", SEARCH, credential)
        forwarded = target.forwarded(answer)
        assert forwarded is not None
        assert "authorization" not in {name.lower() for name in forwarded[2]}
        assert secret not in str(forwarded)


def test_a_token_is_shown_once_and_kept_in_no_cache(target: Target) -> None:
    answer = target.post("edda", API, {"name": f"job {next(numbers)}"})
    assert "no-store" in answer.headers["cache-control"]
    secret = answer.json()["token"]
    database = b"".join(path.read_bytes() for path in target.service.data.glob("proxy.db*"))
    assert answer.json()["id"].encode() in database
    assert secret[7:].encode() not in database


# ---- A service account used as a person ----


def test_a_service_account_is_no_person(tmp_path: Path) -> None:
    async def test(replica: Replica) -> None:
        exchange = exchange_from()
        for name in ("bob", "root"):  # users with passwords, too
            await replica.tokens.create_service_account(ROOT, name, Role.ADMIN, "", exchange)
        secret, _ = await replica.make(ROOT, service_account="bob")
        outcome = await replica.ask(secret)
        assert isinstance(outcome, Verified)
        identity = outcome.identity
        assert identity is not None
        assert (identity.user, identity.issuer) == ("service:bob", "service")
        _, bobs = await replica.make(BOB)
        # An administrator's role, and yet nothing that is a person's.
        for asked in (
            replica.tokens.list_for(identity),
            replica.make(identity, name="x"),
            replica.make(identity, name="x", service_account="root"),
            replica.tokens.renew(identity, bobs.id, overlap=None, exchange=exchange),
            replica.tokens.revoke(identity, bobs.id, exchange),
            replica.tokens.create_service_account(identity, "y", Role.VIEWER, "", exchange),
            replica.tokens.remove_service_account(identity, "root", exchange),
        ):
            with pytest.raises(Refused) as caught:
                await asked
            assert caught.value.status == 403
        # Its owner is the account, whoever else has that name.
        del replica.roles["bob"]
        await replica.tokens.look()
        assert outcome.identity == identity
        await replica.tokens.remove_service_account(ROOT, "bob", exchange)
        assert outcome.identity is None

    with replicas(token_site.settings(tmp_path)) as (replica,):
        asyncio.run(test(replica))


def test_a_person_s_claims_make_no_service_account(tmp_path: Path) -> None:
    """The one whose subject, user and issuer are those of an account is kept apart by the issuer's being a
    provider's."""

    async def test(replica: Replica) -> None:
        exchange = exchange_from()
        await replica.tokens.create_service_account(ROOT, "ci", Role.ADMIN, "", exchange)
        ada = ADA
        claims = replace(ada, subject="ci", user="service:ci", groups=("viewers",))
        await replica.vouch(claims, time.time())
        person = replace(ADA_SIGNED_IN, subject="ci", role=Role.VIEWER)
        secret, _ = await replica.make(person)
        identity = await replica.who(secret)
        assert (identity.role, identity.issuer) == (Role.VIEWER, ada.issuer)
        await replica.tokens.remove_service_account(ROOT, "ci", exchange)
        assert (await replica.who(secret)).role == Role.VIEWER

    with replicas(token_site.settings(tmp_path)) as (replica,):
        asyncio.run(test(replica))
