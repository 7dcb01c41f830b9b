"""`mlflow-proxy login` as a person runs it: in a process of its own, with a home directory of its own."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from service import clean_environment

COMMAND = (sys.executable, "-m", "mlflow_proxy_client")


@dataclass
class Person:
    """Somebody with a home directory; `environment` is what else is set."""

    home: Path
    environment: dict[str, str] = field(default_factory=dict)
    command: tuple[str, ...] = COMMAND

    @property
    def folder(self) -> Path:
        return self.home / ".mlflow"

    def variables(self, **more: str) -> dict[str, str]:
        """As of somebody at a machine without a display."""
        variables = clean_environment(HOME=str(self.home), **self.environment, **more)
        for name in ("DISPLAY", "WAYLAND_DISPLAY", "SSH_CONNECTION", "SSH_TTY"):
            variables.pop(name, None)
        return variables

    def run(self, *arguments: str, typed: str = "", **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self.command, *arguments],
            input=typed,
            capture_output=True,
            text=True,
            timeout=90,
            env=self.variables(**more),
        )

    def done(self, *arguments: str, **more: str) -> str:
        """What it prints, where it must succeed."""
        run = self.run(*arguments, **more)
        assert run.returncode == 0, run.stderr
        return run.stdout

    def refused(self, *arguments: str, **more: str) -> str:
        """What it says, where it must fail: one line for a person."""
        run = self.run(*arguments, **more)
        assert run.returncode == 1, (run.returncode, run.stdout, run.stderr)
        assert "Traceback" not in run.stderr
        assert all(line.startswith("mlflow-proxy: ") for line in run.stderr.splitlines()), run.stderr
        return run.stderr.splitlines()[-1].removeprefix("mlflow-proxy: ")

    def sign_in(self, browser: Callable[[str], object], *arguments: str) -> subprocess.CompletedProcess[str]:
        """Log in; `browser` is given the last address that is shown."""
        process = subprocess.Popen(
            [*self.command, "login", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.variables(),
        )
        assert process.stderr is not None
        assert process.stdout is not None
        said: list[str] = []
        for line in process.stderr:
            said.append(line)
            if shown := re.search(r"(?:or open|of this machine:) (\S+)$", line.strip()):
                # The command waits for it meanwhile, and may have to answer it.
                player = threading.Thread(target=browser, args=(shown[1],))
                player.start()
                break
        else:
            raise AssertionError("".join(said))
        stdout, stderr = process.communicate(timeout=90)
        player.join()
        return subprocess.CompletedProcess(process.args, process.returncode, stdout, "".join(said) + stderr)
