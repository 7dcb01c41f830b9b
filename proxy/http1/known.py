"""Heads of answers that were parsed, for those that are the same byte for byte and need no parser."""

from __future__ import annotations

Headers = list[tuple[bytes, bytes]]

LONGEST = 16 * 1024
"""Bytes of an answer, its head and its body, that are looked at; a longer one costs more than its parsing."""
_LONGEST_HEAD = 4096
_MOST = 512


class Known:
    """What the parser said of a head, which holds for every one of the same bytes. Nobody changes it."""

    __slots__ = ("headers", "length", "reusable", "status")

    def __init__(self, status: int, headers: Headers, length: int, reusable: bool) -> None:
        self.status = status
        self.headers = headers
        self.length = length
        """Of the body, in bytes, as Content-Length says."""
        self.reusable = reusable
        """Whether the connection may carry another exchange."""


_heads: dict[bytes, Known] = {}


def known(data: bytes) -> tuple[Known, bytes] | None:
    """The head, and the body, where `data` is one answer with such a head, whole and nothing else."""
    end = data.find(b"\r\n\r\n") + 4
    head = _heads.get(data[:end])
    if head is None or head.length != len(data) - end:
        return None
    return head, data[end:]


def keep(data: bytes, status: int, headers: Headers, reusable: bool) -> Known | None:
    """Note what the parser found in `data`, one whole answer, where its body is framed by its length.

    What stands behind the first empty line has to be that body, so that this line is where the parser saw the
    head's end (RFC 9112, section 2.1).
    """
    length = -1
    for name, value in headers:
        if name == b"transfer-encoding" or (name == b"content-length" and length >= 0):
            return None
        if name == b"content-length":
            length = int(value)
    end = data.find(b"\r\n\r\n") + 4
    if status in (204, 304) or length < 0 or len(data) - end != length or end > _LONGEST_HEAD:
        return None
    if len(_heads) >= _MOST:
        _heads.clear()  # a Date is in them: most are of seconds that are over
    found = _heads[data[:end]] = Known(status, headers, length, reusable)
    return found
