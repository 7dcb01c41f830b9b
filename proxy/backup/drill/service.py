"""The service that a drill starts on what was restored: on loopback, with a password that is its alone."""

from __future__ import annotations

import contextlib
import json
import secrets
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proxy import guard
from proxy.backup.drill.report import DrillFailed

_START_SECONDS = 900.0
_GRACE = 15.0
_USER = "drill"
_CLIENT = Path(__file__).with_name("client.py")
# Of MLflow's settings those that say how its artifact storage is reached; all else is the drill's own.
_STORAGE = ("MLFLOW_S3_", "MLFLOW_BOTO_", "MLFLOW_GCS_", "MLFLOW_ENABLE_WORKSPACES", "MLFLOW_CRYPTO_")
_DROPPED = ("MLFLOW_", "_MLFLOW_", "PROXY_", "OTEL_", "NOTIFY_SOCKET", "LISTEN_", "WATCHDOG_")


@dataclass(frozen=True, slots=True)
class Running:
    """A service that answers."""

    url: str
    password: str
    environ: Mapping[str, str]

    def ask(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """What MLflow's own client, in a process of its own, finds (client.py). Raises DrillFailed."""
        environ = {
            **self.environ,
            "MLFLOW_TRACKING_URI": self.url,
            "MLFLOW_TRACKING_USERNAME": _USER,
            "MLFLOW_TRACKING_PASSWORD": self.password,
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            # An artifact can be larger than what holds temporary files.
            "TMPDIR": self.environ["PROXY_DATA_DIR"],
            "no_proxy": "127.0.0.1",
            "NO_PROXY": "127.0.0.1",
        }
        done = subprocess.run(
            [sys.executable, "-P", str(_CLIENT)],
            env=environ,
            input=json.dumps(asked).encode(),
            capture_output=True,
        )
        try:
            found: dict[str, Any] = json.loads(done.stdout.decode().splitlines()[-1])
            return found
        except (ValueError, IndexError):
            said = done.stderr.decode("utf-8", "replace").strip().splitlines()
            last = said[-1] if said else f"exit code {done.returncode}"
            raise DrillFailed(f"MLflow's client has failed: {last}") from None


def environment(
    environ: Mapping[str, str], folder: Path, temporary: Path, uris: Mapping[str, str], artifacts: str
) -> dict[str, str]:
    """Of the service: nothing of this one's settings but how the storage is reached. `uris` are by role."""
    kept = {
        name: value
        for name, value in environ.items()
        if name.startswith(_STORAGE) or not name.startswith(_DROPPED)
    }
    named = {
        "MLFLOW_BACKEND_STORE_URI": uris.get("tracking"),
        "MLFLOW_REGISTRY_STORE_URI": uris.get("registry"),
        "MLFLOW_WORKSPACE_STORE_URI": uris.get("workspaces"),
        "PROXY_DATABASE_URL": uris.get("proxy"),
    }
    return {
        **kept,
        **{name: uri for name, uri in named.items() if uri is not None},
        "MLFLOW_DEFAULT_ARTIFACT_ROOT": artifacts,
        "MLFLOW_HOST": "127.0.0.1",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "PROXY_DATA_DIR": str(folder),
        "TMPDIR": str(temporary),
        "PROXY_TLS": "off",
        # Nothing is written to what was restored, or, where the artifacts were not copied, to their storage.
        "PROXY_PROBE_STORAGE_INTERVAL": "0",
        "PROXY_MIGRATE": "never",
        # Nobody looks at its pages.
        "PROXY_COMPRESSION": "false",
    }


@contextlib.contextmanager
def running(folder: Path, environ: Mapping[str, str]) -> Iterator[Running]:
    """The service with its MLflow, ready; gone at the end, also where this process is killed.

    Raises DrillFailed where it does not become ready, with what it says.
    """
    folder.mkdir(mode=0o700)
    password = secrets.token_urlsafe(32)
    port = _free_port()
    log = folder / "log"
    guarded = [sys.executable, "-I", "-S", guard.__file__, str(_GRACE)]
    with log.open("xb") as output:
        process = subprocess.Popen(
            [*guarded, sys.executable, "-P", "-m", "proxy", "serve"],
            env={
                **environ,
                "MLFLOW_PORT": str(port),
                "MLFLOW_TRACKING_USERNAME": _USER,
                "MLFLOW_TRACKING_PASSWORD": password,
            },
            # Nothing of it is read from files of this service's.
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=output,
            bufsize=0,
            start_new_session=True,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        _wait(process, url, log)
        yield Running(url, password, environ)
    finally:
        assert process.stdin is not None
        with contextlib.suppress(OSError):
            process.stdin.write(b"stop %d\n" % _GRACE)
        try:
            process.wait(2 * _GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdin.close()


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + _START_SECONDS
    reason = "it has not answered"
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with opener.open(f"{url}/readyz", timeout=10):
                return
        except urllib.error.HTTPError as error:
            reason = error.read().decode("utf-8", "replace").strip()
        except OSError:
            pass
        time.sleep(0.2)
    if process.returncode is not None:
        reason = _last_words(log)
    raise DrillFailed(f"MLflow does not start on what was restored: {reason}")


def _last_words(log: Path) -> str:
    """The line in which it said why it ended."""
    lines = log.read_text("utf-8", "replace").splitlines()
    said = [line for line in lines if line.startswith("mlflow-proxy: ") and "warning:" not in line]
    return (said or lines or ["it has ended"])[-1].removeprefix("mlflow-proxy: ")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
