"""`mlflow-proxy healthcheck`: container engines are told how the service is, in one line and an exit code."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from service import PASSWORD, free_port, start
from test_cli import run


def asked(folder: Path, *options: str, **settings: str) -> tuple[int, str, str]:
    settings = {"MLFLOW_TRACKING_PASSWORD": PASSWORD, **settings}
    done = run(folder, "healthcheck", *options, **settings)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.slow
def test_it_tells_alive_from_ready(tmp_path: Path) -> None:
    """With TLS; test_topology.py asks without."""
    service = start(tmp_path, ready=False, PROXY_TLS="on", MLFLOW_HOST="127.0.0.1")
    try:
        settings = {"PROXY_TLS": "on", "MLFLOW_PORT": str(service.port)}
        code, told, error = asked(tmp_path, **settings, MLFLOW_HOST="0.0.0.0")
        assert (code, told, error) == (0, "ok\n", "")
        code, told, error = asked(tmp_path, "--ready", **settings)
        assert (code, told) == (1, "")
        assert f"127.0.0.1, port {service.port}: /readyz answers 503: MLflow is" in error
        assert len(error.splitlines()) == 1
        service.wait_ready()
        assert asked(tmp_path, "--ready", **settings) == (0, "ok\n", "")
    finally:
        service.end()


def test_nobody_there_is_said_in_one_line(tmp_path: Path) -> None:
    port = free_port()
    code, told, error = asked(tmp_path, PROXY_TLS="off", MLFLOW_PORT=str(port))
    assert (code, told) == (1, "")
    assert error == f"mlflow-proxy: 127.0.0.1, port {port}: /livez can't be asked: Connection refused\n"


@pytest.mark.parametrize("tls", ["on", "off"])
def test_one_who_says_nothing_is_waited_for_no_longer_than_asked(tls: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = str(silent.getsockname()[1])
        code, _, error = asked(tmp_path, "--timeout", "0.5", PROXY_TLS=tls, MLFLOW_PORT=port)
    assert code == 1
    assert "/livez has not answered within 0.5 s" in error
    assert len(error.splitlines()) == 1


def test_a_port_that_is_not_known_can_t_be_asked(tmp_path: Path) -> None:
    code, _, error = asked(tmp_path, MLFLOW_PORT="0")
    assert (code, "MLFLOW_PORT is 0" in error) == (1, True)
