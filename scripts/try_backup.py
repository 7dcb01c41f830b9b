"""Tries backup, drill, doctor and restore inside the image, with PostgreSQL in another."""

from __future__ import annotations

import json
import re
import secrets
import sys
import time
from pathlib import Path
from urllib.parse import quote

from try_image import LIMITS, PATIENCE, Podman, ask, free_port, holds, running, say, stop

ROOT = Path(__file__).parent.parent
DATABASE_PASSWORD = f"p@ss:w/rd%{secrets.token_hex(8)}"
SUPERUSERS_PASSWORD = secrets.token_hex(16)
SCRIPT = "/docker-entrypoint-initdb.d/10-mlflow.sh"
SERVE = (
    'bin=$(echo /usr/lib/postgresql/*/bin); umask 077; echo "$POSTGRES_PASSWORD" >/tmp/superuser;'
    ' "$bin/initdb" --pgdata=/tmp/data --username=postgres --pwfile=/tmp/superuser $POSTGRES_INITDB_ARGS;'
    ' exec "$bin/postgres" -D /tmp/data -k /tmp -h 127.0.0.1 -p "$PGPORT"'
)


def initdb_options() -> str:
    found = re.search("^POSTGRES_INITDB_ARGS=(.*)", (ROOT / "mlflow-postgres.env.example").read_text(), re.M)
    assert found is not None
    return found[1]


class Database:
    """PostgreSQL of Debian's package in a container, set up by the stack's script; its locale is C."""

    def __init__(self, podman: Podman, image: str) -> None:
        self.podman, self.name, self.port = podman, f"postgres-{secrets.token_hex(4)}", free_port()
        given = {
            "PGHOST": "/tmp",
            "PGPORT": str(self.port),
            "POSTGRES_PASSWORD": SUPERUSERS_PASSWORD,
            "MLFLOW_DATABASE_PASSWORD": DATABASE_PASSWORD,
            "POSTGRES_INITDB_ARGS": initdb_options(),
        }
        podman(
            "run", "--detach", f"--name={self.name}", *LIMITS, "--user=postgres", "--cap-drop=all",
            "--read-only", "--read-only-tmpfs=false", "--tmpfs=/tmp:size=1g,mode=1777", "--shm-size=256m",
            "--network=host", f"--volume={ROOT / 'docker' / 'postgres' / '10-mlflow.sh'}:{SCRIPT}:ro",
            *(f"--env={name}={value}" for name, value in given.items()),
            "--entrypoint=sh", image, "-c", SERVE,
        )  # fmt: skip
        deadline = time.monotonic() + PATIENCE
        while self.asked("SELECT 1", may_fail=True) != "1":
            if time.monotonic() > deadline:
                sys.exit(f"PostgreSQL is not there:\n{podman('logs', self.name)}")
            time.sleep(0.5)

    def asked(self, statement: str, may_fail: bool = False) -> str:
        words = ("psql", "--no-psqlrc", "--tuples-only", "--no-align", "--username=postgres", "--command")
        return self.podman("exec", self.name, *words, statement, may_fail=may_fail)

    def make(self) -> None:
        """The user and the database, by the script that the stack's image runs."""
        self.podman("exec", self.name, "sh", SCRIPT)

    def url(self, user: str, password: str, database: str) -> str:
        return f"postgresql://{user}:{quote(password, safe='')}@127.0.0.1:{self.port}/{database}"


def try_backup(podman: Podman, database_image: str) -> None:
    volumes = {place: f"mlflow-proxy-{secrets.token_hex(4)}" for place in ("data", "after", "backups")}
    for volume in volumes.values():
        podman("volume", "create", volume)
    database = Database(podman, database_image)
    try:
        say(f"\n== backups, with PostgreSQL {database.asked('SHOW server_version')}")
        database.make()
        uri = database.url("mlflow", DATABASE_PASSWORD, "mlflow")
        options = [
            f"--volume={volumes['backups']}:/backups",
            f"--env=MLFLOW_BACKEND_STORE_URI={uri}",
            f"--env=PROXY_DATABASE_URL={uri}",
            "--env=PROXY_BACKUP_DESTINATION=/backups",
            "--env=PROXY_BACKUP_ARTIFACTS=on",
            f"--env=PROXY_DRILL_SERVER_URL={database.url('postgres', SUPERUSERS_PASSWORD, 'postgres')}",
        ]
        keygen = ("mlflow-proxy", "backup", "keygen", "/backups/key")
        public = podman.once(options[0], command=keygen).splitlines()[-1]
        options += [f"--env={public}", "--env=PROXY_BACKUP_IDENTITY_FILE=/backups/key"]
        port = free_port()
        service, artifact = f"https://127.0.0.1:{port}", secrets.token_bytes(3_000_000)
        with running(podman, volumes["data"], port, *options) as name:
            made = ask(f"{service}/api/2.0/mlflow/runs/create", {"experiment_id": "0"})
            run = json.loads(made)["run"]["info"]["run_id"]
            metric = {"run_id": run, "key": "loss", "value": 0.5, "timestamp": 1}
            ask(f"{service}/api/2.0/mlflow/runs/log-metric", metric)
            path = f"{service}/api/2.0/mlflow-artifacts/artifacts/0/{run}/artifacts/some.bin"
            ask(path, data=artifact)
            said = podman("exec", name, "mlflow-proxy", "backup")
            holds("a backup is made while it serves", "/backups: 2" in said, said)
            said = podman("exec", name, "mlflow-proxy", "backup", "list")
            holds("encrypted, with the artifact", "1 artifacts copied, encrypted" in said, said)
            said = podman("exec", name, "mlflow-proxy", "drill")
            say("    " + said.replace("\n", "\n    "))
            said = podman("exec", name, "mlflow-proxy", "doctor", "--quick", "--json", may_fail=True)
            holds("the doctor finds no failure", '"outcome": "ok"' in said and '"failure"' not in said, said)
            stop(podman, name)
        database.asked("DROP DATABASE mlflow")
        database.asked("DROP ROLE mlflow")
        database.make()
        said = podman.with_(volumes["after"], *options, command=("mlflow-proxy", "restore", "--yes"))
        say("    " + said.replace("\n", "\n    "))
        with running(podman, volumes["after"], port, *options) as name:
            holds("restored to an empty database and volume, the artifact is there", ask(path) == artifact)
            found = json.loads(ask(f"{service}/api/2.0/mlflow/runs/get?run_id={run}"))["run"]
            holds("and what was logged", [one["value"] for one in found["data"]["metrics"]] == [0.5])
            stop(podman, name)
    finally:
        podman("rm", "--force", "--time", "5", database.name, may_fail=True)
        for volume in volumes.values():
            podman("volume", "rm", "--force", volume, may_fail=True)
