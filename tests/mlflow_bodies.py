"""Run as a process of its own: prints, as JSON, how the installed MLflow's handlers read bodies.

Reads ``[[message, body in base64], …]`` from standard input. Of each: the JSON that MLflow makes of it and
the protobuf message that its handler goes on with, its checks of single fields left out; null where it
raises. Beside them, which paths' messages hold what says who made a run or a logged model.
"""

from __future__ import annotations

import base64
import json
import sys
from typing import Any

from google.protobuf.json_format import MessageToDict
from mlflow.protos import service_pb2
from mlflow.server import app, handlers

# Fields of these types, or of these names, say who made something or are the tags that do.
TYPES = frozenset({"RunTag", "LoggedModelTag"})
NAMES = frozenset({"user_id", "userId", "tag_key"})


def _tried(what: Any, *arguments: Any) -> Any:
    try:
        return what(*arguments)
    except Exception:
        return None


def _read(message: str, body: bytes) -> list[Any]:
    with app.test_request_context("/", method="POST", data=body, content_type="application/json"):
        text = _tried(handlers._get_normalized_request_json)
        made = getattr(service_pb2, message)()
        if _tried(handlers._get_request_message, made) is None:
            return [text, None]
        return [text, MessageToDict(made, preserving_proto_field_name=True)]


def _tells_who(message: Any) -> bool:
    fields = message.DESCRIPTOR.fields
    names = {field.name for field in fields}
    return (
        any(field.message_type and field.message_type.name in TYPES for field in fields)
        or bool(names & NAMES)
        or names in ({"run_id", "run_uuid", "key", "value"}, {"run_id", "key"})
    )


def main() -> None:
    asked = json.load(sys.stdin)
    read = [_read(message, base64.b64decode(body)) for message, body in asked]
    paths = [
        [method, path]
        for path, handler, methods in handlers.get_endpoints()
        for message in handlers.HANDLERS
        if _tells_who(message) and handler is handlers.get_handler(message)
        for method in methods
    ]
    json.dump({"read": read, "paths": paths}, sys.stdout)


if __name__ == "__main__":
    main()
