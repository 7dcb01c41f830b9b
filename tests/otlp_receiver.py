"""A receiver of OTLP over HTTP, in a process of its own.

    python otlp_receiver.py FILE [--silent | --refusing]

It says its port, and writes each span that it gets to FILE as a line of JSON. ``--silent`` takes requests and
answers none; ``--refusing`` answers 503.
"""

from __future__ import annotations

import gzip
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

KINDS = {1: "internal", 2: "server", 3: "client"}


def spans_of(body: bytes) -> list[dict[str, Any]]:
    """The spans of one request, in plain words; times are Unix time in seconds."""
    found = []
    for of_resource in ExportTraceServiceRequest.FromString(body).resource_spans:
        for of_scope in of_resource.scope_spans:
            for span in of_scope.spans:
                found.append(
                    {
                        "name": span.name,
                        "trace": span.trace_id.hex(),
                        "span": span.span_id.hex(),
                        "parent": span.parent_span_id.hex(),
                        "state": span.trace_state,
                        "kind": KINDS[span.kind],
                        "failed": span.status.code == 2,
                        "began": span.start_time_unix_nano / 1e9,
                        "ended": span.end_time_unix_nano / 1e9,
                        "attributes": _plain(span.attributes),
                        "resource": _plain(of_resource.resource.attributes),
                    }
                )
    return found


def _plain(attributes: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in attributes}


def main(file: Path, how: str) -> None:
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers["Content-Encoding"] == "gzip":
                body = gzip.decompress(body)
            if how == "--silent":
                threading.Event().wait()
            if how == "--refusing":
                self.answer(503, b"")
                return
            with lock, file.open("a") as lines:
                for span in spans_of(body):
                    told = {**span, "path": self.path, "key": self.headers["X-Key"]}
                    lines.write(json.dumps(told) + "\n")
            self.answer(200, ExportTraceServiceResponse().SerializeToString())

        def answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    file.touch()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    print(server.server_address[1], flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "")
