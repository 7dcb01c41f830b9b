"""Worker processes behind one Unix socket, as MLflow's uvicorn has them, which answer as they are told.

    python fake_workers.py SOCKET WORKERS PLAN

PLAN is a JSON file, read for each request: ``status`` of every call but /health, ``message`` in their
answers, ``hold`` (true: such a call is not answered while that stands there), ``deaf`` (true: nor is
/health), ``shy`` (true: the first worker alone takes connections). ``GET /asked`` tells how many such calls
are at work in the worker that answers.
"""

from __future__ import annotations

import json
import os
import select
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
            body = json.dumps({"at_work": at_work})
        elif path == "/health":
            while plan().get("deaf"):
                time.sleep(0.02)
        else:
            at_work += 1
            while plan().get("hold") or plan().get("deaf"):
                time.sleep(0.02)
            at_work -= 1
            status, body = plan().get("status", 200), json.dumps({"message": plan().get("message")})
        answer = f"HTTP/1.1 {status} Whatever\r\ncontent-length: {len(body)}\r\n\r\n{body}"
        try:
            sock.sendall(answer.encode())
        except OSError:
            return


def main() -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(sys.argv[1])
        listener.listen(64)
        listener.setblocking(False)
        pids = [os.getpid()]
        first = True
        for _ in range(int(sys.argv[2]) - 1):
            if not (pid := os.fork()):
                first = False
                break
            pids.append(pid)
        else:
            print(json.dumps(pids), flush=True)
        while True:
            if not select.select([listener], [], [], 0.1)[0]:
                continue
            if plan().get("shy") and not first:
                time.sleep(0.05)
                continue
            try:
                sock, _ = listener.accept()
            except BlockingIOError:  # another worker has it
                continue
            sock.setblocking(True)
            threading.Thread(target=serve, args=(sock,), daemon=True).start()


if __name__ == "__main__":
    main()
