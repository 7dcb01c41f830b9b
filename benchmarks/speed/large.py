"""Large bodies: 1 GiB down and up, alone and 8 at once, with and without TLS, and with clients that are slow.

    .venv/bin/python benchmarks/speed/large.py [--rounds 3] [--mib 1024]

By itself it prints a table and keeps nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from arrangements import (
    UNVERIFIED,
    Arrangement,
    Caddy,
    DirectStreams,
    Nginx,
    NginxTls,
    OursStreams,
    OursTls,
    UpstreamStreams,
)
from figures import median, spread
from processes import cpu, forget_peak, peak, resident

PIECE = 2**20
ZEROS = memoryview(bytes(PIECE))
PATH = "/api/2.0/mlflow-artifacts/artifacts/"
PLAIN: Sequence[type[Arrangement]] = (DirectStreams, Nginx, Caddy, OursStreams)
TLS: Sequence[type[Arrangement]] = (NginxTls, OursTls)
SLOW_CLIENTS, SLOW_SECONDS = 8, 4.0

Rows = dict[tuple[str, str], dict[str, list[float]]]
"""By arrangement and what was done: each figure, round by round."""


def measure(
    folder: Path,
    *,
    rounds: int,
    size: int,
    plain: Sequence[type[Arrangement]] = PLAIN,
    secured: Sequence[type[Arrangement]] = TLS,
) -> Rows:
    """All of them in turn within each round; `size` in bytes, half of it where there are 8 at once.

    Memory grows from what was held after a first small transfer. Exits where a transfer fails.
    """
    rows: Rows = {}
    upstream = folder / "upstream.sock"
    with contextlib.ExitStack() as stack:
        stack.enter_context(UpstreamStreams(folder / "upstream", upstream).running())
        without, under = (
            [kind(folder / kind.__name__, upstream) for kind in kinds] for kinds in (plain, secured)
        )
        held = {}
        for one in (*without, *under):
            stack.enter_context(one.running())
            down(one, 4 * PIECE)
            up(one, 4 * PIECE)
            held[one.name] = resident(one.pids())

        def record(one: Arrangement, what: str, act: Callable[[], None], transferred: int) -> None:
            pids = one.pids()
            forget_peak(pids)
            spent, began = cpu(pids), time.monotonic()
            act()
            took = time.monotonic() - began
            row = rows.setdefault((one.name, what), {})
            row.setdefault("growth MiB", []).append(max(0, peak(pids) - held[one.name]) / 2**20)
            if transferred:
                row.setdefault("MB/s", []).append(transferred / took / 1e6)
                row.setdefault("CPU s/GiB", []).append((cpu(pids) - spent) / (transferred / 2**30))

        for number in range(rounds):
            for what, act in (("down", down), ("up", up)):
                for one in (*without, *under):
                    record(one, what, partial(act, one, size), size)
            if number % 2 == 0:  # they take long
                for what, act in (("down", down), ("up", up)):
                    for one in without:
                        record(
                            one,
                            f"{what}, 8 at once",
                            partial(at_once, 8, partial(act, one, size // 2)),
                            4 * size,
                        )
        for what, act in (("down", slow_down), ("up", slow_up)):
            for one in (*without[1:], *under):
                record(
                    one,
                    f"{what}, {SLOW_CLIENTS} slow",
                    partial(at_once, SLOW_CLIENTS, partial(act, one, size)),
                    0,
                )
    return rows


def at_once(count: int, act: Callable[[], None]) -> None:
    failed: list[BaseException] = []

    def one() -> None:
        try:
            act()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=one) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]


def down(one: Arrangement, size: int) -> None:
    with _asked(one, "GET", size) as connection:
        _answered(connection, size)


def up(one: Arrangement, size: int) -> None:
    with _asked(one, "PUT", size) as connection:
        for _ in range(size // PIECE):
            connection.sendall(ZEROS)
        _answered(connection, None)


def slow_down(one: Arrangement, size: int) -> None:
    """Some 0.6 MB/s, and gone after a while."""
    with _asked(one, "GET", size) as connection:
        deadline = time.monotonic() + SLOW_SECONDS
        while time.monotonic() < deadline:
            connection.recv(65536)
            time.sleep(0.1)


def slow_up(one: Arrangement, size: int) -> None:
    with _asked(one, "PUT", size) as connection:
        deadline = time.monotonic() + SLOW_SECONDS
        while time.monotonic() < deadline:
            connection.sendall(ZEROS[:65536])
            time.sleep(0.1)


def _asked(one: Arrangement, method: str, size: int) -> socket.socket:
    parts = urlsplit(one.url)
    assert parts.hostname is not None
    assert parts.port is not None
    connection = socket.create_connection((parts.hostname, parts.port), timeout=300)
    if parts.scheme == "https":
        connection = UNVERIFIED.wrap_socket(connection)
    more = f"Content-Length: {size}\r\n" if method == "PUT" else ""
    if one.authorization:
        more += f"Authorization: {one.authorization}\r\n"
    connection.sendall(f"{method} {PATH}{size} HTTP/1.1\r\nHost: {parts.netloc}\r\n{more}\r\n".encode())
    return connection


def _answered(connection: socket.socket, size: int | None) -> None:
    """Read the answer; `size` is its body's, where that counts.

    Raises RuntimeError unless it is 200 and whole.
    """
    kept = b""
    while b"\r\n\r\n" not in kept:
        if not (data := connection.recv(65536)):
            raise RuntimeError(f"the connection ended: {kept!r}")
        kept += data
    head, _, body = kept.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200 "):
        raise RuntimeError(repr(kept[:1000]))
    if size is None:
        return
    left, buffer = size - len(body), memoryview(bytearray(PIECE))
    while left:
        if not (count := connection.recv_into(buffer)):
            raise RuntimeError(f"{left} bytes are missing")
        left -= count


def table(rows: Rows) -> str:
    """Markdown: medians, with the spread of the speed."""
    lines = [
        "| what | in front | MB/s | ± | CPU s a GiB | memory growth, most, MiB |",
        "| --- | --- | --: | --: | --: | --: |",
    ]
    order = list(dict.fromkeys(what for _, what in rows))
    for (name, what), row in sorted(rows.items(), key=lambda item: order.index(item[0][1])):
        speed = row.get("MB/s")
        shown = (
            f"{median(speed):,.0f} | {spread(speed):.0%} | {median(row['CPU s/GiB']):.2f}"
            if speed
            else "- | - | -"
        )
        lines.append(f"| {what} | {name} | {shown} | {max(row['growth MiB']):.1f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--mib", type=int, default=1024)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        began = time.monotonic()
        print(table(measure(Path(folder), rounds=asked.rounds, size=asked.mib * 2**20)))
        print(f"{time.monotonic() - began:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
