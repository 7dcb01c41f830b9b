"""Which process has the other end of a Unix socket's connection; Linux tells, by sock_diag(7)."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Iterable

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_REQUEST = 1
_ALL = 0xFFFFFFFF
_SHOW_PEER = 4
_PEER = 2
_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr
_QUESTION = struct.Struct("=BBHIIIII")  # struct unix_diag_req
_ATTRIBUTES = _HEADER.size + 16  # struct unix_diag_msg stands between
_ATTRIBUTE = struct.Struct("=HH")


def holder(connection: int, processes: Iterable[int]) -> int | None:
    """The first of those processes that has the other end of the connection with that descriptor; None where
    none has, or nobody can tell.

    SO_PEERCRED won't do: it names the process that began to listen, which is not the one that accepted.
    """
    try:
        other = _other_end(os.fstat(connection).st_ino)
    except OSError:
        return None  # not this kernel, or the connection has ended
    wanted = f"socket:[{other}]"
    for pid in processes:
        with contextlib.suppress(OSError):
            folder = f"/proc/{pid}/fd"
            for name in os.listdir(folder):  # noqa: PTH208 - hundreds of names, each a string at once
                with contextlib.suppress(OSError):
                    if os.readlink(f"{folder}/{name}") == wanted:  # noqa: PTH115
                        return pid
    return None


def _other_end(inode: int) -> int:
    """The inode of the socket at the other end. Raises OSError."""
    size = _HEADER.size + _QUESTION.size
    question = _HEADER.pack(size, _SOCK_DIAG_BY_FAMILY, _REQUEST, 1, 0)
    question += _QUESTION.pack(socket.AF_UNIX, 0, 0, _ALL, inode, _SHOW_PEER, _ALL, _ALL)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, _NETLINK_SOCK_DIAG) as netlink:
        netlink.settimeout(1)
        netlink.send(question)
        answer = netlink.recv(4096)
    if _HEADER.unpack_from(answer)[1] != _SOCK_DIAG_BY_FAMILY:
        raise OSError("no such socket")
    place = _ATTRIBUTES
    while place + _ATTRIBUTE.size <= len(answer):
        length, kind = _ATTRIBUTE.unpack_from(answer, place)
        if kind == _PEER:
            (inode,) = struct.unpack_from("=I", answer, place + _ATTRIBUTE.size)
            return int(inode)
        place += max(length + 3 & ~3, _ATTRIBUTE.size)
    raise OSError("it has no other end")
