"""Who is at the other end: the client's address, looked for behind the proxies that are trusted; pure."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

Network = IPv4Network | IPv6Network


def client_address(peer: str, forwarded_for: Sequence[bytes], trusted: Sequence[Network]) -> str:
    """The address of the client, as text.

    `peer` is who connected; `forwarded_for` the values of ``X-Forwarded-For`` in order. They are read from
    the right, as each proxy appends whom it saw: the first that is no trusted proxy is the client. What
    stands to the left of it anyone may have written, and an untrusted peer's are not read at all.
    """
    if not forwarded_for or not is_trusted(peer, trusted):
        return peer
    client = peer
    hops = b",".join(forwarded_for).decode("latin-1").split(",")
    for hop in reversed(hops):
        address = _parse(hop)
        if address is None:
            return client  # unreadable: the last proxy that wrote something readable is what we know
        client = str(address)
        if not any(address in network for network in trusted):
            return client
    return client


def is_trusted(peer: str, trusted: Sequence[Network]) -> bool:
    """Whether a connection from `peer` comes from one of the proxies in `trusted`."""
    if not trusted:
        return False
    address = _parse(peer)
    return address is not None and any(address in network for network in trusted)


def _parse(text: str) -> IPv4Address | IPv6Address | None:
    text = text.strip().strip('"')
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    # A zone (RFC 4007) names an interface of whoever wrote it, in any characters at all.
    text = text.partition("%")[0]
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address
