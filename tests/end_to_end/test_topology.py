"""What docker/docker-compose.mlflow.yaml is made of, as processes: TLS before it, its database, its storage.

Caddy stands for Traefik, and moto with its access control on for Silo; the database, its user, the storage's
policy, the certificate and every secret are the stack's own.
"""

from __future__ import annotations

import contextlib
import getpass
import http.client
import json
import os
import secrets
import signal
import subprocess
import time
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import compose
import psycopg
import pytest
import requests
from botocore.exceptions import ClientError
from compose import DOCKER, ROOT
from databases import PostgreSQL, database, path
from object_stores import S3
from programs import needs
from service import PASSWORD, USER, Service, free_port, start
from tap import web_server
from terminator import Terminator
from test_healthcheck import asked

from proxy.auth.passwords import hash_password
from proxy.backup.databases import scratch as lent

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    needs("caddy", "openssl", *PostgreSQL.programs),
]
PATIENCE = 180.0
BUCKET = "mlflow"
VIEWER, VIEWERS_PASSWORD = "vera", "viewing-from-the-hill"
DELETE = "/api/2.0/mlflow/experiments/delete"


class DatabaseOfTheStack(PostgreSQL):
    """Made by the stack's scripts, run with its options. The drill's role, too."""

    password = drill_password = ""
    """Of the user mlflow, and of the drill's, as docker/make-env made them."""

    def create(self) -> None:
        given = compose.env_file(ROOT / "mlflow-postgres.env.example")["POSTGRES_INITDB_ARGS"].split()
        owner = self.account if os.geteuid() == 0 else getpass.getuser()
        data = self.folder / "data"
        self.run(path("initdb"), "-D", str(data), "-U", owner, "--no-sync", *given)
        self.start()
        word = self.folder / "drill-password"
        word.write_text(f"{self.drill_password}\n")
        word.chmod(0o644)
        for name, given in (
            ("10-mlflow.sh", f"MLFLOW_DATABASE_PASSWORD={self.password}"),
            ("10-drill.sh", f"DRILL_PASSWORD_FILE={word}"),
        ):
            script = self.folder / name
            script.write_text((DOCKER / "postgres" / name).read_text())
            script.chmod(0o755)
            self.run(
                *("env", f"PGHOST={self.folder}", f"PGPORT={self.port}", f"POSTGRES_USER={owner}"),
                *(f"PATH={Path(path('psql')).parent}:{os.environ['PATH']}", given, str(script)),
            )

    def command(self) -> list[str]:
        where = ("-D", str(self.folder / "data"), "-k", str(self.folder), "-p", str(self.port))
        return [path("postgres"), *compose.options_of("postgres"), *where, "-h", "127.0.0.1"]


class StorageOfTheStack(S3):
    """With the stack's policy for the proxy's key, which alone counts then. It can be started again."""

    root = "s3://mlflow/artifacts"

    def start(self) -> None:
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                self.command(), env=self.environment(), stdout=log, stderr=log, cwd=self.folder
            )
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(requests.RequestException):
                # The same key each time, which moto lets nobody choose.
                requests.post(f"{self.address}/moto-api/seed?a=1", timeout=5).raise_for_status()
                break
            assert self.process.poll() is None, (self.folder / "server.log").read_text()
            assert time.monotonic() < deadline, (self.folder / "server.log").read_text()
            time.sleep(0.1)
        self.create()

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def create(self) -> None:
        iam = self._client_of("iam", "root", "root")
        iam.create_user(UserName="mlflow-proxy")
        policy = (DOCKER / "minio" / "policy.json").read_text()
        iam.put_user_policy(UserName="mlflow-proxy", PolicyName="mlflow-artifacts", PolicyDocument=policy)
        made = iam.create_access_key(UserName="mlflow-proxy")["AccessKey"]
        self.keys = made["AccessKeyId"], made["SecretAccessKey"]
        storage = self._client_of("s3", "root", "root")
        for bucket in (BUCKET, "payroll"):
            storage.create_bucket(Bucket=bucket)
        # From here on every key counts for what its user may do.
        requests.post(f"{self.address}/moto-api/reset-auth", data=b"0", timeout=30).raise_for_status()

    def client(self) -> Any:
        """As the proxy."""
        return self._client_of("s3", *self.keys)

    def _client_of(self, service: str, key: str, secret: str) -> Any:
        return boto3.client(
            service,  # type: ignore[call-overload]
            endpoint_url=self.address,
            aws_access_key_id=key,
            aws_secret_access_key=secret,
            region_name="us-east-1",
        )


@dataclass
class Topology:
    """`call` goes through the terminator."""

    database: DatabaseOfTheStack
    storage: StorageOfTheStack
    terminator: Terminator
    service: Service
    environment: dict[str, str]
    session: requests.Session = field(default_factory=requests.Session)

    def call(self, operation: str, /, **body: Any) -> Any:
        answer = self.session.post(
            f"{self.terminator.url}/api/2.0/mlflow/{operation}", json=body, timeout=PATIENCE
        )
        assert answer.status_code == 200, answer.text
        return answer.json()

    def works(self) -> str:
        """A run is made, logged to and read, an artifact goes up and down: the run's id."""
        made = self.call("runs/create", experiment_id="0", start_time=1)
        run = str(made["run"]["info"]["run_id"])
        self.call("runs/log-metric", run_id=run, key="loss", value=0.5, timestamp=1)
        artifact = secrets.token_bytes(3_000_000)
        where = f"{self.terminator.url}/api/2.0/mlflow-artifacts/artifacts/0/{run}/artifacts/some.bin"
        answer = self.session.put(where, data=artifact, timeout=PATIENCE)
        assert answer.status_code == 200, answer.text
        answer = self.session.get(where, timeout=PATIENCE)
        assert (answer.status_code, answer.content == artifact) == (200, True), answer.text[:1000]
        self.is_there(run)
        return run

    def is_there(self, run: str) -> None:
        answer = self.session.get(
            f"{self.terminator.url}/api/2.0/mlflow/runs/get", params={"run_id": run}, timeout=PATIENCE
        )
        assert answer.status_code == 200, answer.text
        assert [one["value"] for one in answer.json()["run"]["data"]["metrics"]] == [0.5]

    def works_again(self) -> str:
        """The same, as soon as it is so."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                return self.works()
            except (AssertionError, requests.RequestException):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.5)


@pytest.fixture(scope="module")
def topology(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Topology]:
    folder = tmp_path_factory.mktemp("topology")
    made = compose.make_env(folder)
    assert made.returncode == 0, made.stderr
    DatabaseOfTheStack.password = compose.env_file(folder / "mlflow-postgres.env")["MLFLOW_DATABASE_PASSWORD"]
    DatabaseOfTheStack.drill_password = (folder / "docker/secrets/drill-password").read_text().strip()
    certificates = folder / "docker" / "secrets"
    (folder / "store").mkdir()
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(database(DatabaseOfTheStack))
        assert isinstance(server, DatabaseOfTheStack)
        store = StorageOfTheStack(folder / "store")
        stack.callback(store.stop)
        store.start()
        port = free_port()
        terminator = Terminator(folder / "caddy", certificates, behind=port)
        stack.callback(terminator.stop)
        terminator.start()
        environment = settings(folder, server, store, terminator, port)
        service = start(folder / "service", ready=False, **environment)
        whole = Topology(server, store, terminator, service, environment)
        stack.callback(lambda: whole.service.end())
        service.wait_ready(PATIENCE)
        whole.session.trust_env = False
        whole.session.verify = str(terminator.ca)
        whole.session.auth = (USER, PASSWORD)
        yield whole


def settings(
    folder: Path, server: DatabaseOfTheStack, store: StorageOfTheStack, terminator: Terminator, port: int
) -> dict[str, str]:
    """What the container of the proxy gets, with our addresses and places, and moto's choice of a key."""
    given = compose.env_file(folder / "mlflow.env") | compose.environment_of("mlflow")
    for inside, outside in (
        ("@postgres/", f"@127.0.0.1:{server.port}/"),
        ("http://minio:9000", store.address),
        ("/run/secrets/", f"{folder}/docker/secrets/"),
    ):
        given = {name: value.replace(inside, outside) for name, value in given.items()}
    for name in ("PROXY_DATA_DIR", "PROXY_RUNTIME_DIR", "MLFLOW_TRACKING_PASSWORD"):
        del given[name]
    users = folder / "users"
    users.write_text(f"{VIEWER}:{hash_password(VIEWERS_PASSWORD)}:viewer\n")
    users.chmod(0o600)
    return given | {
        "MLFLOW_HOST": "127.0.0.1",
        "MLFLOW_PORT": str(port),
        "PROXY_PUBLIC_URL": terminator.url,
        "PROXY_TRUSTED_PROXIES": "127.0.0.1",
        "PROXY_USERS_FILE": str(users),
        "AWS_ACCESS_KEY_ID": store.keys[0],
        "AWS_SECRET_ACCESS_KEY": store.keys[1],
    }


def test_a_person_signs_in_and_plain_http_is_sent_to_tls(topology: Topology) -> None:
    answer = topology.session.get(topology.terminator.url + "/", timeout=60)
    assert (answer.status_code, "<title>MLflow</title>" in answer.text) == (200, True)
    with requests.Session() as nobody:
        nobody.trust_env, nobody.verify = False, str(topology.terminator.ca)
        assert nobody.get(topology.terminator.url + "/", timeout=60).status_code == 401
    plain = requests.post(
        f"http://localhost:{topology.terminator.http}{DELETE}?a=1", allow_redirects=False, timeout=60
    )
    assert (plain.status_code, plain.headers["location"]) == (308, f"{topology.terminator.url}{DELETE}?a=1")


def test_the_stack_s_health_check_is_content(topology: Topology) -> None:
    command = compose.stack()["services"]["mlflow"]["healthcheck"]["test"]
    assert command[:3] == ["CMD", "mlflow-proxy", "healthcheck"]
    assert asked(topology.service.folder, *command[3:], **topology.environment) == (0, "ok\n", "")


def test_what_is_logged_and_uploaded_is_in_the_database_and_in_the_bucket(topology: Topology) -> None:
    run = topology.works()
    with psycopg.connect(topology.environment["MLFLOW_BACKEND_STORE_URI"]) as connection:
        found = connection.execute("SELECT value FROM metrics WHERE run_uuid = %s", (run,)).fetchall()
        assert found == [(0.5,)]
    listed = topology.storage.client().list_objects_v2(Bucket=BUCKET, Prefix=f"artifacts/0/{run}/")
    assert [entry["Size"] for entry in listed["Contents"]] == [3_000_000]
    assert not (topology.service.data / "mlflow.db").exists()
    assert not (topology.service.data / "artifacts").exists()


def test_its_user_of_the_database_is_nothing_beyond_it(topology: Topology) -> None:
    with psycopg.connect(topology.environment["MLFLOW_BACKEND_STORE_URI"], autocommit=True) as connection:
        rights = connection.execute(
            "SELECT rolsuper, rolcreatedb, rolcreaterole, rolreplication, rolbypassrls"
            " FROM pg_roles WHERE rolname = current_user"
        ).fetchone()
        assert rights == (False,) * 5
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("CREATE DATABASE payroll")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("SELECT * FROM pg_authid")
        assert connection.execute("SHOW data_checksums").fetchone() == ("on",)
        assert connection.execute("SHOW password_encryption").fetchone() == ("scram-sha-256",)
    wrong = topology.environment["MLFLOW_BACKEND_STORE_URI"].replace("mlflow:", "mlflow:x")
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(wrong)


def test_the_drill_s_role_makes_databases_and_is_no_more(topology: Topology) -> None:
    given = compose.env_file(topology.service.folder.parent / "mlflow.env")["PROXY_DRILL_SERVER_URL"]
    server = given.replace("@drill-database/", f"@127.0.0.1:{topology.database.port}/")
    with psycopg.connect(server, autocommit=True) as connection:
        rights = connection.execute(
            "SELECT rolsuper, rolcreatedb, rolcreaterole, rolreplication, rolbypassrls"
            " FROM pg_roles WHERE rolname = current_user"
        ).fetchone()
        assert rights == (False, True, False, False, False)
        assert connection.execute(
            "SELECT count(*) FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.member"
            " WHERE r.rolname = current_user"
        ).fetchone() == (0,), "of no role, pg_execute_server_program for one"
    # As a drill does, and what a hostile dump would do in its database.
    scratch = lent.create(server, "mlflow_drill_topology")
    try:
        with psycopg.connect(scratch, autocommit=True) as connection:
            connection.execute("CREATE TABLE restored (line text)")
            for hostile in (
                "COPY restored FROM PROGRAM 'id'",
                "COPY restored TO PROGRAM 'cat'",
                "COPY restored FROM '/etc/passwd'",
                "SELECT pg_read_file('/etc/passwd')",
                "ALTER SYSTEM SET archive_command = 'id'",
                "ALTER ROLE drill SUPERUSER",
            ):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    connection.execute(hostile)
        assert lent.named(server, "mlflow_drill_topology") == ["mlflow_drill_topology"]
    finally:
        lent.drop(server, "mlflow_drill_topology")
    assert lent.named(server, "mlflow_drill_topology") == []


def test_its_key_of_the_storage_opens_its_bucket_alone(topology: Topology) -> None:
    """The policy is enough for what MLflow does, as the other tests show, and for nothing else."""
    client = topology.storage.client()
    for refused in (
        lambda: client.list_objects_v2(Bucket="payroll"),
        lambda: client.put_object(Bucket="payroll", Key="a", Body=b""),
        lambda: client.create_bucket(Bucket="another"),
        lambda: client.delete_bucket(Bucket=BUCKET),
        lambda: client.put_bucket_policy(Bucket=BUCKET, Policy="{}"),
        lambda: client.list_buckets(),
    ):
        with pytest.raises(ClientError, match="AccessDenied"):
            refused()


def as_viewer(**more: str) -> dict[str, str]:
    credential = b64encode(f"{VIEWER}:{VIEWERS_PASSWORD}".encode()).decode()
    return {"Host": "localhost", "Authorization": f"Basic {credential}", **more}


FORGED = {
    "X-Remote-User": "admin",
    "X-Forwarded-User": "admin",
    "X-Forwarded-Email": "admin@example.com",
    "X-Auth-Request-User": "admin",
    "Remote-User": "admin",
    "X_Remote_User": "admin",
    "X-Forwarded-For": "203.0.113.9",
    "X-Forwarded-Proto": "http",
    "X-Forwarded-Host": "evil.example.com",
    "X-Real-IP": "203.0.113.9",
    "Forwarded": "for=203.0.113.9;host=evil.example.com",
}


def test_forged_headers_say_nothing_about_who_or_whence(topology: Topology) -> None:
    body = json.dumps({"experiment_id": "0"}).encode()
    for source, credential in (("127.0.0.2", {"Host": "localhost"}), ("127.0.0.3", as_viewer())):
        with contextlib.closing(topology.terminator.connection(source)) as connection:
            headers = {**FORGED, **credential, "Content-Type": "application/json"}
            connection.request("POST", DELETE, body, headers)
            answer = connection.getresponse()
            said = answer.read().decode()
        known = "Authorization" in credential
        assert answer.status == (403 if known else 401), said
        assert "evil" not in said + str(answer.getheaders())
        line = topology.service.logged(answer.headers["X-Request-Id"], PATIENCE)
        assert line["client"] == source
        assert line["user"] == (VIEWER if known else None)


def test_whoever_goes_round_the_terminator_is_not_believed_either(topology: Topology) -> None:
    connection = http.client.HTTPConnection(
        "127.0.0.1", topology.service.port, timeout=60, source_address=("127.0.0.4", 0)
    )
    with contextlib.closing(connection):
        connection.request("GET", "/version", headers=FORGED | {"Host": "localhost"})
        answer = connection.getresponse()
        answer.read()
    assert topology.service.logged(answer.headers["X-Request-Id"], PATIENCE)["client"] == "127.0.0.4"


def test_another_host_s_name_is_refused(topology: Topology) -> None:
    with contextlib.closing(topology.terminator.connection()) as connection:
        connection.request("GET", "/", headers={**as_viewer(), "Host": "evil.example.com"})
        assert connection.getresponse().status == 421


@pytest.mark.parametrize(
    "alias",
    [
        DELETE,
        f"/{DELETE}",
        DELETE.replace("/mlflow/", "/./mlflow/"),
        f"/static-files/..{DELETE}",
        DELETE.replace("/mlflow/", "//mlflow/"),
        DELETE.replace("/api/", "/%61pi/"),
        DELETE.replace("/api/", "/api%2F"),
        DELETE.replace("/mlflow/", "/mlflow;x=1/"),
        f"{DELETE};x=1",
        f"{DELETE}/",
        f"{DELETE}?a=1;b=2",
        DELETE.replace("delete", "search;/../delete"),
        DELETE.replace("delete", "%64elete"),
    ],
)
def test_no_spelling_of_a_path_lets_a_viewer_delete(topology: Topology, alias: str) -> None:
    made = topology.call("experiments/create", name=f"kept-{secrets.token_hex(4)}")["experiment_id"]
    body = json.dumps({"experiment_id": made}).encode()
    with contextlib.closing(topology.terminator.connection()) as connection:
        connection.request("POST", alias, body, as_viewer(**{"Content-Type": "application/json"}))
        answer = connection.getresponse()
        assert answer.status in (400, 403, 404, 405), answer.read()
    found = topology.session.get(
        f"{topology.terminator.url}/api/2.0/mlflow/experiments/get",
        params={"experiment_id": made},
        timeout=60,
    )
    assert found.json()["experiment"]["lifecycle_stage"] == "active"


def test_each_part_may_be_started_again_while_the_others_run(topology: Topology) -> None:
    runs = [topology.works()]

    topology.terminator.stop()
    topology.terminator.start()
    runs.append(topology.works())

    os.kill(web_server(topology.service), signal.SIGKILL)
    runs.append(topology.works_again())

    topology.database.stop()
    topology.database.start()
    runs.append(topology.works_again())

    keys = topology.storage.keys
    topology.storage.stop()
    topology.storage.start()
    assert topology.storage.keys == keys
    runs.append(topology.works_again())

    assert topology.service.end() == 0
    topology.service = start(topology.service.folder, ready=False, **topology.environment)
    topology.service.wait_ready(PATIENCE)
    runs.append(topology.works())
    for run in runs:
        topology.is_there(run)
    assert "crashed" not in topology.service.log()
