"""Looks after the files that secrets were read from (NAME_FILE); what is exchanged in them is taken up."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Mapping

from proxy.settings import Loaded
from proxy.settings.sources import FileRead, mark_of, read_text

log = logging.getLogger("proxy.secret_watch")

INTERVAL = 2.0
"""Seconds between two looks. Only what two of them saw alike is taken up: a file may be in the middle of
being written, and of several mounted secrets each is exchanged by itself."""
FIRST_WAIT = 30.0
LONGEST_WAIT = 600.0
"""Seconds after which what could not be taken up is tried again, twice as long each time: a password may be
in the secret before the database knows it."""

Seen = dict[str, bytes | None]
"""What stands in the files, by variable: sources.mark_of, or None where one can't be read."""

_PROBLEM = "what is in the secrets' files could not be taken up; what was there before is in force"


class SecretWatch:
    """Reads them again and again. Kubernetes exchanges a mounted secret by moving the link `..data`, Vault
    by writing the file anew: so what they hold is looked at, and not when they were written."""

    def __init__(self, loaded: Callable[[], Loaded], reload: Callable[[], Awaitable[bool]]) -> None:
        """`loaded` is what is in force; `reload` has everything read again, and tells whether that did."""
        self._loaded = loaded
        self._reload = reload
        self._failed: Seen | None = None

    def checks(self) -> dict[str, str | None]:
        """For /readyz?verbose: what is wrong, or None; empty where there is nothing to look after."""
        if not self._files():
            return {}
        return {"secret-files": None if self._failed is None else _PROBLEM}

    async def run(self) -> None:
        """Look, for ever."""
        wait, again = FIRST_WAIT, math.inf
        while True:
            await asyncio.sleep(INTERVAL)
            seen = await self._look()
            if seen == self._in_force():
                self._failed, again = None, math.inf
                continue
            if seen == self._failed and time.monotonic() < again:
                continue
            await asyncio.sleep(INTERVAL)
            if await self._look() != seen or seen == self._in_force():
                continue
            wait = min(2 * wait, LONGEST_WAIT) if seen == self._failed else FIRST_WAIT
            in_force = self._in_force()
            log.info(
                "the files of %s have changed: everything is read again",
                ", ".join(name for name in sorted(seen) if seen[name] != in_force.get(name)),
            )
            self._failed = None if await self._taken_up() else seen
            again = math.inf if self._failed is None else time.monotonic() + wait

    async def _taken_up(self) -> bool:
        try:
            return await self._reload()
        except Exception:  # a defect; what is in force goes on, and so does the watch
            log.exception("the secrets could not be read again")
            return False

    def _files(self) -> Mapping[str, FileRead]:
        loaded = self._loaded()
        return loaded.files if loaded.settings.watch_secrets else {}

    def _in_force(self) -> Seen:
        return {name: file.mark for name, file in self._files().items()}

    async def _look(self) -> Seen:
        files = self._files()
        return await asyncio.to_thread(_read, files) if files else {}


def _read(files: Mapping[str, FileRead]) -> Seen:
    seen: Seen = {}
    for name, file in files.items():
        try:
            seen[name] = mark_of(read_text(file.path))
        except ValueError:
            seen[name] = None
    return seen
