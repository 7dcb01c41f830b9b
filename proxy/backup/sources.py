"""What is backed up, by the settings: the databases, the artifacts, the place; and what is left to people."""

from __future__ import annotations

import configparser
import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from proxy.backup.databases import DatabaseFailed
from proxy.backup.places import Place, open_place
from proxy.errors import UserError
from proxy.mlflow_server import output
from proxy.settings import Loaded, Settings, artifact_destination, database_uri, proxy_database_uri
from proxy.settings.database import driver_uri, names_database

ROLES = ("tracking", "registry", "workspaces", "proxy", "permissions")
_OTHERS = {"registry": "MLFLOW_REGISTRY_STORE_URI", "workspaces": "MLFLOW_WORKSPACE_STORE_URI"}
_PERMISSIONS = "MLFLOW_AUTH_CONFIG_PATH"
_SECRETS = ("gateway-secrets.passphrase", "cookie-secret", "audit.key", "password", "tls")


@dataclass(frozen=True, slots=True)
class Database:
    """One database, and all that it serves."""

    role: str
    roles: tuple[str, ...]
    uri: str
    variable: str
    """The setting that names it."""


@contextlib.contextmanager
def named(one: Database) -> Iterator[None]:
    """Has what fails in the block say which setting names the database."""
    try:
        yield
    except DatabaseFailed as error:
        raise DatabaseFailed(f"{one.variable}: {error}") from None


def environment(loaded: Loaded) -> dict[str, str]:
    """What the storages' libraries read: our environment, and what the settings' files say besides."""
    return {**os.environ, **loaded.passthrough}


def databases_of(loaded: Loaded) -> list[Database]:
    """Every database there is, each once. Raises UserError."""
    settings = loaded.settings
    found = [("tracking", database_uri(settings), "MLFLOW_BACKEND_STORE_URI")]
    given = environment(loaded)
    for role, variable in _OTHERS.items():
        if (uri := given.get(variable, "").strip()) and names_database(uri):
            found.append((role, uri, variable))
    found.append(("proxy", proxy_database_uri(settings), "PROXY_DATABASE_URL"))
    if path := given.get(_PERMISSIONS, "").strip():
        found.append(("permissions", _permissions(path), _PERMISSIONS))
    merged: dict[str, Database] = {}
    for role, uri, variable in found:
        same = merged.get(identity(uri))
        if same is None:
            merged[identity(uri)] = Database(role, (role,), uri, variable)
        else:
            merged[identity(uri)] = Database(same.role, (*same.roles, role), same.uri, same.variable)
    return list(merged.values())


def made(databases: Sequence[Database]) -> tuple[list[Database], list[Database]]:
    """Those that are there, and those that are only made by the service's first start: a file of SQLite that
    does not exist. The tracking database is never among the latter, as a backup without it would be none."""
    there: list[Database] = []
    absent: list[Database] = []
    for one in databases:
        url = sa.make_url(one.uri)
        missing = url.get_backend_name() == "sqlite" and not Path(url.database or "").exists()
        (absent if missing and "tracking" not in one.roles else there).append(one)
    return there, absent


def artifacts_of(loaded: Loaded) -> Place:
    """Where the artifacts are. Raises UserError, for a storage that no backup is made of too."""
    try:
        place = open_place(artifact_destination(loaded.settings), environment(loaded))
    except UserError as error:
        raise UserError(f"MLFLOW_DEFAULT_ARTIFACT_ROOT: {error}") from None
    place.setting = "MLFLOW_DEFAULT_ARTIFACT_ROOT"
    return place


def destination_of(loaded: Loaded) -> Place:
    """Where the sets are. Raises UserError."""
    settings = loaded.settings
    if settings.backup_destination is None:
        raise UserError(
            "PROXY_BACKUP_DESTINATION is not set: name a directory, s3://bucket/path, gs://bucket/path or "
            "wasbs://container@account.blob.core.windows.net/path for the backups"
        )
    environ = environment(loaded)
    own = {
        "MLFLOW_S3_ENDPOINT_URL": settings.backup_s3_endpoint,
        "AWS_ACCESS_KEY_ID": settings.backup_access_key,
        "AWS_SECRET_ACCESS_KEY": _secret(settings.backup_secret_key),
        "AZURE_STORAGE_CONNECTION_STRING": _secret(settings.backup_connection_string),
        "GOOGLE_APPLICATION_CREDENTIALS": settings.backup_google_credentials,
    }
    if settings.backup_access_key:
        environ.pop("AWS_SESSION_TOKEN", None)  # it belongs to the other key
    try:
        place = open_place(
            settings.backup_destination, environ | {name: str(value) for name, value in own.items() if value}
        )
    except UserError as error:
        raise UserError(f"PROXY_BACKUP_DESTINATION: {error}") from None
    place.setting = "PROXY_BACKUP_DESTINATION"
    _check_apart(place, settings)
    return place


def left_out(settings: Settings) -> list[str]:
    """The secrets in the data directory, which no backup holds."""
    return [name for name in _SECRETS if (settings.data_dir / name).exists()]


def _check_apart(place: Place, settings: Settings) -> None:
    """The artifacts' own place would be listed with every backup in it."""
    root = artifact_destination(settings).rstrip("/")
    if place.text == root or place.text.startswith(root + "/"):
        raise UserError(
            f"PROXY_BACKUP_DESTINATION: {place.text} lies among the artifacts ({root}): name another place"
        )


def _secret(value: object) -> str | None:
    return None if value is None else str(value.get_secret_value())  # type: ignore[attr-defined]


def _permissions(path: str) -> str:
    """The database that MLflow's own permissions are in (mlflow/server/auth/config.py)."""
    config = configparser.ConfigParser(interpolation=None)
    try:
        with Path(path).open(encoding="utf-8") as file:
            config.read_file(file)
        return driver_uri(config["mlflow"]["database_uri"])
    except (OSError, configparser.Error, KeyError, ValueError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it names no database_uri under [mlflow]"
        raise UserError(f"{_PERMISSIONS}: {path} can't be read: {reason}") from None


def place_of(uri: str) -> str:
    """The database for a person to recognize, its name on the server too; never a user or password."""
    name = sa.make_url(uri).database
    where = output.place_of(uri)
    return where if uri.startswith("sqlite") else where.replace("database", f"database {name}", 1)


def identity(uri: str) -> str:
    """The same for two URIs of one database, whoever logs in."""
    url = sa.make_url(uri)
    if url.get_backend_name() == "sqlite":
        return f"sqlite {Path(url.database or '').resolve()}"
    options = {key: url.query[key] for key in ("options", "service") if key in url.query}
    return f"{url.get_backend_name()} {url.host} {url.port} {url.database} {options}"
