"""What the commands do beside their work: who did it stands in the audit log, and mistakes are one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from service import clean_environment


def run(folder: Path, *words: str, given: str = "", **settings: str) -> subprocess.CompletedProcess[str]:
    """A command as somebody runs it in that folder."""
    return subprocess.run(
        [sys.executable, "-m", "proxy", *words],
        cwd=folder,
        env=clean_environment(**settings),
        input=given,
        capture_output=True,
        text=True,
        timeout=60,
    )


def works(folder: Path, *words: str, given: str = "") -> str:
    done = run(folder, *words, given=given)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a service has run."""
    (tmp_path / "mlflow-data").mkdir(mode=0o700)
    (tmp_path / "mlflow.env").write_text("PROXY_USERS_FILE=users\n")
    (tmp_path / "users").touch(0o600)
    return tmp_path


def test_what_commands_change_stands_in_the_audit_log(folder: Path) -> None:
    works(folder, "users", "add", "ann", "--role", "editor", "--stdin", given="kestrel-lantern-42\n")
    works(folder, "users", "passwd", "ann", "--role", "viewer")
    works(folder, "users", "passwd", "ann", "--stdin", given="lantern-kestrel-43\n")
    secret = works(folder, "token", "create", "--user", "ann", "--name", "nightly", "--days", "7").strip()
    works(folder, "service-account", "add", "trainer")
    works(folder, "service-account", "remove", "trainer")
    works(folder, "token", "revoke", "ann")
    works(folder, "users", "remove", "ann")
    text = (folder / "mlflow-data" / "audit" / "audit-commands.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    told = [(line["event"], line["target"].get("user")) for line in lines if "chain" not in line["event"]]
    assert told == [
        ("user_added", "ann"),
        ("role_changed", "ann"),
        ("password_changed", "ann"),
        ("token_created", "ann"),
        ("service_account_created", "service:trainer"),
        ("service_account_removed", "service:trainer"),
        ("token_revoked", "ann"),
        ("user_removed", "ann"),
    ]
    assert {line["auth"] for line in lines if line["event"] == "user_added"} == {"command"}
    for kept_out in (secret, "kestrel", "lantern"):
        assert kept_out not in text
    assert "as they were written" in works(folder, "audit", "verify")


def test_the_secret_alone_goes_to_standard_output(folder: Path) -> None:
    works(folder, "service-account", "add", "trainer")
    done = run(folder, "token", "create", "--service-account", "trainer", "--name", "x", "--read-only")
    assert done.stdout.startswith("mlfsat_")
    assert len(done.stdout.splitlines()) == 1
    assert "editor, read-only, until" in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("token", "create", "--name", "x"), "say whose token it is"),
        (("token", "create", "--name", "x", "--user", "nobody"), "nobody named 'nobody' has a password here"),
        (("token", "create", "--name", "x", "--service-account", "y"), "here is no service account 'y'"),
        (("token", "create", "--name", "x", "--user", "admin", "--days", "9999"), "365 days"),
        (("token", "renew", "0123456789"), "no token has"),
        (("token", "revoke", "0123456789"), "no token has"),
        (("service-account", "remove", "y"), "here is no service account 'y'"),
        (("audit", "verify"), "no audit log was written there yet"),
    ],
)
def test_a_mistake_is_one_line_that_says_what_is_wrong(
    folder: Path, words: tuple[str, ...], said: str
) -> None:
    done = run(folder, *words)
    assert done.returncode == 1
    assert done.stderr.startswith("mlflow-proxy: ")
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert not done.stdout


def test_without_a_service_s_data_the_commands_say_where_they_looked(tmp_path: Path) -> None:
    done = run(tmp_path, "token", "list")
    assert done.returncode == 1
    assert f"{tmp_path}{os.sep}mlflow-data" in done.stderr
    assert "--data-dir" in done.stderr
