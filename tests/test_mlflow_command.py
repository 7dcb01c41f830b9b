"""What MLflow is started with, the key of its gateway's secrets, and what its output says."""

from __future__ import annotations

import asyncio
import shlex
from pathlib import Path

from mlflow_helpers import TOKEN, place, settings_for

from proxy.mlflow_server import command, environment
from proxy.mlflow_server.keys import VARIABLE as KEK
from proxy.mlflow_server.keys import gateway_passphrase
from proxy.mlflow_server.output import (
    LONGEST_LINE,
    LONGEST_REASON,
    Lines,
    Progress,
    driver_says,
    masking,
    place_of,
    secrets_of,
)

__all__ = ["place"]


def test_mlflow_gets_a_socket_and_the_jobs_address_and_no_port_of_its_own(place: Path) -> None:
    arguments = command(settings_for(place, mlflow_workers=3), Path("/run/x/g1.sock"), 5123)
    assert arguments[arguments.index("--host") + 1] == "127.0.0.1"
    assert arguments[arguments.index("--port") + 1] == "5123"
    assert arguments[arguments.index("--workers") + 1] == "3"
    uvicorn = shlex.split(arguments[arguments.index("--uvicorn-opts") + 1])
    assert uvicorn[uvicorn.index("--uds") + 1] == "/run/x/g1.sock"
    assert int(uvicorn[uvicorn.index("--timeout-keep-alive") + 1]) > 60
    assert uvicorn[uvicorn.index("--timeout-graceful-shutdown") + 1] == "1"
    assert "--no-proxy-headers" in uvicorn


def test_a_bucket_is_served_through_mlflow(place: Path) -> None:
    arguments = command(settings_for(place, artifact_root="s3://bucket/path"), Path("/s"), 1)
    assert "--serve-artifacts" in arguments
    assert arguments[arguments.index("--artifacts-destination") + 1] == "s3://bucket/path"
    assert "--default-artifact-root" not in arguments


def test_further_options_do_not_come_after_ours(place: Path) -> None:
    arguments = command(settings_for(place, mlflow_args=("--x-frame-options", "DENY")), Path("/s"), 1)
    assert arguments.index("--x-frame-options") < arguments.index("--host")


def test_no_secret_of_the_database_is_in_the_arguments(place: Path) -> None:
    settings = settings_for(place, backend_store_uri="postgresql+other://u:topsecret@db/x")
    assert "topsecret" not in " ".join(command(settings, Path("/s"), 1))
    assert environment(settings, {}, {}, TOKEN)["MLFLOW_BACKEND_STORE_URI"].endswith("u:topsecret@db/x")


def test_what_is_ours_or_a_clients_or_uvicorns_does_not_reach_mlflow(place: Path) -> None:
    dropped = {
        "UVICORN_PORT": "9",
        "FORWARDED_ALLOW_IPS": "*",
        "WEB_CONCURRENCY": "9",
        "PROXY_METRICS_TOKEN": "x",
        "MLFLOW_UI_OAUTH_CLIENT_SECRET": "x",
        "MLFLOW_TRACKING_URI": "x",
        "MLFLOW_TRACKING_INSECURE_TLS": "x",
        "MLFLOW_TRACKING_PASSWORD_FILE": "x",
        "MLFLOW_BACKEND_STORE_URI_FILE": "x",
        "MLFLOW_DEFAULT_ARTIFACT_ROOT": "s3://x",
        "MLFLOW_WORKSPACE": "x",
        "_MLFLOW_SERVER_FILE_STORE": "x",
        "_MLFLOW_IN_JOB_EXECUTOR": "true",
        "MLFLOW_HOST": "x",
        "MLFLOW_PORT": "tcp://10.0.0.1:5000",
        "MLFLOW_UVICORN_OPTS": "x",
        "MLFLOW_SERVER_ALLOWED_HOSTS": "x",
        "AWS_SECRET_ACCESS_KEY_FILE": "x",
        "NOTIFY_SOCKET": "x",
        "MLFLOW_EMPTY": "",
        "AWS_ACCESS_KEY_ID": "",
    }
    kept = {"PATH": "/bin", "AWS_WEB_IDENTITY_TOKEN_FILE": "/t", "MLFLOW_LOGGING_LEVEL": "DEBUG", "EMPTY": ""}
    result = environment(settings_for(place), dropped, {**dropped, **kept}, TOKEN)
    assert not set(dropped) & set(result)
    assert result == {**result, **kept}


def test_what_the_settings_have_weighed_is_stronger_than_the_bare_environment(place: Path) -> None:
    """They have seen the environment: what they hand on is in force, with the driver in a registry's URI."""
    in_force = {"MLFLOW_REGISTRY_STORE_URI": "postgresql+psycopg://h/d", "AWS_ACCESS_KEY_ID": "file"}
    environ = {"MLFLOW_REGISTRY_STORE_URI": "postgresql://h/d", "AWS_ACCESS_KEY_ID": ""}
    result = environment(settings_for(place), in_force, environ, TOKEN)
    assert result["MLFLOW_REGISTRY_STORE_URI"] == "postgresql+psycopg://h/d"
    assert result["AWS_ACCESS_KEY_ID"] == "file"


def test_jobs_get_their_own_credential_alone(place: Path) -> None:
    ours = {"MLFLOW_TRACKING_USERNAME": "admin", "MLFLOW_TRACKING_PASSWORD": "admins-own"}
    result = environment(settings_for(place), ours, ours, TOKEN)
    assert "admins-own" not in result.values()
    assert result["MLFLOW_TRACKING_TOKEN"] == result["MLFLOW_TRACKING_PASSWORD"] == TOKEN
    assert result["MLFLOW_TRACKING_USERNAME"] == "mlflow-jobs"


def test_nothing_leaves_the_machine_unless_somebody_says_so(place: Path) -> None:
    result = environment(settings_for(place), {}, {}, TOKEN)
    assert result["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert result["MLFLOW_MODEL_CATALOG_URI"] == ""
    said = {"MLFLOW_DISABLE_TELEMETRY": "false", "MLFLOW_MODEL_CATALOG_URI": "https://mirror"}
    assert environment(settings_for(place), {}, said, TOKEN).items() >= said.items()


def test_jobs_do_not_reach_our_listener_through_an_outgoing_proxy(place: Path) -> None:
    given = {"HTTP_PROXY": "http://proxy:3128", "NO_PROXY": "internal"}
    result = environment(settings_for(place), {}, given, TOKEN)
    assert result["NO_PROXY"] == result["no_proxy"] == "internal,127.0.0.1,localhost"
    assert "NO_PROXY" not in environment(settings_for(place), {}, {}, TOKEN)


# The key of the gateway's secrets


def test_a_new_data_directory_gets_a_key_of_its_own_and_keeps_it(place: Path) -> None:
    settings = settings_for(place)
    settings.data_dir.mkdir()
    first = gateway_passphrase(settings, {})
    (settings.data_dir / "mlflow.db").write_text("")
    assert len(first[KEK]) >= 32
    assert gateway_passphrase(settings, {}) == first
    assert (settings.data_dir / "gateway-secrets.passphrase").stat().st_mode & 0o777 == 0o600


def test_a_database_that_may_hold_secrets_under_another_key_gets_none(place: Path) -> None:
    settings = settings_for(place)
    settings.data_dir.mkdir()
    (settings.data_dir / "mlflow.db").write_text("")
    assert gateway_passphrase(settings, {}) == {}
    shared = settings_for(place, backend_store_uri="postgresql+other://db/x")
    assert gateway_passphrase(shared, {}) == {}
    assert gateway_passphrase(settings, {KEK: "a person's"}) == {}


# Its output


def read(*pieces: bytes) -> list[str]:
    async def run() -> list[str]:
        lines: list[str] = []
        protocol = Lines(lines.append)
        for piece in pieces:
            protocol.data_received(piece)
        protocol.connection_lost(None)
        return lines

    return asyncio.run(run())


def test_lines_are_whole_however_they_arrive() -> None:
    assert read(b"on", b"e\ntwo\r\n\nthr", b"ee") == ["one", "two", "", "three"]


def test_bytes_that_are_not_text_are_shown() -> None:
    assert read(b"a\xff\xfeb\n", "é\n".encode()) == ["a\\xff\\xfeb", "é"]


def test_a_line_without_end_is_cut_and_costs_no_memory() -> None:
    first, second = read(*[b"x" * 65536] * 100, b"\nnext\n")
    assert first == "x" * LONGEST_LINE + " ... (cut)"
    assert second == "next"


def test_a_password_is_taken_out_of_mlflows_output() -> None:
    uri = "postgresql://me:p%40ss%2Fword@db.example.com:5432/mlflow"
    mask = masking([*secrets_of(uri), uri])
    assert mask(f"can't open {uri}") == "can't open ***"
    assert mask("as p@ss/word and as p%40ss%2Fword") == "as *** and as ***"
    assert place_of(uri) == "the database at db.example.com:5432"
    assert place_of("sqlite:////data/mlflow.db") == "the database /data/mlflow.db"


def test_a_drivers_reason_is_one_line_without_a_secret_or_sql() -> None:
    uri = "postgresql://me:p%40ss%2Fword@db.example.com:5432/mlflow"
    text = "(psycopg.OperationalError) connection failed:\n\tno route for p@ss/word\n[SQL: SELECT]\n(more)"
    assert driver_says(text, uri) == "(psycopg.OperationalError) connection failed: no route for ***"
    assert driver_says("x" * 5000, uri) == "x" * LONGEST_REASON + " ..."


def test_a_migration_and_an_unreachable_database_are_recognized() -> None:
    progress = Progress("the database at db:5432")
    progress.read(
        "2026/01/01 00:00:00 WARNING mlflow.store.db.utils: SQLAlchemy engine could not be created. The"
    )
    assert progress.step == "the database at db:5432 can't be reached; MLflow goes on trying"
    progress.read("INFO alembic.runtime.migration: Running upgrade  -> 451aebb31d03, add metric step")
    progress.read("... Running upgrade 451aebb31d03 -> 90e64c465722, migrate user column to tags")
    assert progress.migrating
    assert progress.step == "migrating the database: 90e64c465722, migrate user column to tags (step 2)"
    progress.read("INFO:     Started server process [7]")
    assert not progress.migrating
    assert progress.step is None
