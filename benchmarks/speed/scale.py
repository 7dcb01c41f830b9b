"""Scale: what 2,000 idle and 500 active connections cost, and what a request does beside many of everything.

    .venv/bin/python benchmarks/speed/scale.py [--rounds 3] [--seconds 2] [--most 100000]

Each proxy knows so many users (10, 1,000, 100,000; no more than 12,000 of them fit into a users file, the
others are people of an identity provider's), tokens and sessions, and the requests for labels name as many
runs and programs. Requests are counted in the proxy's CPU time at 16
connections. By itself it prints what it found and keeps nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import re
import resource
import secrets
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from arrangements import BASIC, METRICS_TOKEN, PROXY, TARGET, USER, Ours, hashed
from load import wrk
from processes import cpu, forget_peak, peak, resident

from proxy.auth.session.cookie import Cookie, Payload, new_key, own_url, session_id
from proxy.auth.session.secret import cookie_secrets
from proxy.identity import Role
from proxy.settings import Settings, proxy_database_uri
from proxy.store import Store
from proxy.store.tables import people, sessions, tokens

IDLE, ACTIVE = 2000, 500
COUNTS = (10, 1000, 100_000)
ISSUER = "https://127.0.0.1:1/"
"""Where no identity provider is: sessions are on, and none is asked about within PROXY_SESSION_REFRESH."""
IN_FILE = 12_000
"""Users that a users file can hold, which may have 1 MiB; further ones are an identity provider's people."""
KINDS = ("users", "tokens", "sessions", "labels")


class Crowded(Ours):
    """A proxy with so many users, tokens and sessions."""

    def __init__(self, folder: Path, upstream: Path, count: int) -> None:
        super().__init__(folder, upstream)
        self.count = count
        self.name = f"mlflow-proxy, {count:,} of each"
        self.credentials: dict[str, dict[str, str]] = {}

    @property
    def environment(self) -> dict[str, str]:
        return super().environment | {
            "MLFLOW_UI_OAUTH_ISSUER_URL": ISSUER,
            "MLFLOW_UI_OAUTH_CLIENT_ID": "bench",
            "PROXY_ALLOWED_EMAIL_DOMAINS": "example.com",
            "PROXY_DEFAULT_ROLE": "editor",
            "PROXY_SESSION_REFRESH": "3600",
        }

    def command(self) -> Sequence[str]:
        command = super().command()
        one = hashed()
        with (self.folder / "users").open("w") as file:
            others = min(self.count, IN_FILE) - 1
            file.writelines(f"user{number}:{one}:viewer\n" for number in range(others))
            file.write(f"{USER}:{one}:editor\n")
        settings = Settings(
            data_dir=self.folder / "data",
            port=self.port,
            tls=False,
            oauth_issuer_url=ISSUER,
            oauth_client_id="bench",
        )
        Store.open(settings).close()
        engine = sa.create_engine(proxy_database_uri(settings))
        token = self._token()
        key = new_key()
        with engine.begin() as connection:
            made = connection.execute(sa.select(tokens)).mappings().one()
            _fill(connection, tokens, [_other_token(made, n) for n in range(self.count - 1)])
            rows = [_session(secrets.token_hex(32), n) for n in range(self.count - 1)]
            _fill(connection, sessions, [*rows, _session(session_id(key), self.count)])
            _fill(connection, people, [_person(n) for n in range(self.count + 1)])
        engine.dispose()
        payload = Payload(key, 1, time.time(), _user(self.count), Role.EDITOR)
        cookie = Cookie(own_url(settings), cookie_secrets(settings)).made(payload, 3600).decode()
        self.credentials = {
            "users": {"Authorization": BASIC},
            "tokens": {"Authorization": f"Bearer {token}"},
            "sessions": {"Cookie": cookie.partition(";")[0]},
            "labels": {"Authorization": BASIC},
        }
        return command

    def _token(self) -> str:
        printed = subprocess.run(
            [PROXY, "token", "create", "--user", USER, "--name", "bench"],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        found = re.search(r"mlfpat_\w+", printed)
        assert found is not None, printed
        return found[0]


def _fill(connection: sa.Connection, table: sa.Table, rows: list[dict[str, Any]]) -> None:
    for start in range(0, len(rows), 5000):
        if part := rows[start : start + 5000]:
            connection.execute(sa.insert(table), part)


def _other_token(made: Any, number: int) -> dict[str, Any]:
    return {
        **made,
        "id": f"{number:016x}",
        "hash": hashlib.sha256(str(number).encode()).hexdigest(),
        "name": f"token {number}",
        "owner": hashlib.sha256(f"owner {number}".encode()).hexdigest(),
        "user": _user(number),
    }


def _user(number: int) -> str:
    return f"person{number}@example.com"


def _who(number: int) -> dict[str, Any]:
    return {
        "user": _user(number),
        "email": _user(number),
        "email_verified": True,
        "name": "A Person",
        "issuer": ISSUER,
        "subject": str(number),
        "groups": [],
    }


def _session(which: str, number: int) -> dict[str, Any]:
    now = time.time()
    return _who(number) | {
        **dict.fromkeys(("created", "last_seen", "refreshed", "generation_since"), now),
        **dict.fromkeys(("refreshing", "retry"), 0.0),
        **dict.fromkeys(("issued", "generation"), 1),
        **{"id": which, "role": int(Role.EDITOR), "ends": now + 86400, "client": "127.0.0.1"},
        **{"user_agent": "bench", "provider_sid": None, "tokens": None, "ended": None, "ended_by": None},
    }


def _person(number: int) -> dict[str, Any]:
    which = hashlib.sha256(f"{ISSUER}\0{number}".encode()).hexdigest()
    return _who(number) | {"id": which, "vouched": time.time(), "suspended": None, "suspended_by": None}


LUA = """
local n = 0
request = function()
  n = n + 1
  local which = n %% %d
  wrk.headers["User-Agent"] = "program/" .. which
  return wrk.format("GET", "/api/2.0/mlflow/runs/get?run_id=" .. string.format("%%032d", which))
end
"""


def measure(folder: Path, *, rounds: int, seconds: int, most: int) -> dict[str, Any]:
    """CPU microseconds a request by what there is many of and of how many, round by round; and how many
    series /metrics has."""
    spent: dict[str, dict[int, list[float]]] = {kind: {} for kind in KINDS}
    counts = [count for count in COUNTS if count <= most]
    series = {}
    with contextlib.ExitStack() as stack:
        running = [Crowded(folder / str(count), folder / "none", count) for count in counts]
        for one in running:
            stack.enter_context(one.running())
            script = one.folder / "labels.lua"
            script.write_text(LUA % one.count)
            for kind in KINDS:
                _spent(one, kind, 1)
            if one.count > 1000:  # most of its runs are to have been named before it is measured
                _spent(one, "labels", seconds * 10)
        for _ in range(rounds):
            for kind in KINDS:
                for one in running:
                    spent[kind].setdefault(one.count, []).append(_spent(one, kind, seconds))
        for one in running:
            series[one.count] = _series(one)
    return {"cpu us": spent, "series": series}


def _spent(one: Crowded, kind: str, seconds: int) -> float:
    pids = one.pids()
    before = cpu(pids)
    script = one.folder / "labels.lua" if kind == "labels" else None
    load = wrk(one.url + TARGET, 16, seconds, headers=one.credentials[kind], script=script)
    if load.failed or not load.requests:
        sys.exit(f"{one.name}, {kind}: {load.failed} of {load.requests} requests failed")
    return (cpu(pids) - before) / load.requests * 1e6


def _series(one: Ours) -> int:
    asked = urllib.request.Request(f"{one.url}/metrics", headers={"Authorization": f"Bearer {METRICS_TOKEN}"})
    with urllib.request.urlopen(asked, timeout=60) as answer:
        return sum(not line.startswith(b"#") for line in answer.read().splitlines())


def connections(folder: Path, *, seconds: int) -> dict[str, float]:
    """What idle and active connections cost in memory (bytes each) and whether all are served."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    one = Ours(folder / "connections", folder / "none")
    asked = f"GET {TARGET} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: {BASIC}\r\n\r\n".encode()
    with one.running(), contextlib.ExitStack() as stack:
        wrk(one.url + TARGET, 64, 2, BASIC)
        pids = one.pids()
        before = resident(pids)
        lines = []
        for _ in range(IDLE):
            line = stack.enter_context(socket.create_connection(("127.0.0.1", one.port), timeout=60))
            _ask(line, asked)
            lines.append(line)
        idle = resident(pids) - before
        forget_peak(pids)
        before = resident(pids)
        load = wrk(one.url + TARGET, ACTIVE, seconds, BASIC)
        active = peak(pids) - before
        for line in lines:
            _ask(line, asked)
    return {
        "idle bytes each": idle / IDLE,
        "active bytes each": active / ACTIVE,
        "requests per second beside them": load.per_second,
        "median ms": load.latency * 1e3,
        "failed": load.failed,
    }


def _ask(line: socket.socket, asked: bytes) -> None:
    line.sendall(asked)
    received = b""
    while b"\r\n\r\n" not in received or len(received.partition(b"\r\n\r\n")[2]) < _length(received):
        if not (data := line.recv(65536)):
            sys.exit("an idle connection was ended")
        received += data
    if not received.startswith(b"HTTP/1.1 200 "):
        sys.exit(f"an idle connection was refused: {received[:300]!r}")


def _length(received: bytes) -> int:
    found = re.search(rb"(?i)^content-length: (\d+)", received, re.M)
    return int(found[1]) if found else 0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=2)
    parser.add_argument("--most", type=int, default=COUNTS[-1])
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        print(json.dumps(connections(Path(folder), seconds=asked.seconds), indent=1))
        found = measure(Path(folder), rounds=asked.rounds, seconds=asked.seconds, most=asked.most)
        print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
