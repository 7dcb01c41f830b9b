"""Whether OpenTelemetry's variables ask for traces, and tracing from the service's start to its end."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import AsyncIterator, Mapping, MutableMapping
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

from proxy.exchange import Exchange, Trace

if TYPE_CHECKING:
    from proxy.tracing.spans import Spans

log = logging.getLogger("proxy.tracing")

_PROTOCOL = "http/protobuf"


class Tracing(Protocol):
    """Tracing, where it is on."""

    @property
    def lost(self) -> int:
        """Spans that were not sent: the receiver took none, or too slowly."""

    def begin(self, headers: list[tuple[bytes, bytes]]) -> Trace:
        """The trace of a request that has just come with those headers."""

    def observe(self, exchange: Exchange) -> None:
        """Hand over the spans of a request that is over."""


@contextlib.asynccontextmanager
async def tracing(version: str, from_files: Mapping[str, str]) -> AsyncIterator[Tracing | None]:
    """Tracing while the body runs, or None where nobody asks for it. What waits at its end is still sent, if
    that takes no longer than `sending.END_SECONDS`.

    `from_files` is what files of settings give to variables; our environment is stronger.
    """
    _take_over(from_files, os.environ)
    spans = _opened(version)
    try:
        yield spans
    finally:
        if spans is not None:
            await spans.end()


def _opened(version: str) -> Spans | None:
    try:
        where = endpoint(os.environ)
        if where is None:
            return None
        # Only now: whoever does without traces does without all that they are made with.
        from proxy.tracing.spans import Spans

        spans = Spans(version)
    except ValueError as error:
        log.warning("requests are not traced: %s", error)
        return None
    except ImportError as error:
        log.warning(
            "requests are not traced: OTEL_EXPORTER_OTLP_ENDPOINT is set, and %s is not installed; "
            "run pip install 'mlflow-proxy[tracing]'",
            error.name,
        )
        return None
    log.info("requests are traced; their spans go to %s", where)
    return spans


def _take_over(from_files: Mapping[str, str], environ: MutableMapping[str, str]) -> None:
    """OpenTelemetry reads its variables from the environment, and from nowhere else."""
    for name, value in from_files.items():
        if name.startswith("OTEL_"):
            environ.setdefault(name, value)


def endpoint(environ: Mapping[str, str]) -> str | None:
    """Where the spans are to go, for a person; None where nobody asks for any.

    By opentelemetry.io/docs/specs/otel/protocol/exporter/ and .../configuration/sdk-environment-variables/.
    Raises ValueError where they can't go there from here.
    """

    def of_traces(name: str) -> tuple[str, str]:
        for variable in (f"OTEL_EXPORTER_OTLP_TRACES_{name}", f"OTEL_EXPORTER_OTLP_{name}"):
            if value := environ.get(variable, "").strip():
                return variable, value
        return "", ""

    variable, url = of_traces("ENDPOINT")
    exporters = environ.get("OTEL_TRACES_EXPORTER", "").strip() or "otlp"
    if (
        not url
        or environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
        or "otlp" not in [name.strip() for name in exporters.split(",")]
    ):
        return None
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError(f"{variable} is no URL") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{variable} has to be a URL that begins with http:// or https://")
    which, protocol = of_traces("PROTOCOL")
    if protocol and protocol != _PROTOCOL:
        raise ValueError(f"{which} asks for {protocol!r}, and only {_PROTOCOL} is spoken here")
    # Not the URL itself: it may hold a key.
    return f"{parts.scheme}://{parts.hostname}" + (f":{port}" if port else "")
