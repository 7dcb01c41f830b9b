"""Processes: what they have spent and hold, by their own accounts in /proc (proc(5)), and how they end."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterable
from pathlib import Path

_SBIN = "/usr/local/sbin:/usr/sbin:/sbin"  # where Debian has nginx, and not on everybody's PATH


def program(name: str) -> str | None:
    """Where it is; None where it is not."""
    return shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:{_SBIN}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def with_children(pid: int) -> list[int]:
    """That process and all below it."""
    found = [pid]
    for above in found:
        for task in Path(f"/proc/{above}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                found += map(int, task.read_text().split())
    return found


def cpu(pids: Iterable[int]) -> float:
    """Seconds of CPU that those processes have spent so far, also in threads that have ended."""
    ticks = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def resident(pids: Iterable[int]) -> int:
    """Bytes of memory that they hold now."""
    return _status(pids, "VmRSS")


def peak(pids: Iterable[int]) -> int:
    """Bytes that each held at most since its start, or since `forget_peak`."""
    return _status(pids, "VmHWM")


def forget_peak(pids: Iterable[int]) -> None:
    """Have `peak` begin anew."""
    for pid in pids:
        with contextlib.suppress(OSError):
            Path(f"/proc/{pid}/clear_refs").write_text("5")


def end(process: subprocess.Popen[bytes], patience: float = 60) -> None:
    """SIGTERM, and SIGKILL to it and all below it where that does not end it in so many seconds."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(patience)
    except subprocess.TimeoutExpired:
        for pid in with_children(process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()


def _status(pids: Iterable[int], name: str) -> int:
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            if found := re.search(rf"^{name}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.M):
                total += int(found[1]) * 1024
    return total
