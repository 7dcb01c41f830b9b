"""What is different between the settings in force and those read again, and what of it can be taken up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import SecretStr
from sqlalchemy import make_url

from proxy.settings.database import proxy_database_uri
from proxy.settings.fields import Settings
from proxy.settings.load import Loaded
from proxy.settings.table import describe
from proxy.settings.variables import SETTINGS

AT_START = frozenset(
    {
        "host",
        "port",
        "metrics_address",
        "tls",
        "tls_cert_file",
        "tls_key_file",
        "data_dir",
        "runtime_dir",
        "audit",
        "audit_file",
        "audit_max_size",
        "audit_key",
        "log_format",
        "access_log_file",
        "log_file",
        "log_max_size",
        "log_keep",
    }
)
"""The settings that are read at start alone: what hangs on them is opened once and stays."""


@dataclass(frozen=True, slots=True)
class Change:
    """One variable that is different, as a person may read it."""

    variable: str
    text: str
    needs_start: bool = False
    """Whether it is taken up by a full restart of the service alone."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """What is different, and the settings that can be in force without a restart of the service."""

    changes: tuple[Change, ...]
    settings: Settings
    passthrough: dict[str, str]
    moves_login: bool
    """Whether PROXY_DATABASE_URL names another login of the same database."""

    @property
    def left(self) -> tuple[Change, ...]:
        """What only a full restart takes up."""
        return tuple(change for change in self.changes if change.needs_start)


def compare(old: Loaded, new: Loaded) -> Comparison:
    """Compare what is in force with what was read; pure. Secrets' values are in no text."""
    before = {row.variable: row.value for row in describe(old)}
    after = {row.variable: row.value for row in describe(new)}
    kept: dict[str, Any] = {}
    changes = []
    moves = False
    for name, variable in SETTINGS.items():
        attribute = variable.attribute
        one, other = getattr(old.settings, attribute), getattr(new.settings, attribute)
        if one == other:
            continue
        at_start = attribute in AT_START
        if attribute == "database_url":
            moves = _same_database(old.settings, new.settings)
            at_start = not moves
        if at_start:
            kept[attribute] = one
        shown = isinstance(one, SecretStr) or isinstance(other, SecretStr) or before[name] == after[name]
        text = "changed" if shown else f"{before[name]} -> {after[name]}"
        changes.append(Change(name, text, at_start))
    for name in sorted(old.passthrough.keys() | new.passthrough.keys()):
        if old.passthrough.get(name) != new.passthrough.get(name):
            was, now = name in old.passthrough, name in new.passthrough
            changes.append(Change(name, "changed" if was and now else "removed" if was else "added"))
    settings = new.settings.model_copy(update=kept) if kept else new.settings
    return Comparison(tuple(changes), settings, new.passthrough, moves)


def _same_database(old: Settings, new: Settings) -> bool:
    """Whether the two URLs differ in who connects alone."""
    one, other = (make_url(proxy_database_uri(settings)) for settings in (old, new))
    if one.get_backend_name() == "sqlite":
        return False
    return one._replace(username=None, password=None) == other._replace(username=None, password=None)
