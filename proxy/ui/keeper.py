"""The UI's files as they can be served just now: looked at in the background, compressed there, kept."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import logging
import sys
import time
from pathlib import Path

from proxy.ui import prepare
from proxy.ui.files import File, Files, folder, scan
from proxy.ui.pack import UNFINISHED, Body, Pack, Unusable

log = logging.getLogger("proxy.ui")

BEST_AFTER = 30.0
"""Seconds after which the slow stage begins: MLflow has started by then, mostly, and has the processor."""
# What is kept in memory of the compressed bodies: all that one kind of browser asks for.
_MEMORY = 16 << 20


class Keeper:
    """One for the whole life of the service. `run` works until everything is there."""

    def __init__(self, data: Path, root: Path | None = None, best_after: float = BEST_AFTER) -> None:
        """`data` is where the compressed files are kept; `root` where the files are, the installed MLflow's
        unless given."""
        self.files: Files | None = None
        """None until they were looked at, and where there are none."""
        self._data = data
        self._root = root
        self._best_after = best_after
        self._pack: Pack | None = None
        self._read: dict[tuple[str, str], bytes] = {}
        self._bytes = 0
        self._wanted = asyncio.Event()

    def want_compressed(self) -> None:
        """Compress them, if that has not been done."""
        self._wanted.set()

    def bodies(self, file: File) -> dict[str, Body]:
        """That file's compressed bodies by coding; none where it isn't compressed yet."""
        return {} if self._pack is None else self._pack.bodies.get(file.name, {})

    async def read(self, file: File, coding: str) -> tuple[Body, bytes]:
        """A body that `bodies` names. Raises OSError."""
        pack = self._pack
        assert pack is not None
        body = pack.bodies[file.name][coding]
        data = self._read.get((file.name, coding))
        if data is None or len(data) != body.size:
            data = await asyncio.to_thread(pack.read, body)
            if pack is self._pack and self._bytes + body.size <= _MEMORY:
                self._bytes += body.size if (file.name, coding) not in self._read else 0
                self._read[file.name, coding] = data
        return body, data

    async def run(self) -> None:
        """Look at the files, and see to it that they are there compressed."""
        root = self._root or await asyncio.to_thread(folder)
        if root is None:
            log.info("the installed MLflow has no UI of its own: what is asked of it, MLflow answers")
            return
        began = time.monotonic()
        try:
            self.files = await asyncio.to_thread(scan, root)
        except OSError as error:
            log.warning("the UI's files can't be read, so MLflow serves them: %s", error)
            return
        await self._wanted.wait()
        names = self._names(self.files)
        await asyncio.to_thread(self._tidy, set(names.values()))
        if await self._take(names["best"]):
            return
        if not await self._take(names["quick"]) and not await self._make(root, "quick", names["quick"]):
            return
        await asyncio.sleep(max(0.0, began + self._best_after - time.monotonic()))
        if await self._make(root, "best", names["best"]):
            await asyncio.to_thread(self._tidy, {names["best"]})

    def _names(self, files: Files) -> dict[str, Path]:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            version = importlib.metadata.version("mlflow")
        key = f"{version}-{files.digest[:16]}"
        return {stage: self._data / f"{key}.{stage}" for stage in prepare.STAGES}

    def _tidy(self, kept: set[Path]) -> None:
        """Remove what is left of other versions, and of what was never finished."""
        with contextlib.suppress(OSError):
            for path in self._data.iterdir():
                if path not in kept and (path.suffix[1:] in prepare.STAGES or path.name.endswith(UNFINISHED)):
                    path.unlink()

    async def _take(self, path: Path) -> bool:
        """Serve that pack from now on, if it is whole."""
        assert self.files is not None
        try:
            pack = await asyncio.to_thread(Pack, path, self.files.digest)
        except OSError:
            return False
        except Unusable as error:
            log.warning("%s is made anew: %s", path, error)
            return False
        self._pack, self._read, self._bytes = pack, {}, 0
        return True

    async def _make(self, root: Path, stage: str, path: Path) -> bool:
        """Have a pack made, and serve it; False where that can't be, which the log then says."""
        assert self.files is not None
        began = time.monotonic()
        try:
            await asyncio.to_thread(self._data.mkdir, mode=0o700, exist_ok=True)
        except OSError as error:
            self._say_uncompressed(f"{error.strerror} ({self._data})")
            return False
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "proxy.ui.prepare"),
            *(str(root), str(path), self.files.digest, stage),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            _, said = await process.communicate()
        except asyncio.CancelledError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            await asyncio.to_thread(self._tidy, set(self._names(self.files).values()))
            raise
        if process.returncode != 0 or not await self._take(path):
            lines = said.decode("utf-8", "replace").strip().splitlines()
            why = lines[-1] if lines else f"exit code {process.returncode}"
            if process.returncode == prepare.CHANGED:
                why = "the installed MLflow has changed since the start"
            self._say_uncompressed(why)
            return False
        log.info("the UI's files are there compressed (%s, %.0f s)", stage, time.monotonic() - began)
        return True

    def _say_uncompressed(self, why: str) -> None:
        what = "uncompressed" if self._pack is None else "compressed less well"
        log.warning("the UI's files are served %s: %s", what, why)
