"""How much memory MLflow's processes have."""

from __future__ import annotations

import re
from pathlib import Path

from proxy import guard

_SHARE = re.compile(rb"^Pss: +(\d+) kB$", re.MULTILINE)


def memory(root: int | None) -> int:
    """Bytes of a process and all below it, a page that several share counted once (Pss, proc_pid_smaps(5));
    0 where there is none. Takes milliseconds for each process."""
    if root is None:
        return 0
    total = 0
    for pid in (root, *guard.descendants(root)):
        try:
            found = _SHARE.search(Path(f"/proc/{pid}/smaps_rollup").read_bytes())
        except OSError:
            continue  # it has ended meanwhile, or its memory is not ours to see
        total += 1024 * int(found[1]) if found else 0
    return total
