"""Trials that run in processes of their own, as MLflow's libraries take seconds to load and may hang."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

_LAST_WORDS = 300


class Broken(Exception):
    """A trial that ended in another way than it should; the message says how."""


def steps(
    script: str, arguments: list[str], environment: Mapping[str, str], seconds: float
) -> Iterator[dict[str, Any]]:
    """The lines of JSON that a script of this folder prints, each as it comes.

    Raises Broken where it fails, or is not done within so many seconds.
    """
    with subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name(script)), *arguments],
        # The folder of the script would come first on the path, and with it names of ours.
        env={**environment, "PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        late = threading.Event()

        def end() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(seconds, end)
        timer.start()
        words: list[bytes] = []
        stderr = process.stderr
        listener = threading.Thread(target=lambda: words.append(stderr.read()[-65536:]), daemon=True)
        listener.start()
        try:
            for line in process.stdout:
                if line.startswith(b"{"):
                    yield json.loads(line)
            code = process.wait()
        finally:
            timer.cancel()
            if process.poll() is None:
                process.kill()
        listener.join(5)
        if late.is_set():
            raise Broken(f"no answer within {seconds:g} s")
        if code:
            text = b"".join(words).decode("utf-8", "replace").strip().splitlines()
            raise Broken((text[-1] if text else f"it ended with {code}")[:_LAST_WORDS])
