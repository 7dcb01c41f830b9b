"""A model provider on loopback that keeps what it is sent, and a gateway endpoint of MLflow that calls it."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from attacked import Target

GATEWAY = "/api/3.0/mlflow/gateway"
KEY = "the-provider-key-of-the-server"
CHAT = {
    "id": "1",
    "object": "chat.completion",
    "created": 1,
    "model": "fake",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "hello"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
}


class Provider(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[tuple[str, list[tuple[str, str]]]] = []
        """The path and the headers of every request."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Provider

    def do_POST(self) -> None:
        self.server.asked.append((self.path, [(name.lower(), value) for name, value in self.headers.items()]))
        self.rfile.read(int(self.headers["content-length"]))
        body = json.dumps(CHAT).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def provider_behind(target: Target, kind: str) -> Iterator[Provider]:
    """MLflow's endpoint `kind` (the name of a provider that it knows) leads to a provider of ours."""
    with Provider() as provider:
        threading.Thread(target=provider.serve_forever, daemon=True).start()
        secret = target.post(
            "ada",
            f"{GATEWAY}/secrets/create",
            {
                "secret_name": kind,
                "secret_value": {"api_key": KEY},
                "provider": kind,
                "auth_config": {"api_base": provider.url},
            },
        )
        assert secret.status == 200, secret
        model = target.post(
            "ada",
            f"{GATEWAY}/model-definitions/create",
            {
                "name": kind,
                "secret_id": secret.json()["secret"]["secret_id"],
                "provider": kind,
                "model_name": "fake",
            },
        )
        assert model.status == 200, model
        made = model.json()["model_definition"]["model_definition_id"]
        endpoint = target.post(
            "ada",
            f"{GATEWAY}/endpoints/create",
            {
                "name": kind,
                "model_configs": [{"model_definition_id": made, "linkage_type": "PRIMARY", "weight": 1}],
                "usage_tracking": False,
            },
        )
        assert endpoint.status == 200, endpoint
        try:
            yield provider
        finally:
            provider.shutdown()
