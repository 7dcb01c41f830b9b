"""MySQL and MariaDB: their dump, and digests of the same moment, for which writers wait a moment.

No two connections can share a snapshot there. So a read lock is taken (`mysql_lock`), a transaction of ours
and the dump's begin, and the lock is released: some tenths of a second, in which writers wait and readers do
not.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import sqlalchemy as sa

from proxy.backup.databases import mysql_lock
from proxy.backup.databases.connecting import connected, quoted, rows, scalar, table
from proxy.backup.databases.definers import WithoutDefiners
from proxy.backup.databases.kinds import PIECE, DatabaseFailed, Facts, Reader, Writer, nothing
from proxy.backup.databases.programs import Child, Program, installed, running

_BEGIN_SECONDS = 120.0
_NOW: dict[str, Any] = {"isolation_level": "AUTOCOMMIT"}
_TABLES = (
    "SELECT table_name, engine FROM information_schema.tables "
    "WHERE table_schema = DATABASE() AND table_type IN ('BASE TABLE', 'SYSTEM VERSIONED') ORDER BY 1"
)
_OTHERS = "SELECT table_name FROM information_schema.views WHERE table_schema = DATABASE()"
_COLUMNS = (
    "SELECT column_name FROM information_schema.columns "
    "WHERE table_schema = DATABASE() AND table_name = :name"
)
# Of PyMySQL's and mysqlclient's arguments, what the programs call them in an option file.
_OPTIONS = {
    "host": "host",
    "port": "port",
    "user": "user",
    "password": "password",
    "passwd": "password",
    "unix_socket": "socket",
    "ssl_ca": "ssl-ca",
    "ssl_capath": "ssl-capath",
    "ssl_cert": "ssl-cert",
    "ssl_key": "ssl-key",
    "ssl_cipher": "ssl-cipher",
}


def unfit(uri: str) -> str | None:
    """Why it can't be dumped or restored from here, in a line; None where it can."""
    try:
        with connected(uri) as connection:
            for names in (_DUMPS, _CLIENTS):
                _program(uri, connection, names)
    except DatabaseFailed as failed:
        return str(failed)
    return None


_DUMPS, _CLIENTS = ("mariadb-dump", "mysqldump"), ("mariadb", "mysql")


def _program(uri: str, connection: sa.Connection, names: tuple[str, str]) -> Program:
    """The server's own where both are there. Raises DatabaseFailed where there is none, or too old a one."""
    version = str(scalar(connection, "SELECT VERSION()"))
    ours = "MariaDB" in version
    there = list(installed(*names))
    if not there:
        package = "mariadb-client" if ours else "mysql-client"
        raise DatabaseFailed.at(uri, f"{' or '.join(names)} is not installed: install {package}")
    program = next((found for found in there if ("MariaDB" in found.text) == ours), there[0])
    # 5.x writes and reads a system schema that is no more; between later ones there is no such step.
    if program.version[0] < 8 <= int(version.partition(".")[0]):
        shown = ".".join(map(str, program.version))
        raise DatabaseFailed.at(
            uri,
            f"{program.name} {shown} is too old for the server, {_server(connection)}: install a newer one",
        )
    return program


def _server(connection: sa.Connection) -> str:
    version = str(scalar(connection, "SELECT VERSION()"))
    number = re.match(r"[\d.]+", version)
    name = "MariaDB" if "MariaDB" in version else "MySQL"
    return f"{name} {number[0] if number else version}"


def options(uri: str, program: Program) -> bytes:
    """The connection as an option file; nothing of it but the database's name is in any argument."""
    url = sa.make_url(uri)
    _, arguments = url.get_dialect()().create_connect_args(url)
    given: Mapping[str, Any] = {**arguments, **_tls(arguments.get("ssl"))}
    lines = ["[client]"]
    for name, option in _OPTIONS.items():
        if (value := given.get(name)) not in (None, ""):
            lines.append(f"{option}={_quoted(str(value))}")
    tls = any(name.startswith("ssl_") for name in given if name in _OPTIONS)
    # As the driver has it: who names an authority has certificate and host's name looked at, else nothing is.
    authority = any(given.get(name) for name in ("ssl_ca", "ssl_capath"))
    named = authority and bool(given.get("ssl_check_hostname", True))
    if "MariaDB" in program.text:
        lines.append(f"ssl-verify-server-cert={named:d}" if tls else "skip-ssl")
    elif not tls:
        lines += ["ssl-mode=PREFERRED", "get-server-public-key"]
    else:
        lines.append(f"ssl-mode={'VERIFY_IDENTITY' if named else 'VERIFY_CA' if authority else 'REQUIRED'}")
    return ("\n".join(lines) + "\n").encode()


def _tls(ssl: Any) -> dict[str, Any]:
    """SQLAlchemy has gathered ``ssl_ca`` and the like in a mapping."""
    return {f"ssl_{name}": value for name, value in ssl.items()} if isinstance(ssl, Mapping) else {}


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
    return f'"{escaped}"'


@contextlib.contextmanager
def _started(uri: str, program: Program, *arguments: str, fed: bool = False) -> Iterator[Child]:
    """The program on this database. The option file is in memory alone, so that none can be left behind."""
    file = os.memfd_create("options", os.MFD_CLOEXEC)
    try:
        os.fchmod(file, 0o600)
        os.write(file, options(uri, program))
        command = [
            program.path,
            f"--defaults-file=/proc/self/fd/{file}",
            "--default-character-set=utf8mb4",
            "--max-allowed-packet=1G",
            *arguments,
            str(sa.make_url(uri).database),
        ]
        with running(uri, command, {}, fed=fed, pass_fds=[file]) as child:
            yield child
    finally:
        os.close(file)


class _Snapshot:
    """A transaction of ours, and a dump that has begun at the same moment."""

    def __init__(self, uri: str, connection: sa.Connection, dump: _Begun, moment: float, size: int) -> None:
        self._connection = connection
        self._dump = dump
        self.moment = moment
        self.size = size

    def dump(self, to: Writer) -> None:
        without = WithoutDefiners(to)
        self._dump.pour(without)
        without.end()

    def facts(self, tick: Callable[[], None] = nothing) -> Facts:
        return _facts(self._connection, self.moment, tick)


class _Begun:
    """A dump under way. Until it is asked for, it goes into a file: a server gives up a client that takes
    nothing for a minute (net_write_timeout), and another database may be dumped first."""

    def __init__(self, child: Child, file: IO[bytes]) -> None:
        self._child = child
        self._file = file
        self._asked = threading.Event()
        self._begun = threading.Event()
        self._failed: BaseException | None = None
        self._ended = False
        self._thread = threading.Thread(target=self._keep, name="dump")
        self._thread.start()

    def begun(self) -> bool:
        """Wait until it has read something of a table, and so has its snapshot; raises what it has failed
        with."""
        there = self._begun.wait(_BEGIN_SECONDS)
        if self._failed is not None:
            raise self._failed
        return there

    def pour(self, to: Writer) -> None:
        self.end()
        if self._failed is not None:
            raise self._failed
        self._file.seek(0)
        while piece := self._file.read(PIECE):
            to.write(piece)
        self._file.truncate(0)
        if not self._ended:
            self._child.pour(to)

    def abandon(self) -> None:
        """Nobody wants it any more, if anybody did."""
        self._child.kill()
        self.end()

    def end(self) -> None:
        """No more goes into the file."""
        self._asked.set()
        self._thread.join()

    def _keep(self) -> None:
        seen = b""
        try:
            while not (self._asked.is_set() and self._begun.is_set()):
                piece = self._child.read(PIECE)
                if not piece:
                    self._ended = True
                    break
                self._file.write(piece)
                if not self._begun.is_set():
                    seen += piece
                    if b"CREATE TABLE" in seen:
                        self._begun.set()
        except BaseException as failed:
            self._failed = failed
        finally:
            self._begun.set()


@contextlib.contextmanager
def snapshot(uri: str, scratch: Path) -> Iterator[_Snapshot]:
    """Raises DatabaseFailed."""
    with contextlib.ExitStack() as stack:
        lock = stack.enter_context(connected(uri, **_NOW))
        connection = stack.enter_context(connected(uri, **_NOW))
        program = _program(uri, lock, _DUMPS)
        tables = _tables(connection)
        if others := [name for name, engine in tables.items() if engine.lower() not in ("innodb", "rocksdb")]:
            raise DatabaseFailed.at(
                uri,
                f"the table {others[0]} is kept by {tables[others[0]]}, which has no snapshots: "
                f"ALTER TABLE {others[0]} ENGINE=InnoDB",
            )
        file = stack.enter_context((scratch / f"dump-{os.urandom(4).hex()}.sql").open("x+b"))
        Path(file.name).unlink()  # so that it is gone with us, whatever becomes of us
        mysql_lock.lock(uri, lock, tables)
        _begin(connection)
        child = stack.enter_context(_started(uri, program, *_dump_options(program)))
        dump = _Begun(child, file)
        stack.callback(dump.abandon)
        if not dump.begun():
            raise DatabaseFailed.at(uri, f"{program.name} has not begun within {_BEGIN_SECONDS:g} s")
        moment = time.time()
        lock.exec_driver_sql("UNLOCK TABLES")
        size = int(
            scalar(
                connection,
                "SELECT COALESCE(SUM(data_length), 0) FROM information_schema.tables "
                "WHERE table_schema = DATABASE()",
            )
        )
        yield _Snapshot(uri, connection, dump, moment, size)


def _dump_options(program: Program) -> list[str]:
    more = [] if "MariaDB" in program.text else ["--set-gtid-purged=OFF", "--column-statistics=0"]
    return [
        "--single-transaction",
        "--quick",
        "--hex-blob",
        "--no-tablespaces",
        "--no-autocommit",
        "--skip-add-drop-table",
        "--skip-add-locks",
        "--skip-dump-date",
        *more,
    ]


def _begin(connection: sa.Connection) -> None:
    connection.exec_driver_sql("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ")
    for setting in ("wait_timeout", "net_write_timeout"):
        connection.exec_driver_sql(f"SET SESSION {setting} = 86400")
    connection.exec_driver_sql("START TRANSACTION WITH CONSISTENT SNAPSHOT")


def facts(uri: str, tick: Callable[[], None] = nothing) -> Facts:
    """Of the database as it is now. Raises DatabaseFailed."""
    with connected(uri, **_NOW) as connection:
        moment = time.time()
        _begin(connection)
        return _facts(connection, moment, tick)


def _facts(connection: sa.Connection, moment: float, tick: Callable[[], None]) -> Facts:
    found, revision = {}, ""
    for name in _tables(connection):
        columns = {column: quoted(connection, column) for (column,) in rows(connection, _COLUMNS, name=name)}
        found[name] = table(connection, columns, quoted(connection, name), tick)
        if name == "alembic_version":
            revision = str(scalar(connection, "SELECT max(version_num) FROM alembic_version") or "")
    return Facts(found, revision, _server(connection), moment)


def _tables(connection: sa.Connection) -> dict[str, str]:
    """Their engines by name."""
    return {str(name): str(engine) for name, engine in rows(connection, _TABLES)}


def is_empty(uri: str) -> bool:
    """Whether there is no table and no view in it. Raises DatabaseFailed."""
    with connected(uri) as connection:
        return not (rows(connection, _TABLES) or rows(connection, _OTHERS))


def clear(uri: str) -> None:
    """Remove every table and view. Raises DatabaseFailed."""
    with connected(uri, **_NOW) as connection:
        connection.exec_driver_sql("SET SESSION foreign_key_checks = 0")
        for (name,) in rows(connection, _OTHERS):
            connection.exec_driver_sql(f"DROP VIEW {quoted(connection, name)}")
        for name in _tables(connection):
            connection.exec_driver_sql(f"DROP TABLE {quoted(connection, name)}")


def restore(uri: str, source: Reader) -> None:
    """What has come is removed again where it fails. Raises DatabaseFailed, and what `source` raises."""
    with connected(uri) as connection:
        program = _program(uri, connection, _CLIENTS)
    try:
        # In no dump of ours: a statement that has the client send a file of this machine.
        with _started(uri, program, "--batch", "--binary-mode", "--local-infile=0", fed=True) as child:
            child.feed(source)
    except BaseException:
        with contextlib.suppress(DatabaseFailed):
            clear(uri)
        raise
