"""Spans on their way to the receiver: a bounded number waits, and a thread of OpenTelemetry's sends them."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Iterable, Sequence

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

log = logging.getLogger("proxy.tracing")

MOST_WAITING = 8192
"""Spans that may wait to be sent, some 1.5 KB each, unless OTEL_BSP_MAX_QUEUE_SIZE says otherwise; more are
lost. OpenTelemetry's own default, 2048, is a third of a second of a busy service."""
END_SECONDS = 3.0
"""What sending the last ones may take, at the service's end."""


class Sending:
    """One exporter and the spans that wait for it. All but the exporter belongs to the event loop.

    Raises ValueError where OpenTelemetry's variables can't be meant.
    """

    def __init__(self) -> None:
        self._most = int(os.environ.get("OTEL_BSP_MAX_QUEUE_SIZE", "").strip() or MOST_WAITING)
        self._exporter = _Told(OTLPSpanExporter())
        # Room for one request's more: what the processor has no room for it tells of in a line each.
        self._processor = BatchSpanProcessor(self._exporter, max_queue_size=self._most + 64)
        self._taken = 0
        self._refused = 0

    @property
    def has_room(self) -> bool:
        """Whether a request's spans can wait, too."""
        return self._taken - self._exporter.given < self._most

    @property
    def lost(self) -> int:
        """Spans that were not sent."""
        return self._refused + self._exporter.failed

    def lose(self, number: int) -> None:
        """Count so many spans for which there was no room."""
        self._refused += number

    def take(self, spans: Iterable[ReadableSpan]) -> None:
        """Leave them to the thread; nobody waits."""
        for span in spans:
            self._taken += 1
            self._processor.on_end(span)

    async def end(self) -> None:
        """Send what waits, and end; for END_SECONDS at most, whatever the receiver does."""
        # In a thread that may be left alone: a call to the receiver may hang.
        ending = threading.Thread(target=self._processor.shutdown, name="tracing-end", daemon=True)
        ending.start()
        await asyncio.to_thread(ending.join, END_SECONDS)
        left = self._taken - self._exporter.sent - self._exporter.failed
        if left:
            log.warning("%d spans were not sent: the receiver takes none, or too slowly", left)


class _Told(SpanExporter):
    """An exporter that says once that sending fails, and once that it works again. It runs in a thread."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._heard = _Heard()
        logging.getLogger(type(exporter).__module__).addFilter(self._heard)
        self._failing = False
        self.given = 0
        """Spans that it was given so far; of them:"""
        self.sent = 0
        self.failed = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.given += len(spans)
        self._heard.first = ""
        result = self._exporter.export(spans)
        if result is SpanExportResult.SUCCESS:
            self.sent += len(spans)
            if self._failing:
                log.info("spans are sent again")
        else:
            self.failed += len(spans)
            if not self._failing:
                log.warning("spans can't be sent, which is said once: %s", self._heard.first)
        self._failing = result is not SpanExportResult.SUCCESS
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()


class _Heard(logging.Filter):
    """Keeps from the log what an exporter says of each batch again, and remembers what it said first."""

    first = ""

    def filter(self, record: logging.LogRecord) -> bool:
        self.first = self.first or record.getMessage()
        return False
