"""The access log: one line a request, whatever became of it, in JSON or in the combined format."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

from proxy.exchange import Exchange
from proxy.identity import Role
from proxy.logs.file import FileSettings, LogFile, output_of
from proxy.logs.lines import cut, json_line
from proxy.logs.writer import LineWriter
from proxy.operations import resource_of

MAX_PATH = 2048
MAX_USER_AGENT = 256
"""Characters; what is longer is cut and ends in three dots."""

_STANDARD_OUTPUT = 1
# By position, not a dictionary: an enum member is hashed in Python, which took a fifth of the line's time.
_ROLE_NAMES = tuple(role.name.lower() for role in Role)
_MILLISECONDS = tuple(f".{number:03d}Z" for number in range(1000))
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
# Apache's escapes (mod_log_config, ap_escape_logitem), on bytes read as Latin-1.
_APACHE = {
    **{code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0x100))},
    **{ord(character): f"\\{name}" for character, name in zip("\b\n\r\t\v", "bnrtv", strict=True)},
    ord('"'): '\\"',
    ord("\\"): "\\\\",
}
_APACHE_WORD = {**_APACHE, ord(" "): "\\x20"}


class AccessSettings(FileSettings, Protocol):
    """What of the settings is read here."""

    @property
    def access_log_file(self) -> Path | None: ...


def access_output(settings: AccessSettings) -> int | LogFile:
    """Where the access log goes. Raises UserError for a file that can't be written."""
    return output_of(settings.access_log_file, "PROXY_ACCESS_LOG_FILE", settings, _STANDARD_OUTPUT)


class AccessLog:
    """Builds a request's line on the event loop, in about 1 us, and leaves the writing to a thread.

    The line is built at once, not in the thread: the work holds the interpreter's lock either way, an
    exchange may still change after it was logged, and finished lines can be bounded in bytes.
    """

    def __init__(self, log_format: str, output: int | LogFile = _STANDARD_OUTPUT) -> None:
        """`log_format` is "json" or "combined"; the output stays the caller's to close."""
        self._writer = LineWriter(output, "the access log's output", logging.getLogger("proxy.logs"))
        self._line = combined_line if log_format == "combined" else JsonLines().line
        self._put: Callable[[bytes], None] = self._writer.put

    def write(self, exchange: Exchange, query: bytes = b"") -> None:
        """Log one request that is over. The query is only looked through for an experiment's or run's id."""
        self._put(self._line(exchange, query))

    @property
    def dropped(self) -> int:
        """Lines lost because the output took none, or took them too slowly."""
        return self._writer.dropped

    def reopen(self) -> None:
        """Go on in the file that now has the name."""
        self._writer.reopen()

    def close(self, timeout: float = 2.0) -> bool:
        """Write what waits, for at most `timeout` seconds. True if nothing waits any more."""
        return self._writer.close(timeout)


class JsonLines:
    """One JSON object a request; docs/access-log.md explains its fields."""

    def __init__(self) -> None:
        self._second = -1
        self._second_text = ""

    def line(self, exchange: Exchange, query: bytes) -> bytes:
        """The line, newline included."""
        return json_line(self.fields(exchange, query))

    def fields(self, exchange: Exchange, query: bytes) -> dict[str, Any]:
        """What the line holds. Every field is always there; null where there is nothing to say."""
        operation = exchange.operation
        experiment_id = run_id = None
        if operation is not None and operation.resource:
            found = resource_of(operation, exchange.path, query)
            experiment_id = found.get("experiment_id")
            run_id = found.get("run_id")
        user = auth = role = credential = None
        identity = exchange.identity
        if identity is not None:
            user = identity.user
            auth = identity.method
            role = _ROLE_NAMES[identity.role]
            if identity.credential is not None:
                credential = identity.credential.id
        received = exchange.received
        second = int(received)
        if second != self._second:
            self._second = second
            self._second_text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        started = exchange.started
        ended = exchange.ended
        if ended is None:
            ended = time.perf_counter()
        first_byte = exchange.first_byte
        mlflow_started = exchange.mlflow_started
        mlflow_ended = exchange.mlflow_ended
        path = exchange.path
        user_agent = exchange.user_agent
        return {
            "time": self._second_text + _MILLISECONDS[int((received - second) * 1000)],
            "request_id": exchange.request_id,
            "client": exchange.client,
            "user": user,
            "auth": auth,
            "role": role,
            "credential": credential,
            "operation": "unparsed" if operation is None else operation.name,
            "experiment_id": experiment_id,
            "run_id": run_id,
            "method": exchange.method,
            "path": path if len(path) <= MAX_PATH else cut(path, MAX_PATH),
            "status": exchange.status,
            "bytes_in": exchange.bytes_in,
            "bytes_out": exchange.bytes_out,
            # Hundredths of a millisecond, cut; round() takes twice the time.
            "duration_ms": int((ended - started) * 1e5) / 100,
            "ttfb_ms": None if first_byte is None else int((first_byte - started) * 1e5) / 100,
            "mlflow_ms": None
            if mlflow_started is None or mlflow_ended is None
            else int((mlflow_ended - mlflow_started) * 1e5) / 100,
            "refusal": exchange.refusal,
            "error": exchange.error,
            "resent": exchange.resent,
            "trace_id": None if exchange.trace is None else exchange.trace.id,
            "user_agent": user_agent
            if len(user_agent) <= MAX_USER_AGENT
            else cut(user_agent, MAX_USER_AGENT),
        }


def combined_line(exchange: Exchange, query: bytes) -> bytes:
    """The line in the combined format of Apache and nginx, newline included.

    The path is percent-encoded again, so that the request line has three words; the query and the
    Referer, which may hold one, are left out.
    """
    identity = exchange.identity
    at = time.gmtime(exchange.received)
    path = quote(cut(exchange.path, MAX_PATH), safe="/!$&'()*+,;=:@~", errors="replace")
    return (
        f"{_escaped(exchange.client or '-', _APACHE_WORD)} - "
        f"{_escaped(identity.user or '-', _APACHE_WORD) if identity is not None else '-'} "
        f"[{at.tm_mday:02d}/{_MONTHS[at.tm_mon - 1]}/{at.tm_year}"
        f":{at.tm_hour:02d}:{at.tm_min:02d}:{at.tm_sec:02d} +0000] "
        f'"{_escaped(exchange.method, _APACHE_WORD)} {path} HTTP/1.1" '
        f"{exchange.status} {exchange.bytes_out or '-'} "
        f'"-" "{_escaped(cut(exchange.user_agent or "-", MAX_USER_AGENT), _APACHE)}"\n'
    ).encode()


def _escaped(text: str, table: dict[int, str]) -> str:
    return text.encode("utf-8", "replace").decode("latin-1").translate(table)
