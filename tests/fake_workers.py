"""Worker processes behind one Unix socket, as MLflow's uvicorn has them, which answer as they are told.

    python fake_workers.py SOCKET WORKERS PLAN

PLAN is a JSON file, read for each request: ``status`` of every call but /health, ``hold`` (true: such a call
is not answered while that stands there), ``deaf`` (true: nor is /health). ``GET /asked`` tells
how many such calls are at work in the worker that answers, and its pid.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

at_work = 0


def plan() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(sys.argv[3]).read_text())
    return found


def serve(sock: socket.socket) -> None:
    global at_work
    file = sock.makefile("rb")
    while line := file.readline():
        path = line.split()[1].decode()
        while file.readline().strip():
            pass
        status, body = 200, "OK"
        if path == "/asked":
            body = json.dumps({"at_work": at_work, "pid": os.getpid()})
        elif path == "/health":
            while plan().get("deaf"):
                time.sleep(0.02)
        else:
            at_work += 1
            while plan().get("hold") or plan().get("deaf"):
                time.sleep(0.02)
            at_work -= 1
            status = plan().get("status", 200)
        answer = f"HTTP/1.1 {status} Whatever\r\ncontent-length: {len(body)}\r\n\r\n{body}"
        try:
            sock.sendall(answer.encode())
        except OSError:
            return


def main() -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(sys.argv[1])
        listener.listen(64)
        pids = [os.getpid()]
        for _ in range(int(sys.argv[2]) - 1):
            if not (pid := os.fork()):
                break
            pids.append(pid)
        else:
            print(json.dumps(pids), flush=True)
        while True:
            sock, _ = listener.accept()
            threading.Thread(target=serve, args=(sock,), daemon=True).start()


if __name__ == "__main__":
    main()
