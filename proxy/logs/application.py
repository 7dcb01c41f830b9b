"""The application log: our own lines and MLflow's, on standard error or in a file; text on a terminal, else
JSON."""

from __future__ import annotations

import atexit
import logging
import os
import re
import time
from pathlib import Path
from typing import Any, Protocol

from proxy.logs.file import FileSettings, LogFile, output_of
from proxy.logs.lines import cut, json_line, printable
from proxy.logs.writer import LineWriter

MAX_MESSAGE = 8192
MAX_EXCEPTION = 32_768
"""Characters; what is longer is cut and ends in three dots."""

_STANDARD_ERROR = 2
_LEVEL_WORD = re.compile(r"\b(DEBUG|INFO|WARNING|ERROR|CRITICAL)\b")
_MLFLOW = logging.getLogger("proxy.mlflow")
_OURS = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}
_installed: ApplicationLog | None = None


class LogSettings(FileSettings, Protocol):
    """What of the settings is read here."""

    @property
    def log_level(self) -> str: ...
    @property
    def log_file(self) -> Path | None: ...


class ApplicationLog(logging.Handler):
    """Turns records of the standard library's logging into lines, written by a thread of their own."""

    def __init__(self, output: int | LogFile = _STANDARD_ERROR) -> None:
        """The output stays the caller's to close."""
        super().__init__()
        self._writer = LineWriter(output, "standard error", None)
        self._line = text_line if isinstance(output, int) and os.isatty(output) else record_line

    @property
    def dropped(self) -> int:
        """Lines lost because the output took none, or took them too slowly."""
        return self._writer.dropped

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record's line soon. Called under the handler's lock, so by one thread at a time."""
        try:
            line = self._line(record)
        except Exception as problem:
            # A log call with wrong arguments: the standard library would print a stack over several lines.
            line = self._line(
                logging.makeLogRecord(
                    {
                        "name": record.name,
                        "levelname": "ERROR",
                        "msg": f"the log call at {record.filename}:{record.lineno} failed: {problem!r}",
                    }
                )
            )
        self._writer.put(line)

    def reopen(self) -> None:
        """Go on in the file that now has the name."""
        self._writer.reopen()

    def finish(self, timeout: float = 2.0) -> bool:
        """Write what waits, for at most `timeout` seconds. True if nothing waits any more."""
        return self._writer.close(timeout)


def configure(settings: LogSettings, descriptor: int = _STANDARD_ERROR) -> ApplicationLog:
    """Send everything that is logged in this process to one application log, and return it.

    uvicorn's loggers are routed in, its access log is shut (ours is `AccessLog`), Python's warnings come
    too. What is still unwritten when the interpreter ends is written then. Called again, it replaces
    what it had set up. The descriptor is used where the settings name no file. Raises UserError where that
    can't be written.
    """
    global _installed
    output = output_of(settings.log_file, "PROXY_LOG_FILE", settings, descriptor)
    root = logging.getLogger()
    if _installed is not None:
        root.removeHandler(_installed)
        atexit.unregister(_installed.finish)
        _installed.finish()
    _installed = ApplicationLog(output)
    atexit.register(_installed.finish)
    root.addHandler(_installed)
    root.setLevel(settings.log_level.upper())
    # MLflow says itself what it logs (MLFLOW_LOGGING_LEVEL), and a stack of its has no level in its lines.
    _MLFLOW.setLevel(logging.DEBUG)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    logging.getLogger("uvicorn.access").disabled = True
    logging.captureWarnings(True)
    return _installed


def mlflow_line(line: str, generation: int) -> None:
    """Log a line that MLflow wrote, at the level that it names, else info; `generation` counts its starts."""
    word = _LEVEL_WORD.search(line, 0, 64)
    level = logging.getLevelNamesMapping()[word[1]] if word else logging.INFO
    _MLFLOW.log(level, "%s", line.rstrip("\r\n"), extra={"source": "mlflow", "generation": generation})


def record_line(record: logging.LogRecord) -> bytes:
    """One JSON line: time, level, source (proxy or mlflow), logger, message, what `extra` gave, exception."""
    fields: dict[str, Any] = {
        "time": _timestamp(record.created),
        "level": record.levelname.lower(),
        "source": "proxy",
        "logger": record.name,
        "message": cut(record.getMessage(), MAX_MESSAGE),
    }
    for name, value in vars(record).items():
        if name not in _OURS:
            fields[name] = value
    if record.exc_info and record.exc_info[0] is not None:
        fields["exception"] = cut(_FORMATTER.formatException(record.exc_info), MAX_EXCEPTION)
    return json_line(fields)


def text_line(record: logging.LogRecord) -> bytes:
    """The same for a person at a terminal: clock, level, who, message; a stack over several lines."""
    at = time.strftime("%H:%M:%S", time.localtime(record.created))
    message = printable(cut(record.getMessage(), MAX_MESSAGE))
    if getattr(record, "source", "proxy") == "mlflow":
        return f"{at} mlflow | {message}\n".encode()
    text = f"{at} {record.levelname.lower():8}{record.name}: {message}\n"
    if record.exc_info and record.exc_info[0] is not None:
        stack = cut(_FORMATTER.formatException(record.exc_info), MAX_EXCEPTION)
        text += "".join(f"    {printable(line)}\n" for line in stack.splitlines())
    return text.encode()


def _timestamp(created: float) -> str:
    second = int(created)
    at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
    return f"{at}.{int((created - second) * 1000):03d}Z"


_FORMATTER = logging.Formatter()
