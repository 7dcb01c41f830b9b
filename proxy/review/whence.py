"""What is told apart of addresses and user agents: networks, and programs by version; pure."""

from __future__ import annotations

import functools
import ipaddress
import re

_NUMBERS = re.compile(r"\d[\d._]*")
_REMEMBERED = 65536


@functools.lru_cache(_REMEMBERED)
def networks(address: str) -> tuple[str, str]:
    """The network that one customer has (IPv4 /24, IPv6 /64) and the one that it is part of (/16, /32)."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address, address
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
        found = found.ipv4_mapped
    narrow, wide = (24, 16) if found.version == 4 else (64, 32)
    return (
        str(ipaddress.ip_network((found, narrow), strict=False)),
        str(ipaddress.ip_network((found, wide), strict=False)),
    )


@functools.lru_cache(_REMEMBERED)
def program(agent: str) -> tuple[str, tuple[int, ...]]:
    """The user agent without its numbers, and those."""
    numbers = tuple(int(part) for part in re.findall(r"\d{1,9}", agent)[:32])
    return _NUMBERS.sub("#", agent)[:160], numbers


def is_browser(agent: str) -> bool:
    return agent.startswith("Mozilla/")
