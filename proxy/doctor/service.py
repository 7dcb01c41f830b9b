"""The service itself: whether it runs, what it says of MLflow, and settings that it has not taken up."""

from __future__ import annotations

import http.client
import os
import re
from collections.abc import Iterator

from proxy import local_service
from proxy.doctor.case import Case
from proxy.doctor.result import Result, failure, ok, skipped, warning
from proxy.doctor.running import Running, name_of, visit
from proxy.errors import UserError

SECONDS = 20.0
_FILES = 4096
"""Descriptors that the service should be allowed at least: each connection takes one, a forwarded request
two."""
_LINE = re.compile(r"\[([+-])\]([\w-]+) (?:ok|failed: (.*))")


def service(case: Case) -> Iterator[Result]:
    """The running service."""
    running = case.service
    if running is None:
        data = case.settings.data_dir
        if data.is_dir() and not os.access(data, os.X_OK):
            owner = name_of(data.stat().st_uid)
            yield failure(
                "running",
                f"whether an mlflow-proxy runs on {data} can't be seen by this user: it is {owner}'s",
                f"sudo -u {owner} mlflow-proxy doctor --data-dir {data}",
            )
            return
        yield failure(
            "running",
            f"no mlflow-proxy runs on {case.settings.data_dir}",
            "start it, or name the data directory of the one that runs (--data-dir); settings that a service "
            "manager gives it are not in this shell",
        )
        return
    yield ok("running", f"process {running.pid} serves {running.address}")
    user, us = running.user, os.geteuid()
    if user is not None and user != us:
        yield warning(
            "user",
            f"it runs as {name_of(user)}, and the doctor as {name_of(us)}: what is told of rights on files "
            "is the latter's",
            f"sudo -u {name_of(user)} mlflow-proxy doctor",
        )
    yield from _asked(case, running)
    files = running.limit("Max open files")
    if files is not None and files < _FILES:
        yield warning(
            "files",
            f"its process may open {files} files",
            "set LimitNOFILE=65536 (systemd), ulimits (Docker), or ulimit -n before the start",
        )
    yield from _ready(case)


def _asked(case: Case, running: Running) -> Iterator[Result]:
    try:
        with visit(running, case.within(SECONDS)) as opened:
            told = opened.told
    except UserError as error:
        yield warning(
            "control",
            f"it can't be asked by its control socket: {error}",
            "run the doctor as the service's user, and restart a service that is older than this doctor",
        )
        return
    if told["wrong"]:
        yield failure(
            "reload",
            f"its settings have mistakes by now: {'; '.join(told['wrong'])}",
            "correct them: they would stop the next start",
        )
    elif told["changed"]:
        yield warning(
            "reload",
            f"changed since they were read: {', '.join(told['changed'])}",
            "mlflow-proxy reload takes them up, and says what needs a restart",
        )
    else:
        yield ok("reload", "the settings in force are those that are set")


def _ready(case: Case) -> Iterator[Result]:
    if not case.settings.port:
        yield skipped("ready", "MLFLOW_PORT is 0, and nobody says here which port was taken")
        return
    connection = local_service.connection(case.settings, case.within(10))
    try:
        connection.request("GET", "/readyz?verbose", headers={"Host": "localhost"})
        answer = connection.getresponse()
        text = answer.read(65536).decode("utf-8", "replace")
    except (OSError, http.client.HTTPException) as error:
        yield failure(
            "ready",
            f"{connection.host}, port {connection.port}, does not answer ({error or type(error).__name__})",
            "look at the service's log; the settings may name another port than the one it was started with",
        )
        return
    finally:
        connection.close()
    found = {match[2]: match[3] for line in text.splitlines() if (match := _LINE.match(line))}
    bad = {name: why for name, why in found.items() if why is not None}
    if answer.status == 200:
        yield ok("ready", "MLflow can be used")
    else:
        vital = {name: why for name, why in bad.items() if not name.startswith("probe-")} or bad
        why = "; ".join(f"{name}: {said}" for name, said in vital.items()) or text.strip()
        yield failure(
            "ready",
            f"MLflow can't be used: {why}",
            "docs/runbooks/mlflow-not-ready.md; its last lines are in the log",
        )
    for name, said in bad.items():
        if answer.status == 200 or name.startswith("probe-"):
            yield warning(name, str(said), f"docs/runbooks/{_runbook(name)}.md")


def _runbook(name: str) -> str:
    return {
        "probe-provider": "identity-provider",
        "probe-certificate": "certificate",
        "probe-tokens": "probes",
        "users": "sign-in-failures",
        "sessions": "database",
        "audit-log": "logs",
        "jwt-issuers": "identity-provider",
    }.get(name, name.removeprefix("probe-"))
