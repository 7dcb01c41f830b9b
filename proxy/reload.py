"""Settings, secrets, users and certificates read again and taken up while the service runs, or not at all."""

from __future__ import annotations

import asyncio
import logging
import textwrap
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

from proxy import certificates, first_start
from proxy.audit import Audit, Outcome
from proxy.audit.commands import machine_user
from proxy.control import Say
from proxy.errors import UserError
from proxy.mlflow_server import MlflowServer
from proxy.settings import Loaded, Settings
from proxy.settings.compare import Comparison, compare
from proxy.store import Store

log = logging.getLogger("proxy.reload")


class Prepared(Protocol):
    """All of the service that is made from the settings anew, ready and not in use yet."""

    def take_up(self) -> None:
        """Have every request from now on go there. Does not block."""

    async def discard(self) -> None:
        """Close it unused."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What a reload works on."""

    reread: Callable[[], Loaded]
    """Reads all sources as the start did. Raises UserError."""
    prepare: Callable[[Settings, str], Awaitable[Prepared]]
    """Makes what depends on the settings; the second is the first user's password. Raises UserError."""
    mlflow: MlflowServer
    store: Store
    tls: certificates.TlsContext | None
    audit: Audit


@dataclass(frozen=True, slots=True)
class Operator:
    """Who asked for it: a user of this machine by a command, whoever sent the signal, or a secret's file that
    was exchanged."""

    way: str
    """``command``, ``signal`` or ``file``."""
    uid: int | None = None
    sudo: str | None = None
    """Who became that user by sudo, as their command says."""

    @classmethod
    def of(cls, asked: dict[str, Any]) -> Operator:
        """Of a command, as control.listening gives it."""
        sudo = asked.get("sudo")
        return cls("command", asked["uid"], sudo if isinstance(sudo, str) else None)


SIGNAL = Operator("signal")
FILE = Operator("file")
_ROOM = 500  # characters of a text in a line of the audit log


class Reloader:
    """Carries out one reload at a time. `loaded` is what is in force."""

    def __init__(self, loaded: Loaded, parts: Parts) -> None:
        self.loaded = loaded
        self._parts = parts
        self._one = asyncio.Lock()

    async def reload(self, say: Say = lambda _: None, *, by: Operator = SIGNAL, roll: bool = False) -> bool:
        """Read everything again and take up what can be; False where nothing was changed because of a
        mistake, or MLflow does not become ready with it.

        MLflow is restarted beside the running one where its part has changed, or with `roll` in any case.
        `say` gets each line for a person; the log has them too, and the audit log says that it was done, and
        `by` whom. No line holds a secret.
        """

        def tell(text: str, level: int = logging.INFO) -> None:
            log.log(level, "reload: %s", text)
            say(text)

        async with self._one:
            try:
                return await self._reload(tell, roll, by)
            except UserError as error:
                for line in str(error).splitlines():
                    tell(line, logging.ERROR)
                tell("nothing was changed", logging.ERROR)
                self._note(by, "failed", reason="mistake")
                return False

    def _note(self, by: Operator, outcome: Outcome, found: Comparison | None = None, **details: Any) -> None:
        """Have the audit log tell of it: which variables, never their values."""
        names: dict[str, list[str]] = {"changed": [], "left": []}
        for change in () if found is None else found.changes:
            names["left" if change.needs_start else "changed"].append(change.variable)
        for key, variables in names.items():
            texts = textwrap.wrap(", ".join(variables), _ROOM, break_long_words=False)
            details |= {
                f"{key}_{number}" if number > 1 else key: text for number, text in enumerate(texts, 1)
            }
        self._parts.audit.record(
            "settings_reloaded",
            user="" if by.uid is None else machine_user(by.uid),
            auth="" if by.uid is None else "command",
            outcome=outcome,
            way=by.way,
            sudo=by.sudo,
            **details,
        )

    async def _reload(self, tell: Callable[..., None], roll: bool, by: Operator) -> bool:
        parts = self._parts
        loaded = await asyncio.to_thread(parts.reread)
        found = compare(self.loaded, loaded)
        settings = found.settings
        for warning in loaded.warnings:
            tell(f"warning: {warning}", logging.WARNING)
        password = await asyncio.to_thread(first_start.check_password, settings)
        if settings.tls and settings.tls_cert_file is not None and settings.tls_key_file is not None:
            await asyncio.to_thread(certificates.read_pair, settings.tls_cert_file, settings.tls_key_file)
        other = await asyncio.to_thread(Store.open, settings) if found.moves_login else None
        taken = False
        try:
            roll = parts.mlflow.differs(settings, found.passthrough) or roll
            prepared = await parts.prepare(settings, password)

            def take() -> None:
                nonlocal taken
                taken = True
                prepared.take_up()
                if other is not None:
                    parts.store.take(other)
                self.loaded = replace(loaded, settings=settings)

            try:
                if roll:
                    tell("MLflow is started a second time beside the one that runs")
                    rolled = await parts.mlflow.roll(settings, found.passthrough, take)
                    tell(rolled.text, logging.INFO if rolled.ok else logging.ERROR)
                    for line in () if rolled.ok else rolled.lines:
                        tell(f"    {line[:500]}", logging.ERROR)
                    if not rolled.ok:
                        if taken:
                            self._note(by, "success", found, reason="not_ready")
                        else:
                            tell("nothing was changed", logging.ERROR)
                            self._note(by, "failed", reason="not_ready")
                        return False
                else:
                    parts.mlflow.adopt(settings)
                    take()
            finally:
                if not taken:
                    await prepared.discard()
        finally:
            if other is not None and not taken:
                other.close()
        if parts.tls is not None and await asyncio.to_thread(parts.tls.reload):
            tell("the renewed certificate is served")
        self._note(by, "success", found, restarted=roll)
        _conclude(found, roll, tell)
        return True


def _conclude(found: Comparison, rolled: bool, tell: Callable[..., None]) -> None:
    for change in found.changes:
        if change.needs_start:
            tell(f"{change.variable}: left as it is, it needs a restart of the service ({change.text})")
        else:
            tell(f"{change.variable}: {change.text}")
    taken = len(found.changes) - len(found.left)
    what = "nothing has changed in the settings" if not found.changes else f"{taken} settings taken up"
    left = f", {len(found.left)} left for a restart of the service" if found.left else ""
    tell(
        f"done: {what}{left}; users, keys and certificates were read again"
        f"{'' if rolled else '; MLflow runs on'}"
    )
