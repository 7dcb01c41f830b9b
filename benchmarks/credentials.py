"""What each kind of credential costs a request: password, token of ours, JWT of a provider's.

    .venv/bin/python benchmarks/credentials.py [--rounds 5] [--requests 2000]

Starts the service (TLS off, on loopback, in a temporary directory) and asks one of its own pages over kept
connections, the kinds in turn within each round, so that a noisy machine disturbs all alike. The page goes
through all of the gate (path, host, credential, role), the metrics and the access log, and asks MLflow
nothing. Printed are the service's CPU microseconds a request (its own clock in /proc), the ratio to a
password, and how many transactions the database saw beside how many requests.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from joserfc import jwt
from joserfc.jwk import RSAKey

COMMAND = str(Path(sys.executable).with_name("mlflow-proxy"))
PASSWORD = "a password for one benchmark 7"
ISSUER, AUDIENCE = "https://issuer.example.com", "mlflow"
PAGE = "/ajax-api/2.0/mlflow/users/current"
CONNECTIONS = 8


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=2000, help="of each kind in each round")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, _service(Path(folder)) as (process, port):
        credentials = {
            "password": _basic("admin", PASSWORD),
            "token": f"Bearer {_token(Path(folder))}",
            "token as password": _basic("anybody", _token(Path(folder))),
            "JWT": f"Bearer {_jwt(Path(folder))}",
        }
        for credential in credentials.values():
            _ask(port, credential, 50)  # verified, and remembered from here on
        spent: dict[str, list[float]] = {kind: [] for kind in credentials}
        queries = _queries(port)
        began = time.monotonic()
        for _ in range(asked.rounds):
            for kind, credential in credentials.items():
                before = _cpu(process.pid)
                _ask(port, credential, asked.requests)
                spent[kind].append((_cpu(process.pid) - before) / asked.requests * 1e6)
        seconds = time.monotonic() - began
        queries = _queries(port) - queries
    base = statistics.median(spent["password"])
    print(f"{'credential':<20}{'CPU us/request':>16}{'min':>8}{'max':>8}{'to password':>14}")
    for kind, times in spent.items():
        middle = statistics.median(times)
        print(f"{kind:<20}{middle:>16.0f}{min(times):>8.0f}{max(times):>8.0f}{middle / base:>13.2f}x")
    asked_in_all = asked.rounds * asked.requests * len(credentials)
    print(f"{asked_in_all} requests in {seconds:.1f} s; transactions of the database meanwhile: {queries}")


@contextlib.contextmanager
def _service(folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    key = RSAKey.generate_key(2048, {"kid": "one", "alg": "RS256", "use": "sig"})
    (folder / "key.json").write_text(json.dumps(key.as_dict(private=True)))
    (folder / "jwks.json").write_text(json.dumps({"keys": [key.as_dict(private=False)]}))
    (folder / "issuers.yaml").write_text(
        f"- name: bench\n  issuer: {ISSUER}\n  audience: {AUDIENCE}\n  jwks_file: {folder}/jwks.json\n"
        "  role: viewer\n"
    )
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [COMMAND, "serve"], cwd=folder, env=_environment(folder, port), stdout=log, stderr=log
        )
    try:
        deadline = time.monotonic() + 120
        while True:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz"):
                break
            if process.poll() is not None or time.monotonic() > deadline:
                sys.exit((folder / "log").read_text())
            time.sleep(0.5)
        yield process, port
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def _environment(folder: Path, port: int) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "MLFLOW_PORT": str(port),
        "PROXY_TLS": "off",
        "PROXY_DATA_DIR": str(folder / "data"),
        "PROXY_JWT_ISSUERS_FILE": str(folder / "issuers.yaml"),
        "MLFLOW_TRACKING_USERNAME": "admin",
        "MLFLOW_TRACKING_PASSWORD": PASSWORD,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }


def _token(folder: Path) -> str:
    printed = subprocess.run(
        [COMMAND, "token", "create", "--user", "admin", "--name", f"bench {time.time_ns()}"],
        cwd=folder,
        env=_environment(folder, 1),
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    found = re.search(r"mlfpat_\w+", printed)
    assert found is not None, printed
    return found[0]


def _jwt(folder: Path) -> str:
    key = RSAKey.import_key(json.loads((folder / "key.json").read_text()))
    now = int(time.time())
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "job", "iat": now, "exp": now + 3600, "scope": "mlflow"}
    return jwt.encode({"alg": "RS256", "kid": "one", "typ": "at+jwt"}, claims, key)


def _basic(name: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()


def _ask(port: int, authorization: str, requests: int) -> None:
    request = f"GET {PAGE} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: {authorization}\r\n\r\n".encode()
    problems: list[str] = []

    def one(count: int) -> None:
        with socket.create_connection(("127.0.0.1", port)) as connection:
            for _ in range(count):
                connection.sendall(request)
                answer = _answer(connection)
                if not answer.startswith(b"HTTP/1.1 200 "):
                    problems.append(answer.decode("latin-1"))
                    return

    threads = [threading.Thread(target=one, args=(requests // CONNECTIONS,)) for _ in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if problems:
        sys.exit(problems[0])


def _answer(connection: socket.socket) -> bytes:
    received = connection.recv(65536)
    while True:
        head, end, body = received.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)^content-length: (\d+)", head, re.M)
        if end and length is not None and len(body) >= int(length[1]):
            return received
        received += connection.recv(65536)


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _queries(port: int) -> int:
    asked = urllib.request.Request(
        f"http://127.0.0.1:{port}/metrics", headers={"Authorization": _basic("admin", PASSWORD)}
    )
    with urllib.request.urlopen(asked) as answer:
        found = re.search(r"^mlflow_proxy_database_queries_total (\S+)", answer.read().decode(), re.M)
    assert found is not None
    return int(float(found[1]))


if __name__ == "__main__":
    main()
