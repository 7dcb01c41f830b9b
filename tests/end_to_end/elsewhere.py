"""Another machine, as far as the network goes: a namespace of its own, joined to us by one cable.

What runs there reaches this machine's address of the cable and nothing else; what listens on our loopback
interface is out of its reach. Needs root and iproute2.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import subprocess
from collections.abc import Iterator, Mapping

# For documentation (RFC 5737): nobody's. A machine may use one for itself all the same.
NETWORKS = ("198.51.100.0/30", "203.0.113.0/30", "192.0.2.0/30")


class Elsewhere:
    """`ours` is this machine's address, as seen from there."""

    def __init__(self, name: str, ours: str) -> None:
        self.name = name
        self.ours = ours

    def run(
        self, *command: str, env: Mapping[str, str] | None = None, timeout: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """A command there, to its end."""
        return subprocess.run(
            ["ip", "netns", "exec", self.name, *command],
            env=env,
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    def reaches(self, python: str, host: str, port: int) -> bool:
        """Whether a TCP connection can be made from there."""
        code = f"import socket; socket.create_connection(({host!r}, {port}), 3)"
        return self.run(python, "-c", code).returncode == 0


@contextlib.contextmanager
def elsewhere() -> Iterator[Elsewhere]:
    """A new one. Raises PermissionError where this process may not make it."""
    name, ours, theirs = f"mp-{os.getpid()}", f"mpa{os.getpid()}", f"mpb{os.getpid()}"
    if os.geteuid() != 0:
        raise PermissionError("only root makes network namespaces")
    our_address, their_address = _unused().hosts()
    try:
        _ip("netns", "add", name)
        try:
            _ip("link", "add", ours, "type", "veth", "peer", "name", theirs)
            _ip("link", "set", theirs, "netns", name)
            _ip("addr", "add", f"{our_address}/30", "dev", ours)
            _ip("link", "set", ours, "up")
            _ip("-n", name, "addr", "add", f"{their_address}/30", "dev", theirs)
            _ip("-n", name, "link", "set", theirs, "up")
            _ip("-n", name, "link", "set", "lo", "up")
            yield Elsewhere(name, str(our_address))
        finally:
            subprocess.run(["ip", "link", "del", ours], capture_output=True)
            subprocess.run(["ip", "netns", "del", name], capture_output=True)
    except subprocess.CalledProcessError as error:
        raise PermissionError(f"{' '.join(error.cmd)}: {error.stderr.strip()}") from error


def _unused() -> ipaddress.IPv4Network:
    """A network that none of this machine's routes but the default one leads to."""
    routes = json.loads(_ip("-j", "-4", "route", "show", "table", "all"))
    taken = [ipaddress.ip_network(route["dst"]) for route in routes if route["dst"] != "default"]
    for network in map(ipaddress.IPv4Network, NETWORKS):
        if not any(network.overlaps(other) for other in taken):
            return network
    raise PermissionError("this machine uses all networks of RFC 5737 itself")


def _ip(*arguments: str) -> str:
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True).stdout
