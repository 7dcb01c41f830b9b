"""A stand-in for a model provider, which MLflow's gateway asks: python model_provider.py PORT HEADERS.jsonl

It speaks as much of OpenAI's chat completions as a judge needs, agrees with everything, and writes down the
headers of each request.
"""

from __future__ import annotations

import json
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

VERDICT = json.dumps({"result": "yes", "rationale": "It says so."})
ANSWER = {
    "id": "1",
    "object": "chat.completion",
    "created": 0,
    "model": "judge",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": VERDICT}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
}


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        with Path(sys.argv[2]).open("a") as file:
            file.write(json.dumps({name.lower(): value for name, value in self.headers.items()}) + "\n")
        body = json.dumps(ANSWER).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
