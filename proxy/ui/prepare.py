"""The small process that compresses the UI's files once, when nobody else wants the processor.

python -m proxy.ui.prepare FOLDER PACK DIGEST STAGE
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

from proxy.codings import compressed
from proxy.ui import pack
from proxy.ui.files import Files, scan

STAGES = {
    "quick": {"gzip": 6, "zstd": 9, "br": 5},
    "best": {"gzip": 9, "zstd": 19, "br": 11},
}
"""The levels of each coding. Of MLflow 3.17.2's 26.2 MB: quick makes 7.3, 6.7 and 6.6 MB in 1.7 s of one
processor, best 7.3, 6.2 and 5.9 MB in 51 s (docs/ui.md)."""
CHANGED = 3
"""Exit code: the files are not those of that digest."""
NO_ROOM = 4
"""Exit code: what was made could not be written; standard error says why."""

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
# What is smaller by less than this is served as it is.
_WORTH_IT = 0.95


def main(folder: Path, target: Path, digest: str, stage: str) -> int:
    """Make that pack; the exit code."""
    _stand_back(idle=stage != "quick")
    files = scan(folder)
    if files.digest != digest:
        return CHANGED
    try:
        pack.write(target, digest, _bodies(files, stage))
    except OSError as error:
        print(f"{error.strerror or error} ({target.parent})", file=sys.stderr)
        return NO_ROOM
    return 0


def _bodies(files: Files, stage: str) -> Iterator[tuple[str, str, bytes]]:
    parent = os.getppid()
    for file in files.by_name.values():
        if not file.compressible:
            continue
        data = file.source.read_bytes()
        if hashlib.sha256(data).hexdigest() != file.digest:
            sys.exit(CHANGED)
        for coding, level in STAGES[stage].items():
            if os.getppid() != parent:
                sys.exit(1)  # the service is gone
            smaller = compressed(data, coding, level)
            if len(smaller) < _WORTH_IT * len(data):
                yield file.name, coding, smaller


def _stand_back(*, idle: bool) -> None:
    """Let the others go first, and with `idle` run only when no other would; end with the service."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    with contextlib.suppress(OSError):
        os.nice(19)
    if idle:
        with contextlib.suppress(OSError, AttributeError):
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4]))
