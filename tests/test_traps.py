"""The ten traps of MLflow 3.17.2's server, each with what keeps us out of it, on the real MLflow.

Traps 6 and 7 (nothing outlives us; an exit that nobody asked for is a failure) are shown by killing
processes in tests/test_mlflow_real.py, tests/test_mlflow_server.py and tests/test_guard.py; here stands what
of them can be seen in a service at work.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import service as services
import wire
from service import PASSWORD, USER, Service
from tap import Tap, arguments, descendants, environment, socket_of, tapped, web_server

from proxy import http1, servers

API = "/api/2.0/mlflow"
ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts"
CREDENTIAL = wire.basic(USER, PASSWORD)
JSON = ("Content-Type", "application/json")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with services.running(
        tmp_path_factory.mktemp("traps"), PROXY_WHOLE_DOWNLOADS="4", PROXY_BODY_LIMIT="64KiB"
    ) as running:
        yield running


@pytest.fixture(scope="module")
def expendable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service of which a test kills something."""
    with services.running(tmp_path_factory.mktemp("expendable"), PROXY_GRACE_SECONDS="3") as running:
        yield running


@pytest.fixture(scope="module")
def tap(service: Service) -> Iterator[Tap]:
    with tapped(service) as tap:
        yield tap


def chunked(service: Service, method: str, path: str, pieces: list[bytes]) -> wire.Answer:
    """A body without Content-Length, in those chunks."""
    head = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", "{}: {}".format(*CREDENTIAL), "Connection: close"]
    head += ["Content-Type: application/json", "Transfer-Encoding: chunked", "", ""]
    with wire.connection(service) as connection:
        connection.sendall("\r\n".join(head).encode())
        for piece in pieces:
            connection.sendall(b"%x\r\n%s\r\n" % (len(piece), piece))
        connection.sendall(b"0\r\n\r\n")
        return wire.read(connection, method)


def experiment(service: Service, name: str) -> str:
    answer = wire.post(service, f"{API}/experiments/create", {"name": name}, CREDENTIAL)
    return str(answer.json()["experiment_id"])


def run_with_file(service: Service, name: str, content: bytes) -> str:
    """A run with one artifact, `file`, put straight where MLflow keeps it."""
    place = experiment(service, name)
    made = wire.post(service, f"{API}/runs/create", {"experiment_id": place}, CREDENTIAL)
    run = str(made.json()["run"]["info"]["run_id"])
    folder = service.data / "artifacts" / place / run / "artifacts"
    folder.mkdir(parents=True)
    (folder / "file").write_bytes(content)
    return run


def test_trap_1_a_chunked_body_arrives_whole_at_every_route(service: Service, tap: Tap) -> None:
    answer = chunked(service, "POST", f"{API}/experiments/create", [b'{"name": ', b'"chunked"}'])
    assert answer.status == 200
    sent = tap.forwarded(answer.request_id)
    assert sent is not None
    assert sent[2]["content-length"] == "19"
    assert "transfer-encoding" not in sent[2]
    asked = {"query": '{mlflowGetExperiment(input:{experimentId:"0"}){experiment{name}}}'}
    answer = chunked(service, "POST", "/graphql", [json.dumps(asked).encode()])
    assert answer.json()["data"]["mlflowGetExperiment"]["experiment"]["name"] == "Default"
    made = wire.post(service, f"{API}/runs/create", {"experiment_id": "0"}, CREDENTIAL).json()
    metric = {"key": "m", "value": 1.5, "timestamp": 1, "step": 0}
    batch = {"run_id": made["run"]["info"]["run_id"], "metrics": [metric]}
    assert chunked(service, "POST", f"{API}/runs/log-batch", [json.dumps(batch).encode()]).status == 200


def test_trap_2_nobody_is_localhost_to_the_assistant(service: Service, tap: Tap) -> None:
    """Three guards: an address that is ours to say, MLflow told to believe none, and a socket without any."""
    config = "/ajax-api/3.0/mlflow/assistant/config"
    for forged in (
        (),
        (("X-Forwarded-For", "127.0.0.1"),),
        (("X-Forwarded-For", ""),),
        (("X-Real-IP", "::1"),),
    ):
        answer = wire.ask(service, "PUT", config, CREDENTIAL, JSON, *forged, body=b'{"projects": {}}')
        assert answer.status == 403
        sent = tap.forwarded(answer.request_id)
        assert sent is not None
        assert sent[2]["x-forwarded-for"] == "127.0.0.1"  # who really asks, here; never empty, never theirs
    away = wire.ask(service, "PUT", config, CREDENTIAL, JSON, body=b"{}", source="127.0.9.9")
    sent = tap.forwarded(away.request_id)
    assert sent is not None
    assert sent[2]["x-forwarded-for"] == "127.0.9.9"
    assert {"--uds", "--no-proxy-headers"} <= set(arguments(web_server(service)))
    assert "FORWARDED_ALLOW_IPS" not in environment(web_server(service))


def test_trap_3_the_gateway_s_routes_get_nothing_that_is_ours(service: Service, tap: Tap) -> None:
    """What a provider then sees of it: tests/attacks/test_gateway_leaks.py."""
    before = tap.now
    body = {"model": "none", "messages": []}
    personal = (("Cookie", "session=S3CRET"), ("X-Forwarded-User", "S3CRET"), ("X-Proxy-Secret", "S3CRET"))
    for path in ("openai/v1/chat/completions", "proxy/none/x", "anthropic/v1/messages"):
        wire.post(service, f"/gateway/{path}", body, CREDENTIAL, *personal, ("User-Agent", "codex_cli_rs/1"))
    heads = [headers for _, target, headers in tap.heads(before) if target.startswith("/gateway/")]
    assert len(heads) == 3
    for headers in heads:
        assert {name for name, _ in headers} == {"host", "content-type", "user-agent", "content-length"}


def test_trap_4_no_alias_of_a_path_reaches_a_handler(service: Service, tap: Tap) -> None:
    """More of them: tests/attacks/test_path_aliases.py and tests/test_paths.py."""
    path = f"{API}/experiments/get?experiment_id=0"
    for alias in ("/" + path, path.replace("/api/", "/api%2F", 1), path.replace("/api/", "/api//", 1)):
        answer = wire.ask(service, "GET", alias, CREDENTIAL)
        assert answer.status == 400
        assert tap.forwarded(answer.request_id) is None
    assert wire.ask(service, "GET", f"http://evil.example{path}", CREDENTIAL).status == 400
    answer = wire.ask(service, "GET", path.replace("/api/", "/%61pi/", 1), CREDENTIAL)
    assert answer.status == 200
    assert (tap.forwarded(answer.request_id) or ("", ""))[1] == path
    twice = wire.ask(service, "PUT", f"{ARTIFACTS}/0/x/a%252Fb.txt", CREDENTIAL, body=b"x")
    assert twice.status == 400


def test_trap_5_an_underscore_smuggles_no_header(service: Service, tap: Tap) -> None:
    path = f"{API}/experiments/get?experiment_id=0"
    names = ("X_MLFLOW_WORKSPACE", "X_Forwarded_User", "X-Forwarded_For", "x_proxy_user", "Content_Length")
    answer = wire.ask(service, "GET", path, CREDENTIAL, *((name, "7") for name in names))
    assert answer.status == 200
    sent = tap.forwarded(answer.request_id)
    assert sent is not None
    assert not [name for name in sent[2] if "_" in name]
    # MLflow refuses a workspace where it has none: that is how it would have been seen.
    plain = wire.ask(service, "GET", path, CREDENTIAL, ("X-MLFLOW-WORKSPACE", "7"))
    assert plain.json()["error_code"] == "FEATURE_DISABLED"


def test_trap_6_mlflow_listens_where_nobody_else_gets_in(service: Service) -> None:
    pids = descendants(service.process.pid)
    assert len(pids) >= 3
    assert listening_ports(pids) == set()
    ours = listening_ports([service.process.pid])
    assert service.port in ours
    assert len(ours) == 2  # the other one is for the jobs, who need their token
    directory = socket_of(service).parent
    assert directory.stat().st_mode & 0o777 == 0o700
    guard = arguments(pids[0])
    assert guard[3].endswith("guard.py")
    assert web_server(service) in descendants(pids[0])


def test_trap_7_mlflow_killed_is_a_failure_that_is_counted_and_mended(expendable: Service) -> None:
    """MLflow's own parent process exits with 0 for that."""
    killed = web_server(expendable)
    os.kill(killed, signal.SIGKILL)
    deadline = time.monotonic() + 60
    while expendable.metric("mlflow_proxy_mlflow_restarts_total") < 1 and time.monotonic() < deadline:
        time.sleep(0.2)
    expendable.wait_ready()
    assert expendable.metric("mlflow_proxy_mlflow_restarts_total") == 1
    assert web_server(expendable) != killed


def test_trap_8_mlflow_keeps_an_idle_connection_longer_than_we_do(service: Service) -> None:
    command = arguments(web_server(service))
    seconds = float(command[command.index("--timeout-keep-alive") + 1])
    assert seconds >= 2 * http1.IDLE_SECONDS
    assert servers.KEEP_ALIVE_SECONDS > 60  # and so do we for our clients
    with socket.socket(socket.AF_UNIX) as idle:
        idle.connect(str(socket_of(service)))
        idle.settimeout(10)
        for pause in (6, 0):  # uvicorn's own time would have been 5
            idle.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            received = b""
            while not received.endswith(b"\r\n\r\nOK"):
                piece = idle.recv(65536)
                assert piece, "MLflow has ended it"
                received += piece
            time.sleep(pause)


def test_trap_9_a_stalled_upload_does_not_hold_the_end_up(expendable: Service) -> None:
    command = arguments(web_server(expendable))
    assert 1 <= int(command[command.index("--timeout-graceful-shutdown") + 1]) <= 3
    below = descendants(expendable.process.pid)
    head = f"PUT {ARTIFACTS}/0/stalled HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000000\r\n"
    with wire.connection(expendable) as stalled:
        stalled.sendall((head + "{}: {}\r\n\r\n".format(*CREDENTIAL)).encode() + b"x" * 1000)
        time.sleep(0.5)
        began = time.monotonic()
        expendable.end(30)
        assert time.monotonic() - began < 12
    assert not [pid for pid in below if Path(f"/proc/{pid}/exe").exists()]
    assert not list((expendable.data / "artifacts").rglob("stalled*"))


def test_trap_10_a_large_body_stops_before_mlflow(service: Service, tap: Tap) -> None:
    long = [b"x" * 60_000] * 2
    answer = chunked(service, "POST", f"{API}/experiments/create", long)
    assert answer.status == 413
    assert tap.forwarded(answer.request_id) is None
    assert "PROXY_BODY_LIMIT" in answer.json()["message"]
    for path in (f"{API}/runs/log-batch", "/v1/traces", "/graphql", "/gateway/openai/v1/responses"):
        before = tap.now
        announced = wire.ask(service, "POST", path, CREDENTIAL, ("Content-Length", "65537"))
        assert announced.status == 413
        assert not tap.heads(before)
    # Artifacts have a stream of their own, without a limit.
    assert chunked(service, "PUT", f"{ARTIFACTS}/0/large", long).status == 200


def test_trap_10_few_downloads_that_mlflow_reads_whole_are_inside_it_at_once(
    service: Service, tap: Tap
) -> None:
    """A slow client makes MLflow hold the file in memory: so many may, half of them of one user, and the
    rest wait here (slots.py)."""
    run = run_with_file(service, "whole", b"x" * (24 * 1024**2))
    path = f"/get-artifact?run_id={run}&path=file"

    def arrived() -> int:
        return len([1 for _, target, _ in tap.heads() if target == path])

    slow = []
    for _ in range(4):
        plain = socket.create_connection(("127.0.0.1", service.port), 20)
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
        context = service.tls()
        assert context is not None
        client = context.wrap_socket(plain, server_hostname="127.0.0.1")
        head = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{CREDENTIAL[0]}: {CREDENTIAL[1]}\r\n\r\n"
        client.sendall(head.encode())
        slow.append(client)
    try:
        deadline = time.monotonic() + 30
        while arrived() < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(1)
        assert arrived() == 2
        # Nobody else waits for them.
        assert wire.ask(service, "GET", f"{API}/experiments/get?experiment_id=0", CREDENTIAL).status == 200
        for client in slow[:2]:
            client.close()
        while arrived() < 4 and time.monotonic() < deadline + 10:
            time.sleep(0.05)
        assert arrived() == 4
    finally:
        for client in slow:
            client.close()


def listening_ports(pids: list[int]) -> set[int]:
    """The TCP ports on which those processes listen."""
    inodes = set()
    for pid in pids:
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            try:
                name = str(entry.readlink())
            except OSError:
                continue
            if name.startswith("socket:["):
                inodes.add(name[8:-1])
    ports = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and words[9] in inodes:
                ports.add(int(words[1].rpartition(":")[2], 16))
    return ports
