"""Every setting: its variable, what may be in it, its default, and the text that the docs print."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import SecretStr
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from proxy.identity import Role
from proxy.settings import values
from proxy.settings.backup_fields import BackupFields
from proxy.settings.credential_fields import CredentialFields
from proxy.settings.kinds import FilePath, Flag, Seconds, Text, setting
from proxy.settings.limit_fields import LimitFields
from proxy.settings.operating_fields import OperatingFields
from proxy.settings.people_fields import PeopleFields
from proxy.settings.values import Network, read, read_secret

GROUPS = (
    "Listening",
    "TLS",
    "MLflow",
    "Storage",
    "Sign-in",
    "Identity provider",
    "Roles",
    "Sessions",
    "Tokens",
    "Audit",
    "Pages",
    "Limits",
    "Logs",
    "Probes",
    "Backup",
    "Sources",
)


class Settings(PeopleFields, CredentialFields, LimitFields, OperatingFields, BackupFields):
    """What is in force. ``proxy.settings.load`` builds it; built directly it reads its arguments alone."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        validate_by_name=True,
        validate_by_alias=True,
    )

    host: Annotated[str, read(values.host)] = setting(
        "MLFLOW_HOST",
        "Listening",
        "127.0.0.1",
        "The address this service listens on. 0.0.0.0 listens on all of IPv4, :: on all addresses.",
        example="0.0.0.0",  # noqa: S104 - shown, not bound
    )
    port: Annotated[int, read(values.port)] = setting(
        "MLFLOW_PORT",
        "Listening",
        8443,
        "The port this service listens on. MLflow itself has none: it listens on a Unix socket. "
        "0 takes a free port, for tests.",
    )
    public_url: Annotated[str | None, read(values.public_url)] = setting(
        "PROXY_PUBLIC_URL",
        "Listening",
        None,
        "The URL that people and clients use, where it differs from the address listened on. Its host is "
        "served, its scheme is the one in redirects, and everything is served under its path where it has "
        "one. Behind a TLS terminator it is needed.",
        example="https://mlflow.example.com",
    )
    allowed_hosts: Annotated[tuple[str, ...], read(values.hosts), "list"] = setting(
        "PROXY_ALLOWED_HOSTS",
        "Listening",
        (),
        "Further Host values that are served, separated by commas, each name in full, with its port where "
        "it has one. The public URL's host, loopback names and the certificate's names are served anyway; "
        "all others get 421.",
        example="mlflow.internal,10.0.0.7:8443",
    )
    trusted_proxies: Annotated[tuple[Network, ...], read(values.networks), "list"] = setting(
        "PROXY_TRUSTED_PROXIES",
        "Listening",
        (),
        "Addresses or networks whose X-Forwarded-For (read from the right) and X-Request-Id are believed, "
        "separated by commas. Name your load balancer and nothing else.",
        example="10.0.0.0/8",
    )
    metrics_address: Annotated[tuple[str, int] | None, read(values.host_port)] = setting(
        "PROXY_METRICS_ADDRESS",
        "Listening",
        None,
        "host:port of a plain HTTP listener that serves /metrics and the probes (/livez, /readyz) and "
        "nothing else, to anybody who reaches it. On the main address /metrics needs a credential.",
        example="127.0.0.1:9090",
    )
    metrics_token: Annotated[SecretStr | None, read_secret(values.token)] = setting(
        "PROXY_METRICS_TOKEN",
        "Listening",
        None,
        "A bearer token that opens /metrics on the main address and nothing else; at least 16 characters. "
        "An admin may read /metrics without it.",
    )
    tls: Flag = setting(
        "PROXY_TLS",
        "TLS",
        True,
        "Serve HTTPS. Turn it off only behind a TLS terminator, and set PROXY_PUBLIC_URL then.",
    )
    tls_cert_file: FilePath | None = setting(
        "PROXY_TLS_CERT_FILE",
        "TLS",
        None,
        "The certificate chain, PEM. A renewed file is taken up while running.",
        example="/etc/tls/tls.crt",
        default_note="a certificate of an authority of its own, made on first start in the data directory",
    )
    tls_key_file: FilePath | None = setting(
        "PROXY_TLS_KEY_FILE",
        "TLS",
        None,
        "The certificate's private key, PEM, not encrypted.",
        example="/etc/tls/tls.key",
    )
    mlflow_args: Annotated[tuple[str, ...], read(values.arguments), "arguments"] = setting(
        "PROXY_MLFLOW_ARGS",
        "MLflow",
        (),
        "Further options for `mlflow server`, quoted as in a shell. Those that open a way round the proxy "
        "are refused.",
        example="--x-frame-options DENY",
    )
    mlflow_workers: Annotated[int, read(values.whole_number(1, 64))] = setting(
        "PROXY_MLFLOW_WORKERS",
        "MLflow",
        1,
        "MLflow's worker processes, 1 to 64; each takes about 0.25 GB of memory.",
    )
    mlflow_start_timeout: Seconds = setting(
        "PROXY_MLFLOW_START_TIMEOUT",
        "MLflow",
        300.0,
        "Seconds that MLflow may take to start before that counts as a failure and it is started again. "
        "A start that migrates the database is never cut off.",
    )
    migrate: Annotated[str | None, read(values.choice("ask", "auto", "never"))] = setting(
        "PROXY_MIGRATE",
        "MLflow",
        None,
        "What becomes of a database with the tables of an older MLflow: auto migrates it at start (SQLite "
        "after copying the file aside, any other without a backup of its own), never refuses the start and "
        "says how to migrate, ask does that too, unless it can ask at a terminal.",
        example="auto",
        default_note="auto for SQLite, never for any other",
    )
    ready_interval: Seconds = setting(
        "PROXY_READY_INTERVAL",
        "MLflow",
        5.0,
        "Seconds between two calls that ask MLflow something which reaches the database.",
    )
    ready_timeout: Seconds = setting(
        "PROXY_READY_TIMEOUT",
        "MLflow",
        5.0,
        "Seconds that such a call may take before MLflow counts as not ready.",
    )
    stuck_restart: Annotated[float | None, read(values.seconds_up_to(86400))] = setting(
        "PROXY_STUCK_RESTART",
        "MLflow",
        None,
        "Seconds after which MLflow is replaced by a new one, beside it at first, where such calls stay "
        "without an answer all the time.",
        default_note="never",
    )
    data_dir: FilePath = setting(
        "PROXY_DATA_DIR",
        "Storage",
        Path("mlflow-data"),
        "Where everything is kept that has no other place: SQLite, artifacts, certificates, the generated "
        "password. One instance at a time.",
    )
    runtime_dir: FilePath | None = setting(
        "PROXY_RUNTIME_DIR",
        "Storage",
        None,
        "Where the private directory of MLflow's socket is made; keep the path short (under about 80 bytes).",
        default_note="$XDG_RUNTIME_DIR, else the temporary directory",
    )
    backend_store_uri: Annotated[SecretStr | None, read_secret(values.text_value)] = setting(
        "MLFLOW_BACKEND_STORE_URI",
        "Storage",
        None,
        "The database: sqlite:///, postgresql://, mysql:// (MariaDB too) or mssql:// with user, password, "
        "host and name. The installed driver is filled in.",
        example="postgresql://mlflow:PASSWORD@db.example.com/mlflow",
        default_note="SQLite in the data directory",
    )
    artifact_root: Text | None = setting(
        "MLFLOW_DEFAULT_ARTIFACT_ROOT",
        "Storage",
        None,
        "Where artifacts are kept: a directory, or a bucket such as s3://bucket/path, gs://bucket/path or "
        "wasbs://container@account.blob.core.windows.net/path. MLflow serves what is there, so clients need "
        "no keys.",
        example="s3://bucket/mlflow",
        default_note="artifacts/ in the data directory",
    )
    direct_artifacts: Flag = setting(
        "PROXY_DIRECT_ARTIFACTS",
        "Storage",
        False,
        "Let clients fetch from and send to the bucket directly, by presigned URL: faster, but past "
        "authentication, log and metrics, and only where they can reach the storage.",
    )
    username: Annotated[str | None, read(values.user_name)] = setting(
        "MLFLOW_TRACKING_USERNAME",
        "Sign-in",
        None,
        "The name of the one user set here, who is an admin. It needs a password.",
        default_note="admin",
    )
    password: Annotated[SecretStr | None, read_secret(values.password)] = setting(
        "MLFLOW_TRACKING_PASSWORD",
        "Sign-in",
        None,
        "That user's password.",
        default_note="generated on first start and kept in the data directory",
    )
    allow_weak_password: Flag = setting(
        "PROXY_ALLOW_WEAK_PASSWORD",
        "Sign-in",
        False,
        "Start even where the password is a well-known or short one.",
    )
    users_file: FilePath | None = setting(
        "PROXY_USERS_FILE",
        "Sign-in",
        None,
        "A file of further users with their roles, edited by `mlflow-proxy users`; read again when it "
        "changes.",
        example="/etc/mlflow-proxy/users",
    )
    delete_role: Annotated[Role, read(values.delete_role)] = setting(
        "PROXY_DELETE_ROLE",
        "Sign-in",
        Role.ADMIN,
        "The lowest role that may delete experiments and registered models: editor or admin.",
    )
    credential_cache: Seconds = setting(
        "PROXY_CREDENTIAL_CACHE",
        "Sign-in",
        300.0,
        "Seconds for which a verified password is remembered, so that its hash is not computed for every "
        "request. A removed user or changed password is refused at once all the same.",
    )
    login_failures: Annotated[int, read(values.whole_number(1, 1_000_000))] = setting(
        "PROXY_LOGIN_FAILURES",
        "Sign-in",
        10,
        "Different wrong passwords from one address within the window before further ones are stopped; "
        "twice as many for one name.",
    )
    login_window: Seconds = setting(
        "PROXY_LOGIN_WINDOW",
        "Sign-in",
        300.0,
        "Seconds of that window.",
    )
    basic_auth: Flag = setting(
        "PROXY_BASIC_AUTH",
        "Sign-in",
        True,
        "Let people and clients in by user name and password. It may be turned off where there is an "
        "identity provider.",
    )
    env: Annotated[str | None, read(values.environment_name)] = setting(
        "PROXY_ENV",
        "Sources",
        None,
        "Which config/settings.<env>.yaml is merged over config/settings.yaml. Not settable in those files.",
        example="production",
    )
    env_file: FilePath | None = setting(
        "PROXY_ENV_FILE",
        "Sources",
        None,
        "Another file in place of mlflow.env; it must exist. Set it in the environment or on the command "
        "line.",
        default_note="mlflow.env in the working directory, where there is one",
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments alone: ``load`` brings the sources of its own, which know where each value was set."""
        return (init_settings,)
