"""Tracing: requests as spans of distributed traces, sent by OTLP where OpenTelemetry's variables ask for it.

Where they don't, nothing of OpenTelemetry is even imported (docs/tracing.md).
"""

from proxy.tracing.asked import Tracing, tracing

__all__ = ["Tracing", "tracing"]
