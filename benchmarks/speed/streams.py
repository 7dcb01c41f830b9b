"""In MLflow's place for large bodies: sends as many zeros as the path's last part says, drops what is sent.

    python streams.py PORT|SOCKET

A thread for each connection, 1 MiB at a time. Any other path gets a small answer.
"""

from __future__ import annotations

import re
import socket
import sys
import threading
from pathlib import Path

PIECE = 2**20
ZEROS = memoryview(bytes(PIECE))


def serve(connection: socket.socket) -> None:
    buffer = memoryview(bytearray(PIECE))
    kept = b""
    with connection:
        while True:
            while b"\r\n\r\n" not in kept:
                if not (data := connection.recv(65536)):
                    return
                kept += data
            head, _, kept = kept.partition(b"\r\n\r\n")
            length = re.search(rb"(?i)^content-length:\s*(\d+)", head, re.M)
            chunked = re.search(rb"(?i)^transfer-encoding:\s*chunked", head, re.M)
            if chunked:
                while not kept.endswith(b"0\r\n\r\n"):
                    if not (count := connection.recv_into(buffer)):
                        return
                    kept = (kept + bytes(buffer[max(0, count - 5) : count]))[-5:]
                kept = b""
            left = int(length[1]) if length else 0
            left, kept = left - min(left, len(kept)), kept[left:]
            while left:
                if not (count := connection.recv_into(buffer, min(left, PIECE))):
                    return
                left -= count
            method, target, _ = head.split(b"\r\n", 1)[0].split(b" ")
            wanted = re.search(rb"/artifacts/(\d+)$", target)
            if method == b"GET" and wanted:
                left = int(wanted[1])
                connection.sendall(
                    b"HTTP/1.1 200 OK\r\ncontent-type: application/octet-stream\r\n"
                    b"content-length: %d\r\n\r\n" % left
                )
                while left:
                    connection.sendall(ZEROS[: min(left, PIECE)])
                    left -= min(left, PIECE)
            else:
                connection.sendall(
                    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
                )


def quietly(connection: socket.socket) -> None:
    try:
        serve(connection)
    except OSError:
        connection.close()


def main(where: str) -> None:
    if where.isdigit():
        listener = socket.create_server(("127.0.0.1", int(where)), backlog=512)
    else:
        Path(where).unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(where)
        listener.listen(512)
        Path(where).chmod(0o666)
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=quietly, args=(connection,), daemon=True).start()


if __name__ == "__main__":
    main(sys.argv[1])
