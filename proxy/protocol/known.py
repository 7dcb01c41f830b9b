"""Requests that begin as the one before them on their connection did, and so need not be parsed; pure."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from proxy.headers import Asked

# A request line that can be read in one way only: no escape in its path, and RFC 3986's characters alone.
_LINE = re.compile(
    rb"[A-Z]+ (/[A-Za-z0-9/:@!$&'()*+,;=~._-]*)(?:\?([A-Za-z0-9/?:@!$&'()*+,;=~._%-]*))? HTTP/1\.1(?=\r\n)"
)
_LONGEST_LINE = 16 * 1024
# A head is kept for as long as its connection is there, whoever sent it.
_LONGEST_HEAD = 8 * 1024
# What in the scope of a request belongs to its connection, its method and its headers.
_SAME = frozenset(
    {"type", "asgi", "http_version", "server", "client", "scheme", "root_path", "headers", "state", "method"}
    | {"connection_lost", "unsent", "hidden"}
)


class Known(NamedTuple):
    """A plain request that was parsed.

    What the parser said of its head holds for every one that is the same, byte for byte, but for the target.
    """

    begin: bytes
    """Its method and a space."""
    rest: bytes
    """Its head from the end of its first line on."""
    length: int
    """Of its body."""
    asked: Asked
    scope: dict[str, Any]
    """What its scope has in common with the next one's."""

    def again(self, data: bytes) -> tuple[dict[str, Any], bytes] | None:
        """Scope and body, where that is one such request, whole and nothing else; else None."""
        if not data.startswith(self.begin):
            return None
        line = _LINE.match(data, 0, _LONGEST_LINE)
        if line is None or not data.startswith(self.rest, line.end()):
            return None
        body = data[line.end() + len(self.rest) :]
        if len(body) != self.length:
            return None
        path, query = line.groups(b"")
        scope = self.scope.copy()
        scope["path"] = path.decode("ascii")
        scope["raw_path"] = path
        scope["query_string"] = query
        return scope, body


def known_of(data: bytes, scope: dict[str, Any], asked: Asked) -> Known | None:
    """What to keep of a plain request that the parser found in `data`, and nothing else in there.

    None where the parts of `data` are not what they seem: what stands behind the first empty line has to be
    its body, so that this line is where the parser saw the head's end.
    """
    begin = scope["method"].encode("ascii") + b" "
    line_ends, head_ends = data.find(b"\r\n"), data.find(b"\r\n\r\n") + 4
    length = asked.length or 0
    if not data.startswith(begin) or line_ends < 0 or len(data) - head_ends != length:
        return None
    if head_ends > _LONGEST_HEAD:
        return None
    kept = {name: value for name, value in scope.items() if name in _SAME}
    return Known(begin, data[line_ends:head_ends], length, asked, kept)
