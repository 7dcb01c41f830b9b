"""The settings in force as `mlflow-proxy check` prints them: name, value without secrets, where it was
set."""

from __future__ import annotations

from dataclasses import dataclass

from proxy.settings.load import Loaded
from proxy.settings.names import looks_secret
from proxy.settings.values import masked_uri
from proxy.settings.variables import KNOWN, SETTINGS, as_text


@dataclass(frozen=True, slots=True)
class Row:
    """One line: ``value`` holds no secret, and is in parentheses where it says what happens without one."""

    variable: str
    value: str
    origin: str


def describe(loaded: Loaded) -> list[Row]:
    """Every setting in the order of the docs, then what goes to MLflow unread, by name."""
    rows = []
    for name, variable in SETTINGS.items():
        value = getattr(loaded.settings, variable.attribute)
        if name in ("MLFLOW_BACKEND_STORE_URI", "PROXY_DATABASE_URL") and value is not None:
            # All but its password helps: which database it is.
            text = masked_uri(value.get_secret_value())
        else:
            text = masked_uri(as_text(value, variable.kind))
        if not text:
            text = f"({variable.default_note or 'not set'})"
        rows.append(Row(name, _one_line(text), loaded.origin[name]))
    for name in sorted(loaded.passthrough):
        rows.append(Row(name, _passthrough_value(name, loaded.passthrough[name]), loaded.origin[name]))
    return rows


def table(loaded: Loaded) -> str:
    """``describe`` in three columns, a line each."""
    rows = [Row("setting", "value", "from"), *describe(loaded)]
    first = max(len(row.variable) for row in rows)
    second = min(60, max(len(row.value) for row in rows))
    return "\n".join(f"{row.variable:<{first}}  {row.value:<{second}}  {row.origin}" for row in rows)


def _passthrough_value(name: str, text: str) -> str:
    """A value that we don't know is shown only where its name says that it is MLflow's own and no secret."""
    shown = not KNOWN[name].secret if name in KNOWN else name.startswith("MLFLOW_") and not looks_secret(name)
    return _one_line(masked_uri(text)) if shown else "***"


def _one_line(text: str) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
