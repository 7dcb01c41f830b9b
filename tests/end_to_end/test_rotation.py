"""The database's login is exchanged under load: the old one is disabled when the reload has reported done."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import requests
from databases import PostgreSQL, database, path
from programs import needs
from service import COMMAND, NO_JOBS, Service, address_of, clean_environment, free_port

from proxy.mlflow_server import schema

pytestmark = [pytest.mark.slow, needs(*PostgreSQL.programs)]

USER, PASSWORD = "tester", "correct-horse-battery"
ROLES = """
CREATE ROLE owners NOLOGIN;
GRANT owners TO mlflow;
ALTER DATABASE mlflow OWNER TO owners;
GRANT CREATE ON DATABASE mlflow TO owners;
\\c mlflow
GRANT ALL ON SCHEMA public TO owners;
CREATE ROLE first LOGIN PASSWORD 'one-word' IN ROLE owners;
CREATE ROLE second LOGIN PASSWORD 'another-word' IN ROLE owners;
ALTER ROLE first SET role TO owners;
ALTER ROLE second SET role TO owners;
"""
DISABLE = """
ALTER ROLE first NOLOGIN;
SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'first';
SELECT 'left: ' || count(*) FROM pg_stat_activity WHERE usename = 'first';
"""


def test_mlflow_and_we_move_to_another_login_and_no_request_fails(tmp_path: Path) -> None:
    with database(PostgreSQL) as server:

        def sql(text: str) -> None:
            server.run(
                *(path("psql"), "-h", str(server.folder), "-p", str(server.port), "-U", "postgres"),
                *("-v", "ON_ERROR_STOP=1", "-f", "-"),
                text=text,
            )

        def settings(role: str, word: str) -> None:
            uri = f"postgresql://{role}:{word}@127.0.0.1:{server.port}/mlflow"
            (tmp_path / "mlflow.env").write_text(
                f"MLFLOW_TRACKING_USERNAME={USER}\nMLFLOW_TRACKING_PASSWORD={PASSWORD}\n"
                f"MLFLOW_BACKEND_STORE_URI={uri}\nPROXY_DATABASE_URL={uri}\n"
            )

        sql(ROLES)
        settings("first", "one-word")
        environment = clean_environment(**NO_JOBS, MLFLOW_PORT=str(free_port()), PROXY_TLS="off")
        with (tmp_path / "access.log").open("ab") as access, (tmp_path / "application.log").open("ab") as log:
            process = subprocess.Popen(COMMAND, cwd=tmp_path, env=environment, stdout=access, stderr=log)
        service = Service(process, tmp_path, "", USER, PASSWORD, environment)
        try:
            service.url = address_of(service.data / "lock", process)
            service.wait_ready()
            _rotate(service, settings, sql)
        finally:
            service.end()


def _rotate(service: Service, settings: Callable[[str, str], None], sql: Callable[[str], None]) -> None:
    failed: list[object] = []
    made: list[str] = []
    over = threading.Event()

    def client(number: int) -> None:
        with service.session() as session:
            while not over.is_set():
                name = f"e{number}-{time.time()}"
                try:
                    answer = session.post(
                        service.url + "/api/2.0/mlflow/experiments/create", json={"name": name}, timeout=60
                    )
                except requests.RequestException as error:
                    failed.append(error)
                    continue
                if answer.status_code == 200:
                    made.append(name)
                else:
                    failed.append((answer.status_code, answer.text))
                time.sleep(0.02)

    clients = [threading.Thread(target=client, args=(number,)) for number in range(4)]
    for one in clients:
        one.start()
    try:
        time.sleep(1)
        settings("second", "another-word")
        done = subprocess.run(
            [sys.executable, "-m", "proxy", "reload", "--data-dir", str(service.data)],
            env=clean_environment(),
            capture_output=True,
            text=True,
            timeout=150,
        )
        assert done.returncode == 0, done.stdout + done.stderr + service.log()
        assert "word" not in done.stdout
        sql(DISABLE)
        before = len(made)
        time.sleep(3)
        assert len(made) > before
    finally:
        over.set()
        for one in clients:
            one.join()
    assert failed == []
    assert service.anonymous().get(service.url + "/readyz", timeout=10).status_code == 200
    found = service.session().post(
        service.url + "/api/2.0/mlflow/experiments/search", json={"max_results": 5000}, timeout=60
    )
    names = [experiment["name"] for experiment in found.json()["experiments"]]
    assert sorted(names) == sorted([*made, "Default"]), "each once"


def test_an_older_database_is_left_alone_unless_that_is_wanted(tmp_path: Path) -> None:
    known = schema.versions()
    assert known is not None
    with database(PostgreSQL) as server:
        server.run(
            *(
                path("psql"),
                "-h",
                str(server.folder),
                "-p",
                str(server.port),
                "-U",
                "postgres",
                "-d",
                "mlflow",
            ),
            text="CREATE TABLE experiments (experiment_id int);"
            "CREATE TABLE alembic_version (version_num text);"
            "INSERT INTO alembic_version VALUES ('451aebb31d03');"
            "GRANT ALL ON ALL TABLES IN SCHEMA public TO mlflow",
        )
        done = subprocess.run(
            COMMAND,
            cwd=tmp_path,
            env=clean_environment(
                **NO_JOBS, MLFLOW_PORT=str(free_port()), MLFLOW_BACKEND_STORE_URI=server.uri()
            ),
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 1
        assert "run `mlflow-proxy migrate`" in done.stderr.splitlines()[-1]
        found = schema.look(server.uri().replace("postgresql:", "postgresql+psycopg:"))
        assert found is not None
        assert found.found == "451aebb31d03"
