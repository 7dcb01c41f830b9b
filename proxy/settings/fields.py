"""Every setting: its variable, what may be in it, its default, and the text that the docs print."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import SecretStr
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from proxy.identity import Role
from proxy.settings import sign_in_values, values
from proxy.settings.credential_fields import CredentialFields
from proxy.settings.kinds import FilePath, Flag, Names, Seconds, Size, Text, Url, setting
from proxy.settings.operating_fields import OperatingFields
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
    "Sources",
)


class Settings(CredentialFields, OperatingFields):
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
    oauth_issuer_url: Annotated[str | None, read(sign_in_values.issuer_url)] = setting(
        "MLFLOW_UI_OAUTH_ISSUER_URL",
        "Identity provider",
        None,
        "The OpenID Connect provider's issuer, exactly as its discovery document has it (a slash at its end "
        "counts). Together with the client's id it turns sign-in on.",
        example="https://login.example.com/realms/team",
    )
    oauth_client_id: Text | None = setting(
        "MLFLOW_UI_OAUTH_CLIENT_ID",
        "Identity provider",
        None,
        "The id that this service is registered under. Register the redirect URI as the public URL with "
        "/oauth2/callback after it.",
        example="mlflow",
    )
    oauth_client_secret: Annotated[SecretStr | None, read_secret(values.text_value)] = setting(
        "MLFLOW_UI_OAUTH_CLIENT_SECRET",
        "Identity provider",
        None,
        "The client's secret; empty for a public client, which PKCE alone protects.",
    )
    oauth_scopes: Annotated[str, read(sign_in_values.scopes)] = setting(
        "MLFLOW_UI_OAUTH_SCOPES",
        "Identity provider",
        "openid email profile",
        "What is asked of the provider, separated by spaces. Many give groups, or a refresh token "
        "(offline_access), only where that is asked for.",
    )
    oauth_authorize_url: Url | None = setting(
        "PROXY_OAUTH_AUTHORIZE_URL",
        "Identity provider",
        None,
        "For a plain OAuth2 provider without OpenID Connect, in place of the issuer: where people are sent.",
        example="https://github.com/login/oauth/authorize",
    )
    oauth_token_url: Url | None = setting(
        "PROXY_OAUTH_TOKEN_URL",
        "Identity provider",
        None,
        "Such a provider's token endpoint.",
        example="https://github.com/login/oauth/access_token",
    )
    oauth_userinfo_url: Url | None = setting(
        "PROXY_OAUTH_USERINFO_URL",
        "Identity provider",
        None,
        "Such a provider's endpoint that says who somebody is.",
        example="https://api.github.com/user",
    )
    oauth_user_claim: Text | None = setting(
        "PROXY_OAUTH_USER_CLAIM",
        "Identity provider",
        None,
        "The claim that is a person's user name here, in logs and in MLflow. It must be one that a person "
        "can't choose freely.",
        example="preferred_username",
        default_note="the verified e-mail address, else the subject",
    )
    allowed_email_domains: Annotated[tuple[str, ...], read(sign_in_values.email_domains), "list"] = setting(
        "PROXY_ALLOWED_EMAIL_DOMAINS",
        "Identity provider",
        (),
        "Who gets in: people whose verified e-mail address ends in one of these domains, each in full, "
        "separated by commas. With all three PROXY_ALLOWED_* empty everybody the provider knows gets in, "
        "which is refused at start for public providers.",
        example="example.com,example.org",
    )
    allowed_groups: Names = setting(
        "PROXY_ALLOWED_GROUPS",
        "Identity provider",
        (),
        "Who gets in: members of one of these groups, separated by commas. With addresses or domains named "
        "as well, both have to match.",
        example="ml-team,research",
    )
    allowed_emails: Annotated[tuple[str, ...], read(sign_in_values.emails), "list"] = setting(
        "PROXY_ALLOWED_EMAILS",
        "Identity provider",
        (),
        "Who gets in: people with one of these verified e-mail addresses, separated by commas.",
        example="ada@example.com",
    )
    clock_skew: Annotated[float, read(values.seconds_up_to(600))] = setting(
        "PROXY_CLOCK_SKEW",
        "Identity provider",
        60.0,
        "Seconds by which the provider's clock may differ from ours; at most 600.",
    )
    groups_claim: Text = setting(
        "PROXY_GROUPS_CLAIM",
        "Roles",
        "groups",
        "The claim that holds a person's groups, in the identity token or the user-info answer; a path with "
        "dots leads to one inside others. A claim whose whole name is that comes first.",
        example="resource_access.mlflow.roles",
    )
    viewer_groups: Names = setting(
        "PROXY_ROLE_VIEWER_GROUPS",
        "Roles",
        (),
        "Groups whose members are viewers, separated by commas. The highest role that matches counts.",
    )
    editor_groups: Names = setting(
        "PROXY_ROLE_EDITOR_GROUPS",
        "Roles",
        (),
        "Groups whose members are editors, separated by commas.",
    )
    admin_groups: Names = setting(
        "PROXY_ROLE_ADMIN_GROUPS",
        "Roles",
        (),
        "Groups whose members are admins, separated by commas.",
    )
    default_role: Annotated[Role, read(sign_in_values.any_role)] = setting(
        "PROXY_DEFAULT_ROLE",
        "Roles",
        Role.NONE,
        "The role of people in none of these groups who signed in with the identity provider: none, viewer, "
        "editor or admin.",
    )
    cookie_secret: Annotated[SecretStr | None, read_secret(sign_in_values.secret_list)] = setting(
        "PROXY_COOKIE_SECRET",
        "Sessions",
        None,
        "Signs the sessions' cookies and encrypts the provider's tokens. Several, separated by commas: the "
        "first is used, all are accepted, so put a new one first and drop the old one after "
        "PROXY_SESSION_LIFETIME. Each has at least 32 characters, as `openssl rand -hex 32` prints. Replicas "
        "need the same.",
        default_note="generated on first start and kept in the data directory",
    )
    session_idle: Annotated[float, read(values.seconds_up_to(90 * 86400))] = setting(
        "PROXY_SESSION_IDLE",
        "Sessions",
        8 * 3600.0,
        "Seconds without a request after which a session ends.",
    )
    session_lifetime: Annotated[float, read(values.seconds_up_to(90 * 86400))] = setting(
        "PROXY_SESSION_LIFETIME",
        "Sessions",
        7 * 86400.0,
        "Seconds after signing in when a session ends however much it is used.",
    )
    session_refresh: Annotated[float, read(values.seconds_up_to(86400))] = setting(
        "PROXY_SESSION_REFRESH",
        "Sessions",
        300.0,
        "Seconds for which a person's groups are believed before the provider is asked again: who loses a "
        "group there loses its role here within that time.",
    )
    session_grace: Annotated[float, read(values.seconds_up_to(86400))] = setting(
        "PROXY_SESSION_GRACE",
        "Sessions",
        900.0,
        "Seconds for which sessions in use go on while their database does not answer. All others get 503.",
    )
    database_url: Annotated[SecretStr | None, read_secret(values.text_value)] = setting(
        "PROXY_DATABASE_URL",
        "Sessions",
        None,
        "Where sessions are kept: sqlite:/// with a path, or postgresql:// with user, password, host and "
        "name, which several replicas need. It may be MLflow's own PostgreSQL: the tables have names of "
        "their own.",
        example="postgresql://mlflow:PASSWORD@db.example.com/mlflow",
        default_note="SQLite in the data directory (proxy.db)",
    )
    name: Annotated[str, read(sign_in_values.display_name)] = setting(
        "PROXY_NAME",
        "Pages",
        "MLflow",
        "What the sign-in page and the other pages of this service call it; at most 60 characters.",
    )
    logo_file: FilePath | None = setting(
        "PROXY_LOGO_FILE",
        "Pages",
        None,
        "A picture that those pages show: SVG, PNG, JPEG or WebP, at most 256 KiB.",
        example="/etc/mlflow-proxy/logo.svg",
    )
    compression: Flag = setting(
        "PROXY_COMPRESSION",
        "Pages",
        True,
        "Compress the files of MLflow's UI (once, in the background, kept in the data directory) and "
        "MLflow's larger JSON answers, for clients that take them so.",
    )
    body_limit: Size = setting(
        "PROXY_BODY_LIMIT",
        "Limits",
        100 * 2**20,
        "The largest request body on any route but the artifact streams, which have no limit; more is "
        "refused with 413. A size: 104857600, 100MiB, 64KB.",
    )
    buffer_bytes: Size = setting(
        "PROXY_BUFFER_BYTES",
        "Limits",
        256 * 2**20,
        "The memory that all buffered and waiting request bodies together may take.",
    )
    resend_body_limit: Size = setting(
        "PROXY_RESEND_BODY_LIMIT",
        "Limits",
        32 * 2**20,
        "The largest request body that is kept until MLflow has answered, so that the request can be sent "
        "again where MLflow ends in the middle of it; above 1 MiB it is kept in a file. An upload that is "
        "larger passes through and fails with its MLflow.",
    )
    resend_spool_bytes: Size = setting(
        "PROXY_RESEND_SPOOL_BYTES",
        "Limits",
        512 * 2**20,
        "What those files may take together, in PROXY_RUNTIME_DIR; they have no name and are gone with the "
        "request. Where it is used up, further bodies are not kept.",
    )
    hold_requests: Annotated[int, read(values.whole_number(1, 1_000_000))] = setting(
        "PROXY_HOLD_REQUESTS",
        "Limits",
        1000,
        "Requests that may wait at once, while MLflow starts or is busy; more are refused with 503.",
    )
    hold_seconds: Seconds = setting(
        "PROXY_HOLD_SECONDS",
        "Limits",
        60.0,
        "Seconds that a request may wait for MLflow to be ready before it is refused with 503 and "
        "Retry-After.",
    )
    mlflow_concurrency: Annotated[int, read(values.whole_number(1, 40))] = setting(
        "PROXY_MLFLOW_CONCURRENCY",
        "Limits",
        36,
        "Requests at once in the threads of one MLflow worker; it has 40, and the rest is kept for the "
        "ready check.",
    )
    user_concurrency: Annotated[int | None, read(values.whole_number(1, 2560))] = setting(
        "PROXY_USER_CONCURRENCY",
        "Limits",
        None,
        "Requests of one user at once in MLflow's threads, of all workers together. Who has as many waits, "
        "while others' requests pass.",
        default_note="half of PROXY_MLFLOW_CONCURRENCY for all workers",
    )
    whole_downloads: Annotated[int, read(values.whole_number(1, 40))] = setting(
        "PROXY_WHOLE_DOWNLOADS",
        "Limits",
        4,
        "Downloads at once of the kind that MLflow reads into memory whole (the UI's get-artifact).",
    )
    stall_timeout: Seconds = setting(
        "PROXY_STALL_TIMEOUT",
        "Limits",
        120.0,
        "Seconds in which no byte of a stream moves before it is ended. There is no limit on its whole time.",
    )
    answer_timeout: Seconds = setting(
        "PROXY_ANSWER_TIMEOUT",
        "Limits",
        900.0,
        "Seconds in which MLflow says nothing, after the request was sent or between two events, before it "
        "is given up.",
    )
    abandoned_timeout: Seconds = setting(
        "PROXY_ABANDONED_TIMEOUT",
        "Limits",
        300.0,
        "Seconds for which the answer to a request whose client has left is still awaited, as MLflow can't "
        "be stopped.",
    )
    grace_seconds: Seconds = setting(
        "PROXY_GRACE_SECONDS",
        "Limits",
        30.0,
        "Seconds that running requests get to finish when the service is stopped.",
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
