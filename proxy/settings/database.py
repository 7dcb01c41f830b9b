"""Where MLflow keeps things: the database URI with its driver, the artifacts' place, what each needs."""

from __future__ import annotations

import importlib
import importlib.util
import re
from pathlib import Path

from proxy.errors import UserError
from proxy.settings.fields import Settings
from proxy.settings.values import masked_uri

_SCHEMES = "sqlite:///, postgresql://, mysql:// or mssql://"
# By dialect, the first that is there: the driver's name in SQLAlchemy, its module, the package to install.
_DRIVERS = {
    "postgresql": (("psycopg", "psycopg", "psycopg[binary]"), ("psycopg2", "psycopg2", "psycopg2-binary")),
    "mysql": (("pymysql", "pymysql", "pymysql"), ("mysqldb", "MySQLdb", "mysqlclient")),
    "mssql": (("pyodbc", "pyodbc", "pyodbc"), ("pymssql", "pymssql", "pymssql")),
}
_STORAGE = {
    "s3": ("boto3", "boto3"),
    "gs": ("google.cloud.storage", "google-cloud-storage"),
    "wasbs": ("azure.storage.blob", "azure-storage-blob azure-identity"),
    "wasb": ("azure.storage.blob", "azure-storage-blob azure-identity"),
    "abfss": ("azure.storage.filedatalake", "azure-storage-file-datalake azure-identity"),
}


def driver_uri(uri: str) -> str:
    """``uri`` as SQLAlchemy 2.1 and MLflow need it: with its driver, and MariaDB as mysql.

    Raises ValueError saying what would be right, without quoting the URI: it may hold a password.
    """
    scheme, separator, rest = uri.partition("://")
    dialect, _, driver = scheme.lower().partition("+")
    if not separator or not re.fullmatch(r"[a-z0-9]+(\+[a-z0-9_]+)?", scheme.lower()):
        raise ValueError(
            f"not a database URI: it begins with {_SCHEMES}, a path alone or a file store does not do"
        )
    if dialect == "postgres":
        raise ValueError("SQLAlchemy knows no postgres://: write postgresql://")
    dialect = "mysql" if dialect == "mariadb" else dialect
    if dialect == "sqlite":
        if not rest.startswith("/") or rest.strip("/").startswith(":memory:") or not rest.strip("/"):
            raise ValueError("SQLite needs a file here: sqlite:////absolute/path/name.db")
        return f"sqlite{'+' + driver if driver else ''}://{rest}"
    if dialect not in _DRIVERS:
        raise ValueError(f"MLflow keeps nothing in {dialect}://: use {_SCHEMES}")
    if not _password_is_encoded(rest):
        raise ValueError(
            "the host can't be told from the password: percent-encode @ as %40 and / as %2F in the password"
        )
    candidates = [entry for entry in _DRIVERS[dialect] if driver in ("", entry[0])]
    for name, module, _package in candidates:
        if _imports(module):
            return f"{dialect}+{name}://{rest}"
    if not candidates:
        return f"{dialect}+{driver}://{rest}"  # a driver that we don't know, which was asked for by name
    raise ValueError(f"the driver for {dialect}:// is not installed: pip install '{candidates[0][2]}'")


def _password_is_encoded(rest: str) -> bool:
    """Whether what comes after ``://`` has neither @ nor / in its password, as far as can be seen.

    Split as SQLAlchemy does (engine/url.py: the user name ends at the first colon and may hold @, the
    password at the first @), so the rest of a password with @ is in the host, or in the path before a slash.
    """
    match = re.match(r"[^:/]*:([^@]*)@([^/?]*)([^?]*)", rest, re.DOTALL)
    if match is None:
        return True
    password, host, path = match.groups()
    return not ("/" in password or "@" in host or re.search(r"@.*/", path, re.DOTALL))


def names_database(uri: str) -> bool:
    """Whether a URI that may name something else too (a registry can be a plugin's) names a database."""
    dialect = uri.partition("://")[0].lower().partition("+")[0]
    return dialect in {"sqlite", "postgres", "mariadb", *_DRIVERS}


def database_uri(settings: Settings) -> str:
    """The tracking database's URI with its driver; SQLite in the data directory where none is set.

    Raises UserError where no database can be meant, or its driver can't be imported.
    """
    if settings.backend_store_uri is None:
        return f"sqlite:///{settings.data_dir.absolute() / 'mlflow.db'}"
    try:
        return driver_uri(settings.backend_store_uri.get_secret_value())
    except ValueError as error:
        raise UserError(f"MLFLOW_BACKEND_STORE_URI: {error}") from None


def proxy_database_uri(settings: Settings) -> str:
    """The URI of the database of our own, with its driver; SQLite in the data directory where none is set.

    Raises UserError where no database can be meant, or its driver can't be imported.
    """
    if settings.database_url is None:
        return f"sqlite:///{settings.data_dir.absolute() / 'proxy.db'}"
    try:
        return driver_uri(settings.database_url.get_secret_value())
    except ValueError as error:
        raise UserError(f"PROXY_DATABASE_URL: {error}") from None


def artifact_destination(settings: Settings) -> str:
    """What ``mlflow server --artifacts-destination`` gets: an absolute directory or a bucket's URI.

    Raises UserError where it can't be served, or the package that reads it is not installed.
    """
    root = settings.artifact_root
    if root is None:
        return str(settings.data_dir.absolute() / "artifacts")
    try:
        check_artifact_root(root)
    except ValueError as error:
        raise UserError(f"MLFLOW_DEFAULT_ARTIFACT_ROOT: {error}") from None
    return root if _has_scheme(root) else str(Path(root).absolute())


def check_artifact_root(root: str) -> None:
    """Raises ValueError where MLflow could not serve artifacts from there."""
    scheme = root.partition(":")[0].lower() if _has_scheme(root) else ""
    if scheme in ("mlflow-artifacts", "http", "https"):
        raise ValueError(
            f"{scheme}: names a server of artifacts, and this is the server: "
            "name a directory or a bucket such as s3://bucket/path"
        )
    if masked_uri(root) != root:
        raise ValueError(
            "a password does not belong in it, any local user can read MLflow's arguments: "
            "use the storage's own variables or files"
        )
    if scheme in _STORAGE and not _found(_STORAGE[scheme][0]):
        raise ValueError(f"the package for {scheme}:// is not installed: pip install {_STORAGE[scheme][1]}")


def absolute(variable: str, text: str, directory: Path) -> str:
    """A relative path in a URI or artifact root, made absolute: MLflow need not run where we were started."""
    if variable in ("MLFLOW_DEFAULT_ARTIFACT_ROOT", "PROXY_BACKUP_DESTINATION"):
        return text if _has_scheme(text) else str(directory / Path(text).expanduser())
    match = re.fullmatch(r"(sqlite(?:\+\w+)?:///)(?![/:])([^?]+)(\?.*)?", text, re.IGNORECASE)
    return f"{match[1]}{directory / match[2]}{match[3] or ''}" if match else text


def _has_scheme(text: str) -> bool:
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", text) is not None


def _imports(module: str) -> bool:
    # Found is not enough: psycopg without its C library is there and can't be imported.
    try:
        importlib.import_module(module)
    except ImportError:
        return False
    return True


def _found(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:
        return False
