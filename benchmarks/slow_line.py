"""A machine at the end of a slow line: a network namespace whose cable is as slow and as long as it is told.

The cable is a pair of TUN devices and a process that carries the packets between them: each waits for those
before it (the rate), then for the way (the delay), and is dropped where too many wait. `tc` does the same
where the kernel has netem, which many a virtual machine's has not. Needs root, iproute2 and /dev/net/tun.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import struct
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "end_to_end"))

from elsewhere import Elsewhere, _ip, _unused

_TUNSETIFF = 0x400454CA  # linux/if_tun.h
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000
QUEUE = 0.2
"""Seconds that a packet waits at most for those before it; a later one is dropped."""
_LONGEST = 65536


@contextlib.contextmanager
def at_the_end(rate: float, delay: float) -> Iterator[Elsewhere]:
    """A new one; `rate` in bits a second, `delay` in seconds, both each way. Raises PermissionError."""
    if os.geteuid() != 0:
        raise PermissionError("only root makes network namespaces")
    name, ours, theirs = f"ml-{os.getpid()}", f"mla{os.getpid()}", f"mlb{os.getpid()}"
    our_address, their_address = _unused().hosts()
    ends = [_device(ours), _device(theirs)]
    carrier = None
    try:
        _ip("netns", "add", name)
        _ip("link", "set", theirs, "netns", name)
        for of, device, one, other in (
            ((), ours, our_address, their_address),
            (("-n", name), theirs, their_address, our_address),
        ):
            _ip(*of, "addr", "add", str(one), "peer", str(other), "dev", device)
            _ip(*of, "link", "set", device, "up")
        _ip("-n", name, "link", "set", "lo", "up")
        carrier = subprocess.Popen(
            [sys.executable, __file__, *map(str, ends), str(rate), str(delay)], pass_fds=ends
        )
        yield Elsewhere(name, str(our_address))
    finally:
        if carrier is not None:
            carrier.kill()
            carrier.wait()
        for end in ends:
            os.close(end)
        subprocess.run(["ip", "netns", "del", name], capture_output=True)


def _device(name: str) -> int:
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH", name.encode(), _IFF_TUN | _IFF_NO_PI))
    return descriptor


def carry(ends: tuple[int, int], rate: float, delay: float) -> None:
    """Carry packets between both, for ever."""
    with contextlib.suppress(OSError):
        os.nice(-10)
    under_way: dict[int, deque[tuple[float, bytes]]] = {end: deque() for end in ends}
    free_at = dict.fromkeys(ends, 0.0)
    while True:
        first = min((queue[0][0] for queue in under_way.values() if queue), default=None)
        patience = None if first is None else max(0.0, first - time.monotonic())
        readable, _, _ = select.select(ends, (), (), patience)
        now = time.monotonic()
        for end in readable:
            to = ends[1] if end == ends[0] else ends[0]
            with contextlib.suppress(BlockingIOError):
                while packet := os.read(end, _LONGEST):
                    start = max(now, free_at[to])
                    if start - now <= QUEUE:
                        free_at[to] = start + 8 * len(packet) / rate
                        under_way[to].append((free_at[to] + delay, packet))
        now = time.monotonic()
        for to, queue in under_way.items():
            while queue and queue[0][0] <= now:
                with contextlib.suppress(OSError):  # its end is not up
                    os.write(to, queue.popleft()[1])


if __name__ == "__main__":
    carry((int(sys.argv[1]), int(sys.argv[2])), float(sys.argv[3]), float(sys.argv[4]))
