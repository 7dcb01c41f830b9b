"""The systemd units of ops/systemd: what they start is there, and systemd itself finds no fault with them."""

from __future__ import annotations

import configparser
import subprocess
from pathlib import Path

import click
import pytest
from programs import program

from proxy.cli import main
from proxy.settings.variables import SETTINGS

UNITS = Path(__file__).parent.parent / "ops" / "systemd"
NAMES = ("backup", "drill")


def unit(name: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(UNITS / name)
    return parser


@pytest.mark.parametrize("name", NAMES)
def test_each_timer_starts_a_command_that_there_is(name: str) -> None:
    service = unit(f"mlflow-proxy-{name}.service")["Service"]
    _, command = service["ExecStart"].split()
    assert command == name
    assert isinstance(main.get_command(click.Context(main), name), click.Command)
    assert service["Type"] == "oneshot"
    timer = unit(f"mlflow-proxy-{name}.timer")
    assert timer["Timer"]["Persistent"] == "true"
    assert timer["Install"]["WantedBy"] == "timers.target"
    for line in (UNITS / f"mlflow-proxy-{name}.service").read_text().splitlines():
        if line.startswith("Environment="):
            assert line.removeprefix("Environment=").partition("=")[0] in SETTINGS


def test_both_run_as_the_same_user_on_the_same_directory() -> None:
    backup, drill = (unit(f"mlflow-proxy-{name}.service")["Service"] for name in NAMES)
    for key in ("User", "Group", "StateDirectory", "WorkingDirectory", "ProtectSystem", "NoNewPrivileges"):
        assert backup[key] == drill[key], key
    assert "LoadCredential" in drill
    assert "LoadCredential" not in backup, "a backup needs no secret key"


def test_systemd_finds_no_fault_with_them(tmp_path: Path) -> None:
    analyze = program("systemd-analyze")
    if analyze is None:
        return  # the tests above hold all the same
    for path in UNITS.iterdir():
        # It wants a program that is there.
        text = path.read_text().replace("/opt/mlflow-proxy/bin/mlflow-proxy", "/bin/true")
        (tmp_path / path.name).write_text(text)
    done = subprocess.run(
        [analyze, "verify", *sorted(map(str, tmp_path.iterdir()))], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
