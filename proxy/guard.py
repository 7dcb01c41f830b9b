"""The small process between us and MLflow that leaves nothing behind, whoever of the two dies first.

It is started by path with ``python -I -S``, so it must import nothing of ours and little else. It is a
child subreaper: every orphan among MLflow's descendants, in whatever session, becomes its child, so "no
child left" (``ECHILD``) means "nothing left". It ends everything when ``mlflow server`` exits, when it is
told to on its standard input or by SIGTERM, and when that input closes: only the proxy holds the other end,
so that means the proxy is dead, however it died.

    python -I -S guard.py GRACE COMMAND...

Standard input takes lines: ``stop SECONDS``. Standard output gives one JSON object a line: ``started``
with the pid, ``exited`` with the code or the signal of ``mlflow server``, ``ended`` with how many had to be
killed. Standard error is MLflow's output, both of its streams. The environment is MLflow's.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
import time

PR_SET_CHILD_SUBREAPER = 36

# The guard's own exit codes.
ASKED = 0
"""It was told to stop, and has."""
EXITED = 10
"""``mlflow server`` went by itself; the rest was ended."""
ORPHANED = 11
"""The proxy is gone; everything was ended."""
NOT_STARTED = 12
"""The command could not be started."""

ORPHANED_GRACE = 2.0
"""Seconds for an orderly end when the proxy has died: nobody waits, and nothing may be left after 5 s."""
REST_GRACE = 1.0
"""Seconds for what is left once ``mlflow server`` has gone: its own helpers notice within 1 s."""

JOB_STORAGE = "_MLFLOW_HUEY_STORAGE_PATH"
"""Where MLflow says to its processes which directory its job queues are in (mlflow/server/__init__.py)."""


def become_subreaper() -> None:
    """Have orphaned descendants of this process become its children (prctl(2)).

    Raises OSError where the system has no such thing.
    """
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "prctl"):
        raise OSError("this system has no prctl(2): mlflow-proxy needs Linux")
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "PR_SET_CHILD_SUBREAPER was refused")


def stat(pid: int) -> tuple[str, int, int, int] | None:
    """State, parent's pid, session and start time (clock ticks since boot) of a process; None if there is
    none.

    Pid and start time together name a process for good. See proc_pid_stat(5).
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123 - pathlib is slow to import
            # The name in parentheses may itself hold spaces and parentheses.
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    if len(fields) < 20:
        return None
    return fields[0].decode(), int(fields[1]), int(fields[3]), int(fields[19])


def processes() -> list[int]:
    """The pids of all processes that can be seen."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208 - see above


def descendants(*roots: int) -> list[int]:
    """The living descendants of these processes, without the roots, parents first."""
    tree: dict[int, list[int]] = {}
    for pid in processes():
        if (known := stat(pid)) and known[0] not in "ZX":
            tree.setdefault(known[1], []).append(pid)
    found: list[int] = []
    waiting = list(roots)
    while waiting:
        below = [pid for pid in tree.pop(waiting.pop(), ()) if pid not in roots]
        found += below
        waiting += below
    return found


def environment_of(pid: int) -> dict[str, str]:
    """The environment that a process was started with; empty if it can't be read."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:  # noqa: PTH123
            text = file.read()
    except OSError:
        return {}
    entries = [entry.decode(errors="surrogateescape") for entry in text.split(b"\0") if b"=" in entry]
    return {name: value for name, _, value in (entry.partition("=") for entry in entries)}


def send(pids: list[int], number: int) -> int:
    """Send a signal to each, and return how many it reached."""
    reached = 0
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)
            reached += 1
    return reached


def remove_job_storage(path: str) -> bool:
    """Remove a directory that MLflow made for its job queues and never removes; True if it was there.

    Only a directory of ours that looks as ``tempfile.mkdtemp`` names it is touched: the name was read out
    of another process.
    """
    import shutil
    from stat import S_IMODE, S_ISDIR

    parent, name = os.path.split(path)
    if not parent.startswith("/") or not name.startswith("tmp"):
        return False
    try:
        known = os.lstat(path)
    except OSError:
        return False
    if not S_ISDIR(known.st_mode) or known.st_uid != os.getuid() or S_IMODE(known.st_mode) != 0o700:
        return False
    shutil.rmtree(path, ignore_errors=True)
    return True


class Guard:
    """One run of ``mlflow server``, from its start to the end of its last descendant."""

    def __init__(self, grace: float, command: list[str]) -> None:
        self.grace = grace
        self.command = command
        self.main = 0
        self.main_ended = False
        self.asked: float | None = None
        """Seconds of grace, once somebody has asked for the end."""
        self.outcome = EXITED
        self.input_open = True
        self.input = b""
        self.storage: set[str] = set()

    def run(self) -> int:
        """Run the command to its end and return the guard's exit code."""
        become_subreaper()
        self.wakeup, wakeup_in = os.pipe()
        os.set_blocking(self.wakeup, False)
        os.set_blocking(wakeup_in, False)
        signal.set_wakeup_fd(wakeup_in, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self.on_signal)
        try:
            self.main = os.posix_spawn(
                self.command[0],
                self.command,
                os.environ,
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_DUP2, 2, 1),
                ],
                setpgroup=0,
                setsigmask=[],
                setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],
            )
        except OSError as error:
            self.say(event="exited", error=f"{self.command[0]}: {error.strerror}")
            return NOT_STARTED
        self.say(event="started", pid=self.main)
        while self.asked is None and not self.main_ended:
            self.wait(None)
        killed = self.end()
        for path in self.storage:
            remove_job_storage(path)
        self.say(event="ended", killed=killed)
        return self.outcome

    def end(self) -> int:
        """End what is left: first in good order, then by force, until there is no child; how many were
        killed."""
        # MLflow's processes are asked now, while there are any, where their job queues are.
        for pid in descendants(os.getpid()):
            if path := environment_of(pid).get(JOB_STORAGE):
                self.storage.add(path)
        if not self.main_ended:
            send([self.main], signal.SIGTERM)
            asked_at = time.monotonic()
            # What was asked may be changed while we wait: a shorter grace, or the proxy's death.
            while not self.main_ended and (left := asked_at + (self.asked or 0.0) - time.monotonic()) > 0:
                self.wait(left)
        if self.main_ended:
            send(descendants(os.getpid()), signal.SIGTERM)
            deadline = time.monotonic() + REST_GRACE
            while self.reap() and (left := deadline - time.monotonic()) > 0:
                self.wait(left)
        killed = 0
        seen: set[int] = set()
        while self.reap():
            # Again and again: a process may fork while we look, and a new orphan comes to us.
            found = descendants(os.getpid())
            killed += send([pid for pid in found if pid not in seen], signal.SIGKILL)
            seen.update(found)
            select.select([], [], [], 0.01)
        return killed

    def wait(self, seconds: float | None) -> None:
        """Wait for a signal, a word from the proxy or its death, no longer than so many seconds."""
        watched = [self.wakeup, 0] if self.input_open else [self.wakeup]
        ready, _, _ = select.select(watched, [], [], seconds)
        if self.wakeup in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(self.wakeup, 4096)
        if 0 in ready:
            self.listen()
        self.reap()

    def listen(self) -> None:
        """Read what the proxy says, or that it is gone."""
        said = os.read(0, 4096)
        if not said:
            self.input_open = False
            self.outcome = ORPHANED
            self.asked = min(self.grace, ORPHANED_GRACE)
            return
        *lines, self.input = (self.input + said).split(b"\n")
        for line in lines:
            word, _, seconds = line.partition(b" ")
            if word == b"stop":
                self.outcome = ASKED
                self.asked = float(seconds)

    def on_signal(self, *_: object) -> None:
        if self.asked is None:
            self.outcome = ASKED
            self.asked = self.grace

    def reap(self) -> bool:
        """Take every child that has ended; False once there is no child at all."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            if pid == self.main:
                self.main_ended = True
                code = os.waitstatus_to_exitcode(status)
                self.say(event="exited", **({"code": code} if code >= 0 else {"signal": -code}))

    def say(self, **event: object) -> None:
        # The proxy may be dead, and MLflow is to be ended all the same.
        with contextlib.suppress(OSError):
            os.write(1, json.dumps(event).encode() + b"\n")


def main() -> int:
    return Guard(float(sys.argv[1]), sys.argv[2:]).run()


if __name__ == "__main__":
    sys.exit(main())
