"""From requests to spans: a request's ids and whether it is recorded when it begins, its spans at its end."""

from __future__ import annotations

from collections.abc import Iterator

from opentelemetry.context import Context
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
    set_span_in_context,
)

from proxy.exchange import Exchange, Trace
from proxy.tracing.context import Parent, parent_of
from proxy.tracing.sending import Sending

SERVICE = "mlflow-proxy"

# Asked every few seconds by machines, for ever, and of no interest to anybody.
UNTRACED = frozenset({"livez", "readyz", "metrics"})
# opentelemetry.io/docs/specs/semconv/http/http-spans/: any other one is made up by the client.
METHODS = frozenset({"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE"})
# What ended a request and is no failure of ours or MLflow's.
_THE_CLIENTS = frozenset({"client_gone", "client_stalled", "revoked"})
_MLFLOWS = frozenset({"refused", "reset", "bad_answer", "failed", "stalled"})

_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_NOT_SAMPLED = TraceFlags(TraceFlags.DEFAULT)
_NO_CONTEXT = Context()
_UNSET = Status(StatusCode.UNSET)
_ERROR = Status(StatusCode.ERROR)

Value = str | int | bool


class Spans:
    """Tracing, with what OpenTelemetry's variables say of sampler, resource, batches and exporter."""

    def __init__(self, version: str) -> None:
        given = Resource.create({SERVICE_VERSION: version})
        if str(given.attributes[SERVICE_NAME]).startswith("unknown_service"):
            given = given.merge(Resource({SERVICE_NAME: SERVICE}))
        provider = TracerProvider(resource=given, shutdown_on_exit=False)
        self._resource = given
        self._sampler = provider.sampler
        self._ids = provider.id_generator
        self._scope = InstrumentationScope(SERVICE, version)
        self._sending = Sending()
        self.end = self._sending.end

    @property
    def lost(self) -> int:
        """Spans that were not sent: the receiver took none, or too slowly."""
        return self._sending.lost

    def begin(self, headers: list[tuple[bytes, bytes]]) -> Trace:
        """The trace of a request that has just come with those headers: the client's, or a new one."""
        parent = parent_of(headers)
        if parent is None:
            number, context, state = self._ids.generate_trace_id(), _NO_CONTEXT, ""
            trace_id = f"{number:032x}"
        else:
            trace_id, state = parent.trace_id, parent.state
            number, context = int(trace_id, 16), _context_of(parent)
        decision = self._sampler.should_sample(context, number, SERVICE, SpanKind.SERVER)
        return Trace(
            trace_id,
            f"{self._ids.generate_span_id():016x}",
            f"{self._ids.generate_span_id():016x}",
            parent=None if parent is None else parent.span,
            sampled=decision.decision is Decision.RECORD_AND_SAMPLE,
            state=state,
        )

    def observe(self, exchange: Exchange) -> None:
        """Hand over the spans of a request that is over."""
        trace = exchange.trace
        if trace is None:
            return
        if exchange.operation is not None and exchange.operation.name in UNTRACED:
            exchange.trace = None
        elif trace.sampled:
            if self._sending.has_room:
                self._sending.take(self._spans(exchange, trace))
            else:
                self._sending.lose(1 + (exchange.mlflow_started is not None) + len(trace.stretches))

    def _spans(self, exchange: Exchange, trace: Trace) -> Iterator[ReadableSpan]:
        """The request's own comes last: whoever has it has all of them."""
        number = int(trace.id, 16)
        state = _state(trace.state)
        to_unix = exchange.received - exchange.started
        ended = exchange.ended
        assert ended is not None

        def context(span: str, *, remote: bool = False) -> SpanContext:
            return SpanContext(number, int(span, 16), remote, _SAMPLED, state)

        def span(
            name: str,
            own: SpanContext,
            parent: SpanContext | None,
            begins: float,
            ends: float,
            attributes: dict[str, Value],
            kind: SpanKind = SpanKind.INTERNAL,
            status: Status = _UNSET,
        ) -> ReadableSpan:
            return ReadableSpan(
                name,
                own,
                parent,
                self._resource,
                attributes,
                kind=kind,
                status=status,
                start_time=int((begins + to_unix) * 1e9),
                # What is put away after the answer, by a body's end, say, is no part of it.
                end_time=int((min(ends, ended) + to_unix) * 1e9),
                instrumentation_scope=self._scope,
            )

        request = context(trace.span)
        client = None if trace.parent is None else context(trace.parent, remote=True)
        method = exchange.method if exchange.method in METHODS else "_OTHER"
        if exchange.mlflow_started is not None:
            attributes, status = _of_mlflow(exchange, method)
            yield span(
                "mlflow",
                context(trace.mlflow),
                request,
                exchange.mlflow_started,
                ended if exchange.mlflow_ended is None else exchange.mlflow_ended,
                attributes,
                kind=SpanKind.CLIENT,
                status=status,
            )
        if exchange.first_byte is not None:
            trace.stretch("response body", exchange.first_byte)
        for name, began, until in trace.stretches:
            attributes = {}
            if name == "authentication" and exchange.identity is not None:
                attributes["mlflow_proxy.auth"] = exchange.identity.method
            elif name.startswith("waiting "):
                name, attributes["mlflow_proxy.waiting_for"] = name.split(" ")
            own = context(f"{self._ids.generate_span_id():016x}")
            yield span(name, own, request, began, until, attributes)
        attributes, status = _of_request(exchange, method)
        name = method.replace("_OTHER", "HTTP")
        if exchange.operation is not None:
            name = f"{name} {exchange.operation.name}"
        yield span(
            name, request, client, exchange.started, ended, attributes, kind=SpanKind.SERVER, status=status
        )


def _context_of(parent: Parent) -> Context:
    """What a sampler is told of the client's span."""
    flags = _SAMPLED if parent.sampled else _NOT_SAMPLED
    return set_span_in_context(
        NonRecordingSpan(SpanContext(int(parent.trace_id, 16), int(parent.span, 16), True, flags)),
        _NO_CONTEXT,
    )


def _state(text: str) -> TraceState | None:
    if not text:
        return None
    pairs = [member.partition("=") for member in text.split(",")]
    return TraceState([(key, value) for key, _, value in pairs])


def _of_request(exchange: Exchange, method: str) -> tuple[dict[str, Value], Status]:
    """What is said of a request: nothing that its caller wrote, and nobody's name."""
    attributes: dict[str, Value] = {
        "http.request.method": method,
        "url.scheme": exchange.scheme,
        "http.request.body.size": exchange.bytes_in,
        "http.response.body.size": exchange.bytes_out,
        "mlflow_proxy.request_id": exchange.request_id,
    }
    if exchange.operation is not None:
        attributes["http.route"] = exchange.operation.name
    answered = exchange.first_byte is not None
    if answered:
        attributes["http.response.status_code"] = exchange.status
    if exchange.refusal is not None:
        attributes["mlflow_proxy.refusal"] = exchange.refusal
    if exchange.error is not None:
        attributes["error.type"] = exchange.error
    elif answered and exchange.status >= 500:
        attributes["error.type"] = exchange.refusal or str(exchange.status)
    failed = (answered and exchange.status >= 500) or (
        exchange.error is not None and exchange.error not in _THE_CLIENTS
    )
    return attributes, _ERROR if failed else _UNSET


def _of_mlflow(exchange: Exchange, method: str) -> tuple[dict[str, Value], Status]:
    attributes: dict[str, Value] = {"http.request.method": method, "peer.service": "mlflow"}
    if exchange.resent:
        attributes["http.request.resend_count"] = len(exchange.resent)
    if exchange.error is not None:
        attributes["error.type"] = exchange.error
        return attributes, _ERROR if exchange.error in _MLFLOWS else _UNSET
    if exchange.refusal is not None:
        return attributes, _UNSET
    attributes["http.response.status_code"] = exchange.status
    if exchange.status < 400:
        return attributes, _UNSET
    attributes["error.type"] = str(exchange.status)
    return attributes, _ERROR
