"""Looks at an image of mlflow-proxy and runs it with podman, as docs/deployment.md says."""

from __future__ import annotations

import contextlib
import json
import secrets
import socket
import ssl
import subprocess
import sys
import time
import urllib.request
from base64 import b64encode
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

PASSWORD = secrets.token_hex(16)
# podman would raise its own, which root may not do everywhere.
LIMITS = ("--ulimit=nofile=4096:4096", "--ulimit=nproc=4096:4096")
# As Compose and Kubernetes have it.
CONFINED = (
    "--read-only",
    # podman would put a tmpfs over all of /run, as Docker does not.
    "--read-only-tmpfs=false",
    "--cap-drop=all",
    "--security-opt=no-new-privileges",
    "--tmpfs=/tmp:size=1g",
    "--tmpfs=/run/mlflow-proxy:size=600m",
    "--shm-size=256m",
    "--pids-limit=512",
    *LIMITS,
    # podman would have systemd call it; it is called below.
    "--no-healthcheck",
)
DRIVERS = "psycopg, pymysql, boto3, azure.storage.blob, azure.identity, google.cloud.storage"
CHECK = ("mlflow-proxy", "healthcheck", "--timeout", "10")
PATIENCE = 300.0


class Podman:
    def __init__(self, folder: Path, image: str) -> None:
        self._base = (
            *("podman", "--root", str(folder / "storage"), "--runroot", str(folder / "run")),
            *("--storage-driver", "overlay", "--runtime", "runc", "--cgroup-manager", "cgroupfs"),
        )
        self.image = image

    def __call__(self, *words: str, may_fail: bool = False) -> str:
        done = subprocess.run([*self._base, *words], capture_output=True, text=True, timeout=PATIENCE)
        if done.returncode and not may_fail:
            sys.exit(f"podman {' '.join(words)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
        return (done.stdout + done.stderr).strip()

    def once(self, *options: str, command: Sequence[str]) -> str:
        """What a program in a fresh container prints."""
        entry = (
            *options,
            *LIMITS,
            "--no-healthcheck",
            "--network=none",
            f"--entrypoint={command[0]}",
        )
        return self("run", "--rm", *entry, self.image, *command[1:])

    def with_(self, volume: str, *options: str, command: Sequence[str]) -> str:
        """The same, confined as the service is, on its data and with the host's network."""
        entry = ("--network=host", f"--volume={volume}:/data", f"--entrypoint={command[0]}")
        return self("run", "--rm", *CONFINED, *options, *entry, self.image, *command[1:])


def say(text: str) -> None:
    print(text, flush=True)


def holds(what: str, truth: bool, seen: object = "") -> None:
    if not truth:
        sys.exit(f"not so: {what}: {seen}")
    say(f"  {what}")


def look_at_configuration(podman: Podman) -> None:
    say("\n== what the image says of itself")
    (image,) = json.loads(podman("image", "inspect", podman.image))
    config = image["Config"]
    holds("user 1001:1001", config["User"] == "1001:1001", config["User"])
    holds("an init process", config["Entrypoint"] == ["tini", "--", "mlflow-proxy"], config["Entrypoint"])
    check = image.get("HealthCheck") or image.get("Healthcheck") or config.get("Healthcheck")
    holds("a health check", tuple(check["Test"]) == ("CMD", *CHECK), check)
    labels = {name.removeprefix("org.opencontainers.image."): text for name, text in config["Labels"].items()}
    holds(
        "OCI labels", {"title", "version", "revision", "source", "licenses", "base.digest"} <= labels.keys()
    )
    said = json.dumps([config["Env"], image["History"]]).lower()
    found = [word for word in ("password=", "secret=", "token=", "authorization") if word in said]
    holds("no secret in the environment or the history", not found, found)


def look_at_files(podman: Podman) -> None:
    say("\n== what is in it")
    holds("the drivers", podman.once(command=("python3", "-c", f"import {DRIVERS}")) == "")
    for program in ("pg_dump", "pg_restore", "mariadb-dump", "mariadb"):
        say(f"  {podman.once(command=(program, '--version')).splitlines()[0]}")
    find = "find / -xdev -writable -not -type l -not -path '/proc/*' -not -path '/dev/*' 2>/dev/null; true"
    writable = set(podman.once(command=("sh", "-c", find)).split())
    holds(
        "user 1001 may write to /data, /backups, /run/mlflow-proxy and temporary places",
        all(
            path.startswith(("/backups", "/data", "/run/mlflow-proxy", "/run/lock", "/tmp", "/var/tmp"))
            for path in writable
        ),
        sorted(writable),
    )
    # But what Python brings itself, and the empty file that was mounted over in the build.
    left = (
        "find / -xdev \\( -name '*.env' -o -name .git -o -name pip.conf -o -name .netrc -o -name '*.whl' \\)"
        " -not -path '*/ensurepip/_bundled/*' -not \\( -path /etc/pip.conf -empty \\) 2>/dev/null; true"
    )
    found = podman.once(command=("sh", "-c", left))
    holds("no file of settings, no repository, no package", found == "", found)
    holds("no pip", "No module" in podman.once(command=("sh", "-c", "python3 -m pip 2>&1 || true")))
    sizes = podman.once(
        command=(
            "sh",
            "-c",
            "cd /opt/mlflow-proxy/lib/python3*/site-packages && du -sm -- * | sort -rn | head -15",
        )
    )
    say("  the largest packages, MB:\n    " + sizes.replace("\n", "\n    ").replace("\t", "  "))
    say(
        "  layers:\n    "
        + podman("history", "--format", "{{.Size}}  {{.CreatedBy}}", podman.image).replace("\n", "\n    ")
    )


@contextlib.contextmanager
def running(podman: Podman, volume: str, port: int, *options: str) -> Iterator[str]:
    """A container that serves on `port`, ready; gone at the end. Gives its name."""
    name = f"mlflow-proxy-{secrets.token_hex(4)}"
    podman(
        "run", "--detach", f"--name={name}", *CONFINED, *options,
        "--network=host", f"--volume={volume}:/data",
        "--env", "MLFLOW_HOST=127.0.0.1", "--env", f"MLFLOW_PORT={port}",
        "--env", f"MLFLOW_TRACKING_PASSWORD={PASSWORD}", "--stop-timeout=60", podman.image,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + PATIENCE
        while podman("exec", name, "mlflow-proxy", "healthcheck", "--ready", may_fail=True) != "ok":
            state = podman("inspect", "--format", "{{.State.Status}}", name)
            if state != "running" or time.monotonic() > deadline:
                sys.exit(f"not ready ({state}):\n{podman('logs', name)}")
            time.sleep(1)
        yield name
    finally:
        podman("rm", "--force", "--time", "5", name, may_fail=True)


def ask(url: str, body: dict[str, Any] | None = None, data: bytes | None = None) -> bytes:
    """A call as the admin; its answer. The certificate is the container's own and not looked at."""
    request = urllib.request.Request(url, method="PUT" if data else None)
    request.add_header("Authorization", "Basic " + b64encode(f"admin:{PASSWORD}".encode()).decode())
    if body is not None:
        request.data, data = json.dumps(body).encode(), None
        request.add_header("Content-Type", "application/json")
    elif data is not None:
        request.data = data
    with urllib.request.urlopen(request, timeout=120, context=ssl._create_unverified_context()) as answer:
        return bytes(answer.read())


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run_it(podman: Podman) -> None:
    port = free_port()
    volume = f"mlflow-proxy-{secrets.token_hex(4)}"
    podman("volume", "create", volume)
    artifact = secrets.token_bytes(5_000_000)
    try:
        say("\n== by itself, with TLS, confined: " + " ".join(CONFINED))
        with running(podman, volume, port) as name:
            service = f"https://127.0.0.1:{port}"
            holds("its health check is content", podman("exec", name, *CHECK).strip() == "ok")
            processes = podman("top", name, "huser", "pid", "args").splitlines()[1:]
            holds(
                "every process is user 1001's",
                all(line.split()[0] == "1001" for line in processes),
                processes,
            )
            holds("tini is the first", "tini" in processes[0], processes[0])
            say("    " + "\n    ".join(line[:110] for line in processes))
            said = podman(
                "exec", name, "sh", "-c", "echo x > /etc/x || echo x > /opt/mlflow-proxy/x", may_fail=True
            )
            holds("the root file system is read-only", "Read-only" in said, said)
            status = podman("exec", name, "cat", "/proc/1/status")
            holds(
                "no capability, no new privilege",
                "CapEff:\t0000000000000000" in status and "NoNewPrivs:\t1" in status,
            )
            made = json.loads(ask(f"{service}/api/2.0/mlflow/runs/create", {"experiment_id": "0"}))["run"][
                "info"
            ]
            ask(
                f"{service}/api/2.0/mlflow/runs/log-metric",
                {"run_id": made["run_id"], "key": "loss", "value": 0.5, "timestamp": 1},
            )
            path = f"{service}/api/2.0/mlflow-artifacts/artifacts/0/{made['run_id']}/artifacts/some.bin"
            ask(path, data=artifact)
            holds("signed in, logged, uploaded and read again", ask(path) == artifact)
            stop(podman, name)

        say("\n== behind a terminator of TLS (PROXY_TLS=off), on the same volume")
        more = (
            "PROXY_TLS=off",
            f"PROXY_PUBLIC_URL=https://localhost:{port + 1}",
            "PROXY_TRUSTED_PROXIES=127.0.0.1",
        )
        with running(podman, volume, port, *(part for one in more for part in ("--env", one))) as name:
            service = f"http://127.0.0.1:{port}"
            path = path.replace("https:", "http:")
            holds("what was uploaded is still there", ask(path) == artifact)
            run = json.loads(ask(f"{service}/api/2.0/mlflow/runs/get?run_id={made['run_id']}"))["run"]
            holds("so is what was logged", [one["value"] for one in run["data"]["metrics"]] == [0.5])
            stop(podman, name)
    finally:
        podman("volume", "rm", "--force", volume, may_fail=True)


def stop(podman: Podman, name: str) -> None:
    began = time.monotonic()
    podman("stop", "--time", "60", name)
    state = json.loads(podman("inspect", "--format", "{{json .State}}", name))
    log = podman("logs", name)
    order = [log.find(text) for text in ("asked to end", "ending MLflow", '"ended"')]
    holds(
        f"SIGTERM ends it in order, after {time.monotonic() - began:.1f} s, with exit code 0",
        state["ExitCode"] == 0 and -1 not in order[:2] and order[:2] == sorted(order[:2]) and "ended" in log,
        (state["ExitCode"], log[-2000:]),
    )
