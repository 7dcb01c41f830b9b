"""Takes out of MySQL's dumps whose triggers and views they were: nobody else could restore them.

`CREATE DEFINER=… TRIGGER` needs a right (SET USER, SUPER) that the owner of one database has not, and a new
server may have no such login. Without it they belong to whoever restores them, as all else does.
"""

from __future__ import annotations

import re

from proxy.backup.databases.kinds import Writer

_HEAD = re.compile(
    rb"(\n(?:/\*!50003 CREATE\*/ /\*!50017|/\*!50013) )DEFINER=`(?:[^`\n]|``)*`@`(?:[^`\n]|``)*` ?"
)
# A login has at most 80 characters and a host 255: the line's beginning is there in so many bytes.
_LINE = 2048


class WithoutDefiners:
    """Writes on without them. No row of a table can look like such a line: line breaks in values are written
    as ``\\n``."""

    def __init__(self, to: Writer) -> None:
        self._to = to
        self._left = b""

    def write(self, data: bytes, /) -> int:
        whole = self._left + data
        # What may be the beginning of such a line waits for more of it.
        at = whole.rfind(b"\n")
        end = at if at >= 0 and len(whole) - at < _LINE else len(whole)
        self._left = whole[end:]
        if end:
            self._to.write(_HEAD.sub(rb"\1", whole[:end]))
        return len(data)

    def end(self) -> None:
        """Write the rest."""
        if self._left:
            self._to.write(_HEAD.sub(rb"\1", self._left))
        self._left = b""
