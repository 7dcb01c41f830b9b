"""Settings: where values come from, which wins, and what each mistake is answered with."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import click
import pytest
import yaml
from click.testing import CliRunner

from proxy.cli import main
from proxy.errors import UserError
from proxy.identity import Role
from proxy.settings import (
    REFUSED_OPTIONS,
    REFUSED_VARIABLES,
    Loaded,
    Settings,
    artifact_destination,
    database_uri,
    describe,
    load,
    may_reach_mlflow,
    options,
    refused_mlflow_option,
    table,
)
from proxy.settings.load import _misspelt
from proxy.settings.names import FILE_PASSTHROUGH
from proxy.settings.reference import files
from proxy.settings.variables import FILE_NAMES, KNOWN, SETTINGS, as_text

ROOT = Path(__file__).parents[1]
SECRET = "hunter2-never-shown"


def read(directory: Path, environ: Mapping[str, str] | None = None, **given: str) -> Loaded:
    return load({}, {**(environ or {}), **given}, directory)


def problems(directory: Path, environ: Mapping[str, str] | None = None, **given: str) -> list[str]:
    with pytest.raises(UserError) as caught:
        read(directory, environ, **given)
    return str(caught.value).splitlines()


def problem(directory: Path, environ: Mapping[str, str] | None = None, **given: str) -> str:
    (line,) = problems(directory, environ, **given)
    return line


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


# ---- Sources ----


def test_nothing_set_serves_on_loopback_from_the_working_directory(tmp_path: Path) -> None:
    loaded = read(tmp_path)
    assert (loaded.settings.host, loaded.settings.port) == ("127.0.0.1", 8443)
    assert loaded.settings.data_dir == tmp_path / "mlflow-data"
    assert database_uri(loaded.settings) == f"sqlite:///{tmp_path}/mlflow-data/mlflow.db"
    assert artifact_destination(loaded.settings) == f"{tmp_path}/mlflow-data/artifacts"
    assert loaded.passthrough == {}
    assert set(loaded.origin.values()) == {"default"}
    assert set(loaded.origin) == set(SETTINGS)


def test_each_source_is_stronger_than_the_next(tmp_path: Path) -> None:
    write(tmp_path / "config/settings.yaml", "mlflow:\n  MLFLOW_PORT: 1\n  PROXY_HOLD_REQUESTS: 9\n")
    assert read(tmp_path).settings.port == 1
    assert read(tmp_path).origin["MLFLOW_PORT"] == "config/settings.yaml"

    write(tmp_path / "config/settings.blue.yaml", "mlflow:\n  mlflow_port: 2\n")
    loaded = read(tmp_path, PROXY_ENV="blue")
    assert (loaded.settings.port, loaded.settings.hold_requests) == (2, 9)
    assert loaded.origin["MLFLOW_PORT"] == "config/settings.blue.yaml"
    assert loaded.origin["PROXY_HOLD_REQUESTS"] == "config/settings.yaml"

    write(tmp_path / "mlflow.env", "PROXY_ENV=blue\nMLFLOW_PORT=3\n")
    assert read(tmp_path).settings.port == 3
    assert read(tmp_path).settings.env == "blue"
    assert read(tmp_path).origin["MLFLOW_PORT"] == "mlflow.env"

    write(tmp_path / "port", "4\n")
    loaded = read(tmp_path, MLFLOW_PORT_FILE="port")
    assert loaded.settings.port == 4
    assert loaded.origin["MLFLOW_PORT"] == f"file {tmp_path}/port (MLFLOW_PORT_FILE)"

    loaded = read(tmp_path, MLFLOW_PORT_FILE="port", MLFLOW_PORT="5")
    assert (loaded.settings.port, loaded.origin["MLFLOW_PORT"]) == (5, "environment")
    unused = "is not read, as MLFLOW_PORT beside it is stronger: keep one"
    assert loaded.warnings == (f"MLFLOW_PORT_FILE (environment): {unused}",)
    assert read(tmp_path, MLFLOW_PORT_FILE="not-even-there", MLFLOW_PORT="5").settings.port == 5

    loaded = load({"MLFLOW_PORT": "6"}, {"MLFLOW_PORT": "5"}, tmp_path)
    assert (loaded.settings.port, loaded.origin["MLFLOW_PORT"]) == (6, "command line")


def test_a_file_of_a_secret_is_stronger_than_mlflow_env_whichever_source_names_it(tmp_path: Path) -> None:
    write(tmp_path / "word", SECRET)
    write(tmp_path / "mlflow.env", "MLFLOW_TRACKING_PASSWORD=weaker\nMLFLOW_TRACKING_PASSWORD_FILE=word\n")
    loaded = read(tmp_path)
    assert loaded.settings.password is not None
    assert loaded.settings.password.get_secret_value() == SECRET
    unused = "is not read, as MLFLOW_TRACKING_PASSWORD_FILE beside it is stronger: keep one"
    assert loaded.warnings == (f"MLFLOW_TRACKING_PASSWORD (mlflow.env): {unused}",)
    over = load({}, {"MLFLOW_TRACKING_PASSWORD": "over all"}, tmp_path)
    assert over.warnings == (), "as ever, the environment is stronger than mlflow.env"


def test_an_empty_value_means_unset(tmp_path: Path) -> None:
    write(tmp_path / "config/settings.yaml", "mlflow:\n  MLFLOW_PORT: 1\n  MLFLOW_HOST: ''\n  PROXY_TLS:\n")
    write(tmp_path / "mlflow.env", "MLFLOW_PORT=\nMLFLOW_UI_OAUTH_CLIENT_ID=\nMLFLOW_TRACKING_USERNAME=\n")
    loaded = load({"MLFLOW_PORT": ""}, {"MLFLOW_PORT": "", "MLFLOW_PORT_FILE": "", "PROXY_ENV": ""}, tmp_path)
    assert (loaded.settings.port, loaded.settings.host, loaded.settings.tls) == (1, "127.0.0.1", True)
    assert loaded.settings.username is None
    assert loaded.origin["PROXY_TLS"] == "default"


def test_nothing_is_filled_in_for_a_dollar_in_mlflow_env(tmp_path: Path) -> None:
    write(tmp_path / "mlflow.env", "MLFLOW_TRACKING_PASSWORD=a$HOME${PATH}$$b\nOPENAI_API_KEY='p\"#$x y'\n")
    loaded = read(tmp_path, HOME="/home/x", PATH="/bin")
    assert loaded.settings.password is not None
    assert loaded.settings.password.get_secret_value() == "a$HOME${PATH}$$b"
    assert loaded.passthrough["OPENAI_API_KEY"] == 'p"#$x y'


def test_another_env_file_must_exist(tmp_path: Path) -> None:
    write(tmp_path / "mlflow.env", "MLFLOW_PORT=1\n")
    write(tmp_path / "etc/other.env", "MLFLOW_PORT=2\n")
    loaded = read(tmp_path, PROXY_ENV_FILE="etc/other.env")
    assert (loaded.settings.port, loaded.origin["MLFLOW_PORT"]) == (2, "etc/other.env")
    assert "No such file" in problem(tmp_path, PROXY_ENV_FILE="etc/none.env")
    write(tmp_path / "mlflow.env", "PROXY_ENV_FILE=etc/other.env\n")
    assert "set it in the environment" in problem(tmp_path)


def test_a_chosen_environment_must_have_its_file(tmp_path: Path) -> None:
    write(tmp_path / "config/settings.yaml", "mlflow: {MLFLOW_PORT: 1}\n")
    line = problem(tmp_path, PROXY_ENV="prodution")
    assert line.startswith("PROXY_ENV (environment): there is no config/settings.prodution.yaml")
    assert "PROXY_ENV (environment)" in problem(tmp_path, PROXY_ENV="../../etc/x")
    write(tmp_path / "config/settings.yaml", "mlflow: {PROXY_ENV: blue}\n")
    assert "PROXY_ENV (config/settings.yaml)" in problem(tmp_path)


def test_yaml_values_are_the_text_that_stands_there(tmp_path: Path) -> None:
    write(
        tmp_path / "config/settings.yaml",
        "mlflow:\n  mlflow_tracking_password: 0123456\n  PROXY_TLS: off\n  PROXY_BODY_LIMIT: 64KB\n"
        "  PROXY_ALLOWED_HOSTS: [a.example, 'b.example:8443']\n"
        "  PROXY_MLFLOW_ARGS: [--x-frame-options, 'A B']\n"
        "  PROXY_TRUSTED_PROXIES: 10.0.0.0/8\n  MLFLOW_LOGGING_LEVEL: yes\n  aws_region: eu-1\n"
        "other_program: {MLFLOW: 1}\n",
    )
    loaded = read(tmp_path)
    settings = loaded.settings
    assert settings.password is not None
    assert settings.password.get_secret_value() == "0123456"
    assert (settings.tls, settings.body_limit) == (False, 64000)
    assert settings.allowed_hosts == ("a.example", "b.example:8443")
    assert settings.mlflow_args == ("--x-frame-options", "A B")
    assert [str(network) for network in settings.trusted_proxies] == ["10.0.0.0/8"]
    assert loaded.passthrough == {"MLFLOW_LOGGING_LEVEL": "yes", "AWS_REGION": "eu-1"}


@pytest.mark.parametrize("name", sorted(FILE_NAMES))
def test_every_setting_and_storage_secret_can_come_from_a_file(tmp_path: Path, name: str) -> None:
    write(tmp_path / "file", "x\n")
    file = f"file {tmp_path}/file ({name})"
    try:
        loaded = read(tmp_path, {name: "file"})
    except UserError as error:
        said = str(error)  # the value is nonsense for most settings: that it was read is what the error says
    else:
        said = loaded.origin[FILE_NAMES[name]]
        assert name not in loaded.passthrough
    assert file in said


def test_one_line_break_at_the_end_of_a_secret_file_is_no_part_of_it(tmp_path: Path) -> None:
    for content, value in (
        (b" a b \n", " a b "),
        (b"ab\r\n", "ab"),
        (b"ab", "ab"),
        (b"\xef\xbb\xbfab\n", "ab"),
    ):
        (tmp_path / "file").write_bytes(content)
        loaded = read(tmp_path, AWS_SECRET_ACCESS_KEY_FILE="file", MLFLOW_TRACKING_PASSWORD_FILE="file")
        assert loaded.passthrough == {"AWS_SECRET_ACCESS_KEY": value}
        assert loaded.settings.password is not None
        assert loaded.settings.password.get_secret_value() == value


def test_names_that_really_end_in_file_are_no_secrets_in_files(tmp_path: Path) -> None:
    given = {
        "AWS_SHARED_CREDENTIALS_FILE": "/nowhere/a",
        "AWS_WEB_IDENTITY_TOKEN_FILE": "/nowhere/b",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": "/nowhere/c",
        "AZURE_FEDERATED_TOKEN_FILE": "/nowhere/d",
        "MLFLOW_GATEWAY_RESOLVE_API_KEY_FROM_FILE": "true",
    }
    write(tmp_path / "mlflow.env", "".join(f"{name}={value}\n" for name, value in given.items()))
    assert read(tmp_path).passthrough == given
    certificate, key = write(tmp_path / "c.pem", "cert"), write(tmp_path / "k.pem", "key")
    users = write(tmp_path / "users", "")
    settings = read(
        tmp_path, PROXY_TLS_CERT_FILE="c.pem", PROXY_TLS_KEY_FILE=str(key), PROXY_USERS_FILE="users"
    ).settings
    assert (settings.tls_cert_file, settings.tls_key_file, settings.users_file) == (certificate, key, users)
    assert not FILE_NAMES.keys() & KNOWN.keys()


def test_relative_paths_are_relative_to_the_working_directory(tmp_path: Path) -> None:
    settings = read(
        tmp_path,
        PROXY_DATA_DIR="data",
        PROXY_RUNTIME_DIR="/run/x",
        MLFLOW_DEFAULT_ARTIFACT_ROOT="files",
        MLFLOW_BACKEND_STORE_URI="sqlite:///db/a.db?timeout=9",
    ).settings
    assert settings.data_dir == tmp_path / "data"
    assert settings.runtime_dir == Path("/run/x")
    assert artifact_destination(settings) == f"{tmp_path}/files"
    assert database_uri(settings) == f"sqlite:///{tmp_path}/db/a.db?timeout=9"


# ---- Mistakes ----


def test_every_problem_is_told_at_once_with_its_name_and_place(tmp_path: Path) -> None:
    write(tmp_path / "config/settings.yaml", "mlflow:\n  PROXY_LOG_FORMT: json\n  PROXY_HOLD_SECONDS: soon\n")
    write(tmp_path / "mlflow.env", "PROXY_GRACE=3\nMLFLOW_PORT=80000\nproxy_tls=off\n")
    found = problems(tmp_path, PROXY_TLS="maybe", MLFLOW_TRACKING_USERNAME="anna", HTTP_PROXY="x", proxy="y")
    assert found == [
        "PROXY_GRACE (mlflow.env): there is no such setting; did you mean PROXY_GRACE_SECONDS?",
        "proxy_tls (mlflow.env): names are in capitals: write PROXY_TLS",
        "PROXY_LOG_FORMT (config/settings.yaml): there is no such setting; did you mean PROXY_LOG_FORMAT?",
        "MLFLOW_TRACKING_USERNAME (environment): a user name needs a password: "
        "set MLFLOW_TRACKING_PASSWORD or MLFLOW_TRACKING_PASSWORD_FILE",
        "MLFLOW_PORT (mlflow.env): '80000' is not a port: a whole number from 1 to 65535, such as 8443",
        "PROXY_TLS (environment): 'maybe' is neither on nor off",
        "PROXY_HOLD_SECONDS (config/settings.yaml): 'soon' is not a number of seconds over 0 "
        "(at most 604800), such as 30",
    ]


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("MLFLOW_HOST", "http://x"),
        ("MLFLOW_HOST", "a b"),
        ("MLFLOW_HOST", "10.0.0"),
        ("MLFLOW_HOST", "*"),
        ("MLFLOW_PORT", "-1"),
        ("MLFLOW_PORT", "65536"),
        ("MLFLOW_PORT", "84 43"),
        ("MLFLOW_PORT", "٣"),
        ("PROXY_PUBLIC_URL", "mlflow.example.com"),
        ("PROXY_PUBLIC_URL", "ftp://mlflow.example.com"),
        ("PROXY_PUBLIC_URL", "https://mlflow.example.com/?x=1"),
        ("PROXY_PUBLIC_URL", "https://mlflow.example.com/#x"),
        ("PROXY_PUBLIC_URL", "https://mlflow.example.com?"),
        ("PROXY_PUBLIC_URL", f"https://u:{SECRET}@mlflow.example.com"),
        ("PROXY_PUBLIC_URL", "https://mlflow.example.com:99999"),
        ("PROXY_PUBLIC_URL", "https://mlflow.example.com/a/../b"),
        ("PROXY_PUBLIC_URL", "https://mlflow.example.com//b"),
        ("PROXY_PUBLIC_URL", "https://exa mple.com"),
        ("PROXY_PUBLIC_URL", "https://[::1"),
        ("PROXY_ALLOWED_HOSTS", "https://a.example"),
        ("PROXY_ALLOWED_HOSTS", "*.example.com"),
        ("PROXY_ALLOWED_HOSTS", "a.example:x"),
        ("PROXY_TRUSTED_PROXIES", "*"),
        ("PROXY_TRUSTED_PROXIES", "10.0.0.5/8"),
        ("PROXY_METRICS_ADDRESS", "9090"),
        ("PROXY_METRICS_ADDRESS", ":9090"),
        ("PROXY_METRICS_ADDRESS", "::1:9090"),
        ("PROXY_METRICS_ADDRESS", "127.0.0.1:8443"),
        ("PROXY_METRICS_TOKEN", SECRET[:15]),
        ("PROXY_METRICS_TOKEN", SECRET + " with spaces"),
        ("PROXY_MLFLOW_ARGS", "--x 'open"),
        ("PROXY_MLFLOW_ARGS", "--host 0.0.0.0"),
        ("PROXY_MLFLOW_WORKERS", "0"),
        ("PROXY_MLFLOW_WORKERS", "65"),
        ("PROXY_MLFLOW_CONCURRENCY", "41"),
        ("PROXY_READY_TIMEOUT", "0"),
        ("PROXY_READY_TIMEOUT", "nan"),
        ("PROXY_STALL_TIMEOUT", "inf"),
        ("PROXY_STALL_TIMEOUT", "-3"),
        ("PROXY_BODY_LIMIT", "0"),
        ("PROXY_BODY_LIMIT", "10 bananas"),
        ("PROXY_BODY_LIMIT", "1GiB"),
        ("PROXY_BUFFER_BYTES", "1MiB"),
        ("PROXY_DELETE_ROLE", "viewer"),
        ("PROXY_LOG_LEVEL", "loud"),
        ("PROXY_LOG_FORMAT", "xml"),
        ("MLFLOW_TRACKING_PASSWORD", f"{SECRET}\nx"),
        ("MLFLOW_BACKEND_STORE_URI", f"/var/{SECRET}"),
        ("MLFLOW_BACKEND_STORE_URI", f"file:///var/{SECRET}"),
        ("MLFLOW_BACKEND_STORE_URI", "sqlite://"),
        ("MLFLOW_BACKEND_STORE_URI", "sqlite:///:memory:"),
        ("MLFLOW_BACKEND_STORE_URI", f"postgres://u:{SECRET}@h/d"),
        ("MLFLOW_BACKEND_STORE_URI", f"oracle://u:{SECRET}@h/d"),
        ("MLFLOW_BACKEND_STORE_URI", f"u:{SECRET}"),
        ("MLFLOW_REGISTRY_STORE_URI", f"postgres://u:{SECRET}@h/d"),
        ("MLFLOW_DEFAULT_ARTIFACT_ROOT", "mlflow-artifacts:/"),
        ("MLFLOW_DEFAULT_ARTIFACT_ROOT", f"https://u:{SECRET}@storage.example.com"),
        ("MLFLOW_DEFAULT_ARTIFACT_ROOT", f"sftp://u:{SECRET}@storage.example.com/x"),
        ("MLFLOW_S3_ENDPOINT_URL", "minio:9000"),
        ("MLFLOW_S3_ENDPOINT_URL", f"ftp://u:{SECRET}@minio:9000"),
        ("MLFLOW_UI_OAUTH_CLIENT_ID", "abc"),
        ("MLFLOW_UI_OAUTH_CLIENT_SECRET", SECRET),
        ("MLFLOW_UI_OAUTH_ISSUER_URL", "https://id.example.com"),
        ("PROXY_BASIC_AUTH", "off"),
        ("PROXY_CLOCK_SKEW", "3600"),
        ("PROXY_COOKIE_SECRET", SECRET),
        ("PROXY_COOKIE_SECRET", f"{SECRET * 2},short"),
        ("PROXY_COOKIE_SECRET", "hunter2-" + "2" * 40 + "," + "a" * 40),
        ("PROXY_SESSION_IDLE", "604801"),
        ("PROXY_SESSION_REFRESH", "28801"),
        ("PROXY_DATABASE_URL", f"mysql://u:{SECRET}@h/d"),
        ("PROXY_DATABASE_URL", f"postgres://u:{SECRET}@h/d"),
        ("PROXY_DATABASE_URL", "sqlite://"),
        ("PROXY_ALLOWED_EMAIL_DOMAINS", "*.example.com"),
        ("PROXY_ALLOWED_EMAIL_DOMAINS", "com"),
        ("PROXY_ALLOWED_EMAILS", "ada"),
        ("PROXY_DEFAULT_ROLE", "owner"),
        ("PROXY_LOGO_FILE", "/nowhere/logo.svg"),
        ("PROXY_NAME", "a name that is quite a bit longer than anybody would want on a page"),
        ("PROXY_DATA_DIRECTORY", "x"),
        ("PROXY_TLS_CERT_FILE_FILE", "/nowhere"),
        ("MLFLOW_TRACKING_PASSWORD_FILE", "/nowhere/at/all"),
        ("MLFLOW_TRACKING_PASSWORD_FILE", "/"),
        ("MLFLOW_TRACKING_PASSWORD_FILE", "/dev/null"),
        ("MLFLOW_TRACKING_PASSWORD_FILE", "/dev/zero"),
        ("PROXY_USERS_FILE", "/nowhere/users"),
    ],
)
def test_a_bad_value_is_one_line_that_names_the_setting_and_where_it_was_set(
    tmp_path: Path, name: str, bad: str
) -> None:
    line = problem(tmp_path, {name: bad})
    assert "(environment): " in line
    assert line.startswith((name, "PROXY_BODY_LIMIT" if name == "PROXY_BUFFER_BYTES" else name))
    assert SECRET[:8] not in line
    assert "pydantic" not in line


@pytest.mark.parametrize(
    ("name", "text", "attribute", "value"),
    [
        ("MLFLOW_HOST", "[::1]", "host", "::1"),
        ("MLFLOW_HOST", "localhost", "host", "localhost"),
        ("MLFLOW_PORT", "0", "port", 0),
        ("PROXY_PUBLIC_URL", "https://MLflow.Example.com:8443/ml/", "public_url", "https://mlflow.example.com:8443/ml"),
        ("PROXY_PUBLIC_URL", "http://[::1]:80", "public_url", "http://[::1]:80"),
        ("PROXY_ALLOWED_HOSTS", "A.example, 10.0.0.7:80", "allowed_hosts", ("a.example", "10.0.0.7:80")),
        ("PROXY_ALLOWED_HOSTS", "::1,,[::1]:9,", "allowed_hosts", ("[::1]", "[::1]:9")),
        ("PROXY_METRICS_ADDRESS", "[::1]:9090", "metrics_address", ("::1", 9090)),
        ("PROXY_BODY_LIMIT", "64KB", "body_limit", 64000),
        ("PROXY_BODY_LIMIT", "104857600", "body_limit", 104857600),
        ("PROXY_BODY_LIMIT", "1 MiB", "body_limit", 1048576),
        ("PROXY_TLS", "OFF", "tls", False),
        ("PROXY_DELETE_ROLE", "editor", "delete_role", Role.EDITOR),
        ("PROXY_HOLD_SECONDS", "0.5", "hold_seconds", 0.5),
        ("PROXY_LOG_LEVEL", "DEBUG", "log_level", "debug"),
        ("PROXY_MLFLOW_ARGS", "--x-frame-options 'A B'", "mlflow_args", ("--x-frame-options", "A B")),
    ],
)  # fmt: skip
def test_a_value_is_read_as_a_person_writes_it(
    tmp_path: Path, name: str, text: str, attribute: str, value: object
) -> None:
    assert getattr(read(tmp_path, {name: text}).settings, attribute) == value


def test_a_certificate_needs_its_key_and_both_must_be_readable(tmp_path: Path) -> None:
    write(tmp_path / "c.pem", "cert")
    assert "set PROXY_TLS_KEY_FILE" in problem(tmp_path, PROXY_TLS_CERT_FILE="c.pem")
    assert "set PROXY_TLS_CERT_FILE" in problem(tmp_path, PROXY_TLS_KEY_FILE="c.pem")
    line = problem(tmp_path, PROXY_TLS_CERT_FILE="c.pem", PROXY_TLS_KEY_FILE="gone.pem")
    assert line == f"PROXY_TLS_KEY_FILE (environment): there is no file {tmp_path}/gone.pem"


def test_a_command_may_name_the_users_file_that_it_is_about_to_make(tmp_path: Path) -> None:
    environ = {"PROXY_USERS_FILE": "users"}
    assert "there is no file" in problem(tmp_path, environ)
    loaded = load({}, environ, tmp_path, may_be_absent=["PROXY_USERS_FILE"])
    assert loaded.settings.users_file == tmp_path / "users"


def test_half_a_storage_key_is_an_error(tmp_path: Path) -> None:
    bucket = {"MLFLOW_DEFAULT_ARTIFACT_ROOT": "s3://bucket/path"}
    if find_spec("boto3") is None:
        assert "pip install boto3" in problem(tmp_path, bucket)
        return
    assert artifact_destination(read(tmp_path, bucket).settings) == "s3://bucket/path"
    assert "AWS_SECRET_ACCESS_KEY_FILE" in problem(tmp_path, bucket, AWS_ACCESS_KEY_ID="x")
    assert "AWS_ACCESS_KEY_ID_FILE" in problem(tmp_path, bucket, AWS_SECRET_ACCESS_KEY=SECRET)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("mlflow: [1, 2]\n", "mlflow (config/settings.yaml): is not a mapping"),
        ("- a\n", "config/settings.yaml: is not a mapping"),
        (f"mlflow:\n  MLFLOW_TRACKING_PASSWORD: *{SECRET}\n", "config/settings.yaml: line 2 is not YAML"),
        (f"mlflow:\n  MLFLOW_TRACKING_PASSWORD: !{SECRET} x\n", "config/settings.yaml: line 2 is not YAML"),
        (f"mlflow:\n  MLFLOW_TRACKING_PASSWORD: 'a{SECRET}\n", "config/settings.yaml: line"),
        (f"mlflow:\n  MLFLOW_TRACKING_PASSWORD: {SECRET}: x\n", "config/settings.yaml: line 2 is not YAML"),
        ("mlflow:\n  MLFLOW_PORT: 1\n  MLFLOW_PORT: 2\n", "MLFLOW_PORT (config/settings.yaml): set twice"),
        ("mlflow:\n  MLFLOW_PORT: 1\n  mlflow_port: 2\n", "MLFLOW_PORT (config/settings.yaml): set twice"),
        ("mlflow:\n  MLFLOW_PORT: {a: 1}\n", "MLFLOW_PORT (config/settings.yaml): is not a single value"),
        ("mlflow:\n  MLFLOW_PORT: [1]\n", "MLFLOW_PORT (config/settings.yaml): is not a single value"),
        ("MLFLOW_PORT: 1\n", "MLFLOW_PORT (config/settings.yaml): belongs into the section `mlflow:`"),
        ("mlfow:\n  MLFLOW_PORT: 1\n", "mlfow (config/settings.yaml): unknown section"),
        ("mlflow:\n  port: 1\n", "PORT (config/settings.yaml): there is no such setting"),
        (
            "mlflow:\n  mlflow_backend_store_url: x\n",
            "MLFLOW_BACKEND_STORE_URL (config/settings.yaml): there is no such setting; "
            "did you mean MLFLOW_BACKEND_STORE_URI?",
        ),
    ],
)
def test_bad_yaml_is_told_by_its_line_and_never_quoted(tmp_path: Path, text: str, said: str) -> None:
    write(tmp_path / "config/settings.yaml", text)
    line = problem(tmp_path)
    assert line.startswith(said)
    assert SECRET not in line


def test_a_line_of_mlflow_env_that_is_none_is_told_by_its_number_and_never_quoted(tmp_path: Path) -> None:
    for text in (f"MLFLOW_PORT=1\n{SECRET}\n", f"A=1\nB='{SECRET}\n", f"\n={SECRET}\n"):
        write(tmp_path / "mlflow.env", text)
        line = problem(tmp_path)
        assert line.startswith("mlflow.env: line 2 is not NAME=value")
        assert SECRET not in line


def test_a_file_that_cannot_be_read_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "mlflow.env").mkdir()
    (tmp_path / "config").mkdir()
    (tmp_path / "config/settings.yaml").write_bytes(b"mlflow:\n  MLFLOW_HOST: \xff\xfe\n")
    first, second = problems(tmp_path)
    assert first == f"mlflow.env: {tmp_path}/mlflow.env can't be read: Is a directory"
    assert second == f"config/settings.yaml: {tmp_path}/config/settings.yaml is not UTF-8 text"


def test_no_input_breaks_a_line_of_the_report(tmp_path: Path) -> None:
    line = problem(tmp_path, {"PROXY_X\nmlflow-proxy: all is well\x1b[2J\udcff": "1"})
    assert line.isprintable()


# ---- What MLflow gets ----


def test_what_is_not_ours_goes_to_mlflow_unread(tmp_path: Path) -> None:
    write(
        tmp_path / "mlflow.env",
        "MLFLOW_ENABLE_WORKSPACES=true\nHTTPS_PROXY=http://p\nMLFLOW_TRACKING_URI=http://x\nMLFLOW_WORKSPACE=w\n"
        "_MLFLOW_SGI_NAME=x\nUVICORN_HOST=0.0.0.0\nFORWARDED_ALLOW_IPS=*\nWEB_CONCURRENCY=4\n"
        "MLFLOW_TRACKING_TOKEN=t\nPROMETHEUS_MULTIPROC_DIR=/x\nMLFLOW_TRACKING_PASSWORD=abc\n",
    )
    loaded = read(
        tmp_path,
        MLFLOW_ENABLE_WORKSPACES="false",
        MLFLOW_LOGGING_LEVEL="DEBUG",
        AWS_SECRET_ACCESS_KEY=SECRET,
        HOME="/root",
        MLFLOW_BACKEND_STORE_URI="sqlite:////x/y.db",
        MLFLOW_DEFAULT_ARTIFACT_ROOT="/x/y",
    )
    assert loaded.passthrough == {
        "MLFLOW_ENABLE_WORKSPACES": "false",
        "MLFLOW_LOGGING_LEVEL": "DEBUG",
        "HTTPS_PROXY": "http://p",
        "AWS_SECRET_ACCESS_KEY": SECRET,
    }
    assert loaded.origin["MLFLOW_ENABLE_WORKSPACES"] == "environment"
    assert loaded.origin["HTTPS_PROXY"] == "mlflow.env"


@pytest.mark.parametrize("source", ["environment", "mlflow.env", "config/settings.yaml"])
@pytest.mark.parametrize("name", sorted(REFUSED_VARIABLES))
def test_the_environment_twin_of_a_refused_option_is_refused_from_any_source(
    tmp_path: Path, name: str, source: str
) -> None:
    value = "false" if name == "MLFLOW_SERVE_ARTIFACTS" else "true"
    environ = {}
    if source == "environment":
        environ = {name: value}
    elif source == "mlflow.env":
        write(tmp_path / source, f"{name}={value}\n")
    else:
        write(tmp_path / source, f"mlflow:\n  {name}: {value}\n")
    assert problem(tmp_path, environ).startswith(f"{name} ({source}): refused: ")


def test_a_twin_that_says_what_is_so_anyway_is_dropped(tmp_path: Path) -> None:
    loaded = read(
        tmp_path,
        MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE="false",
        MLFLOW_SERVE_ARTIFACTS="true",
        MLFLOW_ARTIFACTS_ONLY="0",
        MLFLOW_UVICORN_OPTS="",
    )
    assert loaded.passthrough == {}
    assert not any(may_reach_mlflow(name) for name in REFUSED_VARIABLES)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--host", "0.0.0.0"],
        ["--host=0.0.0.0"],
        ["-h", "0.0.0.0"],
        ["-h0.0.0.0"],
        ["-h=0.0.0.0"],
        ["-host"],
        ["-p5000"],
        ["-w4"],
        ["--x-frame-options", "DENY", "--port=1"],
        ["--x-frame-options", "--uvicorn-opts", "--host 0.0.0.0"],
        ["--no-serve-artifacts"],
        ["--env-file=/etc/passwd"],
        [f"--backend-store-uri=postgresql://u:{SECRET}@h/d"],
    ],
)
def test_an_option_that_opens_a_way_round_is_refused(tmp_path: Path, arguments: list[str]) -> None:
    said = refused_mlflow_option(arguments)
    assert said is not None
    line = problem(tmp_path, PROXY_MLFLOW_ARGS=shlex.join(arguments))
    assert line == f"PROXY_MLFLOW_ARGS (environment): {said}"
    assert SECRET not in line


def test_options_that_open_none_go_through(tmp_path: Path) -> None:
    text = "--x-frame-options DENY --secrets-cache-ttl=60 --enable-workspaces --trace-archival-config /h/p"
    assert read(tmp_path, PROXY_MLFLOW_ARGS=text).settings.mlflow_args == tuple(text.split())


def server_command() -> click.Command:
    """`mlflow server` of the installed MLflow, whose options ours must know."""
    from mlflow.cli import cli

    command = cli.commands["server"]
    assert isinstance(command, click.Command)
    return command


def test_every_option_of_the_installed_mlflow_is_judged() -> None:
    allowed = {
        "--x-frame-options",
        "--trace-archival-config",
        "--secrets-cache-ttl",
        "--secrets-cache-max-size",
        "--enable-workspaces",
        "--disable-workspaces",
    }
    installed = {
        name for option in server_command().params for name in (*option.opts, *option.secondary_opts)
    }
    assert installed - REFUSED_OPTIONS.keys() == allowed
    # A boolean option with a short name could be glued before a refused one; there is none.
    assert {name for name in installed if not name.startswith("--")} == {"-h", "-p", "-w"}


def test_the_installed_click_takes_no_abbreviated_options() -> None:
    for word in ("--hos", "--por", "--uvicorn-opt", "--no-serve", "--HOST"):
        result = CliRunner().invoke(server_command(), [word, "1"])
        assert result.exit_code == 2, word
        assert "No such option" in result.output


def test_every_variable_of_an_option_of_the_installed_mlflow_is_judged() -> None:
    unread = {
        "MLFLOW_REGISTRY_STORE_URI",
        "MLFLOW_READ_REPLICA_BACKEND_STORE_URI",
        "MLFLOW_WORKSPACE_STORE_URI",
        "MLFLOW_TRACE_ARCHIVAL_CONFIG",
        "MLFLOW_SERVER_X_FRAME_OPTIONS",
    }
    twins = {str(option.envvar) for option in server_command().params if option.envvar}
    assert {name for name in twins if may_reach_mlflow(name)} - unread == set()


def test_no_variable_of_mlflow_is_taken_for_a_misspelt_setting() -> None:
    found = find_spec("mlflow")
    assert found is not None
    assert found.origin is not None
    source = (Path(found.origin).parent / "environment_variables.py").read_text()
    names = set(re.findall(r'"(MLFLOW_[A-Z0-9_]+)"', source))
    assert len(names) > 100
    assert {name: close for name in names if (close := _misspelt(name))} == {}


def test_a_misspelt_mlflow_variable_is_warned_of(tmp_path: Path) -> None:
    loaded = read(tmp_path, MLFLOW_BACKEND_STORE_URL="x", MLFLOW_POTR="1")
    assert loaded.warnings == (
        "MLFLOW_BACKEND_STORE_URL (environment): goes to MLflow unread; "
        "did you mean MLFLOW_BACKEND_STORE_URI?",
        "MLFLOW_POTR (environment): goes to MLflow unread; did you mean MLFLOW_PORT?",
    )


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("MLFLOW_UI_OAUTH_ISSUER", "MLFLOW_UI_OAUTH_ISSUER_URL"),
        ("MLFLOW_UI_OAUTH_CLIENTID", "MLFLOW_UI_OAUTH_CLIENT_ID"),
        ("MLFLOW_UI_OAUTH_CLIENT_SECRT", "MLFLOW_UI_OAUTH_CLIENT_SECRET"),
        ("MLFLOW_UI_OAUTH_CLIENT_SECRT_FILE", "MLFLOW_UI_OAUTH_CLIENT_SECRET_FILE"),
    ],
)
def test_a_misspelt_setting_of_the_identity_provider_is_refused(
    tmp_path: Path, name: str, meant: str
) -> None:
    line = problem(tmp_path, {name: SECRET})
    assert line == f"{name} (environment): there is no such setting; did you mean {meant}?"


def test_a_misspelt_name_of_the_user_or_the_password_is_warned_of(tmp_path: Path) -> None:
    for name, meant in (
        ("MLFLOW_TRACKING_USER", "MLFLOW_TRACKING_USERNAME"),
        ("MLFLOW_TRACKING_PASSWD", "MLFLOW_TRACKING_PASSWORD"),
        ("MLFLOW_TRACKING_PASWORD_FILE", "MLFLOW_TRACKING_PASSWORD_FILE"),
    ):
        (warning,) = read(tmp_path, {name: SECRET}).warnings
        assert warning == f"{name} (environment): is not read; did you mean {meant}?"


def test_settings_of_mlflows_client_are_no_misspelt_ones(tmp_path: Path) -> None:
    for name in ("URI", "TOKEN", "AUTH", "INSECURE_TLS", "SERVER_CERT_PATH", "CLIENT_CERT_PATH", "AWS_SIGV4"):
        assert read(tmp_path, {f"MLFLOW_TRACKING_{name}": "x"}).warnings == ()


def test_an_env_file_that_cannot_be_read_is_told_with_what_named_it(tmp_path: Path) -> None:
    line = problem(tmp_path, PROXY_ENV_FILE="/nope.env")
    assert line == "PROXY_ENV_FILE (environment): /nope.env can't be read: No such file or directory"


def test_what_kubernetes_sets_for_a_service_is_no_setting(tmp_path: Path) -> None:
    links: dict[str, str] = {}
    for service in ("MLFLOW", "PROXY", "PROXY_METRICS"):
        links |= {
            f"{service}_SERVICE_HOST": "10.0.0.1",
            f"{service}_SERVICE_PORT": "80",
            f"{service}_SERVICE_PORT_HTTPS": "80",
            f"{service}_PORT": "tcp://10.0.0.1:80",
            f"{service}_PORT_80_TCP": "tcp://10.0.0.1:80",
            f"{service}_PORT_80_TCP_PROTO": "tcp",
            f"{service}_PORT_80_TCP_PORT": "80",
            f"{service}_PORT_80_TCP_ADDR": "10.0.0.1",
        }
    loaded = read(tmp_path, links)
    assert loaded.settings.port == 8443
    assert loaded.passthrough == {}
    (warning,) = loaded.warnings
    assert warning.startswith("MLFLOW_PORT (environment): tcp://10.0.0.1:80 was set by Kubernetes")
    assert read(tmp_path, links, MLFLOW_PORT="9443").settings.port == 9443
    assert "PROXY_SPEED" in problem(tmp_path, links, PROXY_SPEED="1")


def test_a_tcp_address_for_a_port_is_explained(tmp_path: Path) -> None:
    assert "enableServiceLinks: false" in problem(tmp_path, MLFLOW_PORT="tcp://10.0.0.1:80")


# ---- Listening ----


def test_a_public_url_without_tls_on_a_port_with_tls_is_refused(tmp_path: Path) -> None:
    line = problem(tmp_path, PROXY_PUBLIC_URL="http://mlflow.example.com:8443")
    assert line.startswith("PROXY_PUBLIC_URL (environment): is http:// with MLFLOW_PORT, 8443")
    assert "MLFLOW_PORT, 80," in problem(tmp_path, PROXY_PUBLIC_URL="http://m.example.com", MLFLOW_PORT="80")
    (warning,) = read(tmp_path, PROXY_PUBLIC_URL="http://mlflow.example.com").warnings
    assert "speaks TLS alone" in warning
    for url in ("http://mlflow.example.com:8443", "http://mlflow.example.com"):
        assert read(tmp_path, PROXY_PUBLIC_URL=url, PROXY_TLS="off").warnings == ()
    assert read(tmp_path, PROXY_PUBLIC_URL="https://mlflow.example.com:8443").warnings == ()


def test_passwords_in_clear_are_warned_of(tmp_path: Path) -> None:
    off = {"PROXY_TLS": "off", "PROXY_PUBLIC_URL": "https://mlflow.example.com"}
    (warning,) = read(tmp_path, off, MLFLOW_HOST="0.0.0.0").warnings
    assert warning.startswith("PROXY_TLS (environment): is off and MLFLOW_HOST is 0.0.0.0, so passwords")
    assert read(tmp_path, off, MLFLOW_HOST="::1").warnings == ()
    assert read(tmp_path, off, MLFLOW_HOST="0.0.0.0", PROXY_TRUSTED_PROXIES="10.0.0.7").warnings == ()


def test_a_service_for_other_machines_wants_to_know_its_name(tmp_path: Path) -> None:
    (warning,) = read(tmp_path, MLFLOW_HOST="0.0.0.0").warnings
    assert warning.startswith("MLFLOW_HOST (environment): is 0.0.0.0, and host names other than loopback's")
    assert "421" in warning
    for more in ({"PROXY_PUBLIC_URL": "https://m.example.com"}, {"PROXY_ALLOWED_HOSTS": "m.example.com"}):
        assert read(tmp_path, more, MLFLOW_HOST="0.0.0.0").warnings == ()


# ---- Databases ----


def test_a_database_scheme_that_sqlalchemy_dropped_is_told_by_its_new_name(tmp_path: Path) -> None:
    line = problem(tmp_path, MLFLOW_BACKEND_STORE_URI="postgres://u:p@h/d")
    assert line.endswith("write postgresql://")


@pytest.mark.parametrize(
    ("written", "used", "module", "package"),
    [
        ("postgresql://u:p@h/d", "postgresql+psycopg://u:p@h/d", "psycopg", "psycopg[binary]"),
        ("mysql://u:p@h/d", "mysql+pymysql://u:p@h/d", "pymysql", "pymysql"),
        ("mariadb://u:p@h/d", "mysql+pymysql://u:p@h/d", "pymysql", "pymysql"),
        ("mysql+pymysql://u@h/d?charset=utf8", "mysql+pymysql://u@h/d?charset=utf8", "pymysql", "pymysql"),
        ("mssql://u:p@h/d", "mssql+pyodbc://u:p@h/d", "pyodbc", "pyodbc"),
        ("postgresql+psycopg2://u:p@h/d", "postgresql+psycopg2://u:p@h/d", "psycopg2", "psycopg2-binary"),
    ],
)
def test_a_database_gets_the_installed_driver_or_is_told_what_to_install(
    tmp_path: Path, written: str, used: str, module: str, package: str
) -> None:
    if find_spec(module):
        assert database_uri(read(tmp_path, MLFLOW_BACKEND_STORE_URI=written).settings) == used
        assert read(tmp_path, MLFLOW_REGISTRY_STORE_URI=written).passthrough == {
            "MLFLOW_REGISTRY_STORE_URI": used
        }
    else:
        line = problem(tmp_path, MLFLOW_BACKEND_STORE_URI=written)
        assert line.startswith("MLFLOW_BACKEND_STORE_URI (environment): the driver for ")
        assert line.endswith(f"is not installed: pip install '{package}'")


# ---- Nothing secret is shown ----


def test_no_secret_is_shown_by_the_table_or_the_settings(tmp_path: Path) -> None:
    write(
        tmp_path / "mlflow.env",
        f"MLFLOW_TRACKING_USERNAME=anna\nMLFLOW_TRACKING_PASSWORD={SECRET}\nPROXY_METRICS_TOKEN={SECRET}\n"
        f"AWS_ACCESS_KEY_ID={SECRET}\nAWS_SECRET_ACCESS_KEY={SECRET}\nAZURE_STORAGE_ACCESS_KEY={SECRET}\n"
        f"AZURE_STORAGE_CONNECTION_STRING={SECRET}\nOPENAI_API_KEY={SECRET}\nWHATEVER={SECRET}\n"
        f"MLFLOW_FLASK_SERVER_SECRET_KEY={SECRET}\nMLFLOW_CRYPTO_KEK_PASSPHRASE={SECRET}\n"
        f"MLFLOW_GATEWAY_BUDGET_REDIS_URL=redis://:{SECRET}@h/0\n"
        f"MLFLOW_BACKEND_STORE_URI=sqlite:////x/y.db?password={SECRET}\n"
        f"MLFLOW_SERVER_JOB_HUEY_REDIS_URL=redis://u:{SECRET}@h/0\n"
        f"MLFLOW_LOGGING_LEVEL=DEBUG\nMLFLOW_S3_ENDPOINT_URL=https://u:{SECRET}@h\n",
    )
    loaded = read(tmp_path)
    shown = table(loaded)
    assert SECRET not in shown + repr(loaded.settings) + str(loaded.settings)
    rows = {row.variable: row for row in describe(loaded)}
    assert rows["MLFLOW_BACKEND_STORE_URI"].value == "sqlite:////x/y.db?password=***"
    assert rows["MLFLOW_S3_ENDPOINT_URL"].value == "https://u:***@h"
    assert rows["MLFLOW_TRACKING_PASSWORD"].value == "***"
    assert rows["MLFLOW_LOGGING_LEVEL"].value == "DEBUG"
    assert rows["MLFLOW_TRACKING_USERNAME"].origin == "mlflow.env"
    assert rows.keys() >= SETTINGS.keys()


def test_the_password_of_a_database_is_masked_however_it_is_written(tmp_path: Path) -> None:
    if find_spec("psycopg") is None:
        pytest.skip("needs psycopg, which scripts/test installs")
    for password in (SECRET, f"p%40{SECRET}", f"a%2F{SECRET}", f"{SECRET}#x?", f"{SECRET}:{SECRET}"):
        uri = f"postgresql://u:{password}@h:5432/d?sslmode=require&sslpassword={SECRET}"
        loaded = read(tmp_path, MLFLOW_BACKEND_STORE_URI=uri)
        assert "postgresql://u:***@h:5432/d?sslmode=require&sslpassword=***" in table(loaded)
        assert SECRET not in table(loaded)


@pytest.mark.parametrize("name", ["MLFLOW_BACKEND_STORE_URI", "PROXY_DATABASE_URL"])
@pytest.mark.parametrize(
    "password",
    [f"p@{SECRET}", f"{SECRET}@", f"a/{SECRET}", "s3c/r@et", f"a@b/{SECRET}@{SECRET}", "a/b?c@d/e"],
)
def test_a_password_of_a_database_that_is_not_percent_encoded_is_refused(
    tmp_path: Path, name: str, password: str
) -> None:
    line = problem(tmp_path, {name: f"postgresql://u:{password}@127.0.0.1/db"})
    assert line.startswith(f"{name} (environment): ")
    assert line.endswith("percent-encode @ as %40 and / as %2F in the password")
    assert password not in line
    assert SECRET not in line


@pytest.mark.parametrize(
    "rest",
    [
        "h/d",
        "u@h/d",
        "u@server:p@h/d",
        "h:5432/d",
        "u:p@h/my@db",
        "u:p@[::1]:5432/d?options=a@b/c",
        "u:p@/d?host=/run/x",
    ],
)
def test_other_at_signs_in_a_database_uri_are_left_alone(tmp_path: Path, rest: str) -> None:
    if find_spec("psycopg") is None:
        pytest.skip("needs psycopg, which scripts/test installs")
    loaded = read(tmp_path, MLFLOW_BACKEND_STORE_URI=f"postgresql://{rest}")
    assert database_uri(loaded.settings) == f"postgresql+psycopg://{rest}"


def test_settings_do_not_change_after_they_were_read(tmp_path: Path) -> None:
    settings = read(tmp_path).settings
    with pytest.raises(ValueError, match="frozen"):
        settings.port = 1


# ---- The command line ----


@pytest.mark.parametrize("name", ["PROXY_PROBE_INTERVAL", "PROXY_PROBE_STORAGE_INTERVAL"])
def test_a_probe_can_be_switched_off(name: str, tmp_path: Path) -> None:
    loaded = load(environ={name: "0"}, directory=tmp_path)
    assert getattr(loaded.settings, name.removeprefix("PROXY_").lower()) == 0


def test_every_setting_but_a_secret_has_an_option_of_its_own() -> None:
    flags = {variable: flag for flag, variable, help_text in options() if help_text}
    assert len(set(flags.values())) == len(flags)
    assert (flags["MLFLOW_PORT"], flags["PROXY_DATA_DIR"]) == ("--port", "--data-dir")
    assert SETTINGS.keys() - flags.keys() == {
        "PROXY_AUDIT_KEY",
        "PROXY_BACKUP_AZURE_CONNECTION_STRING",
        "PROXY_BACKUP_SECRET_ACCESS_KEY",
        "PROXY_DRILL_SERVER_URL",
        "PROXY_METRICS_TOKEN",
        "MLFLOW_BACKEND_STORE_URI",
        "MLFLOW_TRACKING_PASSWORD",
        "MLFLOW_UI_OAUTH_CLIENT_SECRET",
        "PROXY_COOKIE_SECRET",
        "PROXY_DATABASE_URL",
    }
    secret = {variable.name for variable in SETTINGS.values() if variable.secret}
    assert secret == SETTINGS.keys() - flags.keys()


# ---- What is written twice ----


def test_the_example_files_and_the_docs_say_what_the_code_says() -> None:
    for path, text in files(ROOT).items():
        assert path.read_text() == text, f"run: python -m proxy.settings.reference --write ({path.name})"


def test_the_examples_list_every_setting() -> None:
    for path, text in files(ROOT).items():
        missing = [name for name in KNOWN if not re.search(rf"\b{name}\b", text)]
        assert not missing, path


def test_the_examples_copied_unchanged_change_nothing(tmp_path: Path) -> None:
    plain = read(tmp_path)
    write(tmp_path / "mlflow.env", (ROOT / "mlflow.env.example").read_text())
    write(tmp_path / "config/settings.yaml", (ROOT / "config/settings.example.yaml").read_text())
    assert read(tmp_path) == plain


def test_every_default_in_the_examples_is_the_default_in_force(tmp_path: Path) -> None:
    plain = read(tmp_path).settings
    text = (ROOT / "mlflow.env.example").read_text()
    write(tmp_path / "mlflow.env", re.sub(r"(?m)^#(?=[A-Z_0-9]+=)", "", text))
    loaded = read(tmp_path)
    assert loaded.settings == plain
    assert loaded.origin["MLFLOW_PORT"] == "mlflow.env"
    (tmp_path / "mlflow.env").unlink()
    text = re.sub(r"(?m)^  #(?=[A-Z_0-9]+:)", "  ", (ROOT / "config/settings.example.yaml").read_text())
    assert len(yaml.safe_load(text)["mlflow"]) == len(KNOWN)
    write(tmp_path / "config/settings.yaml", text)
    loaded = read(tmp_path)
    assert loaded.settings == plain
    assert loaded.origin["MLFLOW_PORT"] == "config/settings.yaml"


def test_a_value_is_shown_as_it_can_be_written(tmp_path: Path) -> None:
    given = {
        "PROXY_ALLOWED_HOSTS": "a.example,[::1]:9",
        "PROXY_TRUSTED_PROXIES": "10.0.0.0/8,::1/128",
        "PROXY_METRICS_ADDRESS": "[::1]:9090",
        "PROXY_MLFLOW_ARGS": "--x-frame-options 'A B'",
        "PROXY_BODY_LIMIT": "1000001",
        "PROXY_BUFFER_BYTES": "3GiB",
        "PROXY_TLS": "off",
        "PROXY_HOLD_SECONDS": "0.25",
        "PROXY_DELETE_ROLE": "editor",
    }
    settings = read(tmp_path, given).settings
    for name, text in given.items():
        variable = SETTINGS[name]
        assert as_text(getattr(settings, variable.attribute), variable.kind) == text


def test_the_process_environment_and_working_directory_are_what_is_read_unless_given(tmp_path: Path) -> None:
    write(tmp_path / "mlflow.env", "PROXY_HOLD_REQUESTS=7\n")
    code = "from proxy.settings import load; s = load().settings; print(s.port, s.hold_requests, s.data_dir)"
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "MLFLOW_PORT": "9443"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.split() == ["9443", "7", f"{tmp_path.resolve()}/mlflow-data"]


def test_settings_built_directly_read_nothing_but_their_arguments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_PORT", "1")
    assert Settings(data_dir=tmp_path).port == 8443


def test_the_passthrough_names_are_no_settings_of_ours() -> None:
    assert not FILE_PASSTHROUGH & SETTINGS.keys()


def test_a_users_line_in_place_of_the_generated_user_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PROXY_USERS_FILE", "users")

    def add(name: str) -> str:
        given = ["users", "add", name, "--role", "editor", "--stdin"]
        result = CliRunner().invoke(main, given, input="nine unrelated words of mine\n")
        assert result.exit_code == 0
        return result.stderr

    assert add("ann") == ""
    assert "takes the place of the user admin whose password was generated" in (said := add("admin"))
    assert "admin has the password given now and is editor" in said
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "bob")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "words that nobody would guess")
    assert "MLFLOW_TRACKING_PASSWORD too" in add("bob")
