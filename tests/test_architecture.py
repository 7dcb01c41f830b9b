"""The house: who may import whom, and one door for each outside library (docs/architecture.md)."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "proxy"
FILES = sorted(ROOT.rglob("*.py"))

# What a room may import of ours. A room that is not named here may import anything but what ONLY_FOR says.
MAY_IMPORT = {
    "identity": set(),
    "errors": set(),
    "exchange": {"identity", "operations"},
    "operations": set(),
    "paths": set(),
    "addresses": set(),
    "cross_origin": set(),
    "hosts": set(),
    "server_info": set(),
    "http1": set(),
    "private_file": set(),
    "guard": set(),
    "access": {"identity", "operations"},
    "bodies": {"operations"},
    "verified_names": {"bodies", "exchange", "identity", "operations"},
    "audit": {"errors", "exchange", "identity", "logs", "operations", "private_file", "settings", "store"},
    "headers": {"exchange", "identity"},
    "metrics": {"exchange"},
    "history": {"metrics"},
    "logs": {"errors", "exchange", "identity", "operations"},
    "hold": {"exchange", "slots"},
    "slots": {"operations"},
    "watchdog": {"exchange"},
    "settings": {"errors", "identity"},
    "store": {"errors", "private_file", "settings"},
    "forward": {
        "bodies", "codings", "compression", "exchange", "headers", "hold", "http1", "identity", "operations",
        "server_info", "slots", "verified_names", "watchdog",
    },
    "auth": {"audit", "errors", "exchange", "identity", "private_file", "settings", "store"},
    "pages": {"errors", "exchange", "history", "identity", "metrics"},
    "review": {"codings", "errors", "logs", "operations", "private_file"},
    "ui_script": {"exchange"},
    "secret_watch": {"settings"},
    "lane": {
        "compression", "edge", "exchange", "forward", "gate", "headers", "http1", "operations", "slots",
        "watchdog",
    },
    "protocol": {"headers", "held_back"},
    "held_back": set(),
    "codings": set(),
    "compression": {"codings"},
    "ui": {"codings", "exchange"},
    "tracing": {"exchange"},
    "backup": {"errors", "guard", "metrics", "mlflow_server", "private_file", "settings"},
    "probes": {"auth", "certificates", "http1", "metrics", "mlflow_server", "settings", "store"},
}  # fmt: skip
# Which rooms may import that one.
ONLY_FOR = {"app": {"serve"}, "serve": {"cli"}, "cli": {"__main__"}}
# The one door of each outside library.
DOORS = {
    "httptools": {"http1"},
    "uvicorn": {"protocol", "servers"},
    "uvloop": {"serve"},
    "prometheus_client": {"metrics"},
    "opentelemetry": {"tracing"},
    "brotli": {"codings"},
    "backports": {"backup", "codings"},
    "pyrage": {"backup"},
    "boto3": {"backup"},
    "azure": {"backup"},
    "google": {"backup"},
    "argon2": {"auth"},
    "bcrypt": {"auth"},
    # The sessions encrypt the provider's tokens (auth/session/sealing.py).
    "cryptography": {"certificates", "auth"},
    "itsdangerous": {"auth"},
    "authlib": {"auth"},
    "httpx2": {"auth"},
    "alembic": {"store"},
    "jinja2": {"pages"},
    "sqlalchemy": {"backup", "doctor", "settings", "mlflow_server", "store"},
    "click": {"cli"},
    "pydantic": {"settings"},
    "pydantic_settings": {"settings"},
    "dotenv": {"settings"},
    "yaml": {"settings"},
    # What MLflow is started with runs inside its own process; nothing of it is loaded into ours.
    # Of the drill its client alone, which is a process of its own too.
    "mlflow": {"backup", "doctor", "mlflow_server"},
}
# The standard library alone, because they run before or apart from everything else.
BARE = {"guard.py"}


def _room(path: Path) -> str:
    parts = path.relative_to(ROOT).parts
    return parts[0].removesuffix(".py")


def _imports(path: Path) -> set[str]:
    """Dotted names that the file imports, also within functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            if node.module == "proxy":
                found.update(f"proxy.{alias.name}" for alias in node.names)
            else:
                found.add(node.module)
    return found


def _rooms_imported(path: Path) -> set[str]:
    own = {name.split(".")[1] for name in _imports(path) if name.startswith("proxy.")}
    return own - {_room(path), "__version__"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_room_imports_only_what_it_may(path: Path) -> None:
    room, imported = _room(path), _rooms_imported(path)
    if room in MAY_IMPORT:
        assert imported <= MAY_IMPORT[room], f"{room} must not know {imported - MAY_IMPORT[room]}"
    for guarded, users in ONLY_FOR.items():
        assert guarded not in imported or room in users, f"only {users} may import {guarded}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_an_outside_library_has_one_door(path: Path) -> None:
    for name in _imports(path):
        doors = DOORS.get(name.partition(".")[0])
        assert doors is None or _room(path) in doors, f"{name} is imported through {doors} alone"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_opens_with_one_sentence_that_names_its_room(path: Path) -> None:
    text = path.read_text()
    assert text.startswith('"""'), "no docstring"
    first = ast.get_docstring(ast.parse(text))
    assert first is not None
    assert first.split("\n\n")[0].rstrip().endswith((".", ":")), first


def test_the_guard_needs_nothing_but_the_standard_library() -> None:
    for name in BARE:
        assert not any(module.startswith("proxy") for module in _imports(ROOT / name))
