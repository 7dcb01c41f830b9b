"""``mlflow server`` for tests: listens on the socket it is told and does what the file FAKE_PLAN says.

The plan is JSON, read at start and again for each request: ``exit`` (code at once), ``print`` (lines, as
latin-1), ``silent`` (never listens), ``status`` (of the call that reaches the database), ``slow`` (seconds
before it), ``stubborn`` (ignores SIGTERM), ``jobs`` (starts a job runner), ``brood`` (children in sessions of
their own), ``graceful`` (on SIGTERM the requests under way are finished first), ``uvicorn`` (it is that which
serves, with as many workers as MLflow would have: served.py).
"""

import json
import os
import shlex
import signal
import socketserver
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path


def plan() -> dict:
    return json.loads(Path(os.environ["FAKE_PLAN"]).read_text())


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    under_way = 0

    def do_GET(self) -> None:
        Handler.under_way += 1
        try:
            self.answer()
        finally:
            Handler.under_way -= 1

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()

    def answer(self) -> None:
        status = 200
        if self.path != "/health":
            time.sleep(plan().get("slow", 0))
            status = plan().get("status", 200)
        said = {
            "pid": os.getpid(),
            "argv": sys.argv,
            "environ": dict(os.environ),
            "headers": self.headers.items(),
        }
        body = json.dumps(said).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address_string(self) -> str:
        return "-"

    def log_message(self, *_: object) -> None:
        pass


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    request_queue_size = 128


def end(*_: object) -> None:
    def last() -> None:
        while plan().get("graceful") and Handler.under_way:
            time.sleep(0.01)
        os._exit(0)

    threading.Thread(target=last).start()


def main() -> None:
    now = plan()
    for line in now.get("print", ()):
        sys.stderr.buffer.write(line.encode("latin-1") + b"\n")
        sys.stderr.flush()
    if "exit" in now:
        sys.exit(now["exit"])
    signal.signal(signal.SIGTERM, signal.SIG_IGN if now.get("stubborn") else end)
    if now.get("jobs"):
        os.environ["_MLFLOW_HUEY_STORAGE_PATH"] = tempfile.mkdtemp()
        subprocess.Popen([sys.executable, "-m", "mlflow.server.jobs._job_runner"])
    if now.get("brood"):
        stubborn = "import signal,time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
        for _ in range(3):
            subprocess.Popen([sys.executable, "-c", stubborn], start_new_session=True)
    while now.get("silent"):
        time.sleep(600)
    options = shlex.split(sys.argv[sys.argv.index("--uvicorn-opts") + 1])
    if now.get("uvicorn"):
        workers = sys.argv[sys.argv.index("--workers") + 1]
        command = [sys.executable, "-m", "uvicorn", "mlflow.served:app", "--lifespan", "off", *options]
        os.execv(sys.executable, [*command, "--workers", workers])
    Server(options[options.index("--uds") + 1], Handler).serve_forever()


main()
