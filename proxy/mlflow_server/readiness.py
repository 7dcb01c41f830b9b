"""Whether MLflow answers, and whether a call that reaches its database does."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from proxy.http1 import fetch

QUESTION = "/api/2.0/mlflow/experiments/search?max_results=1"
"""The cheapest call that reads from the database, whatever stands in it; `/health` never does."""
HEALTH = "/health"
"""Answered by MLflow's event loop itself, without a thread (mlflow/server/server_info_api.py)."""
PATIENCE = 300.0
"""Seconds for which an answer that is late is still waited for. A thread of MLflow's works on each question
to its end, so that to give up and ask again would take one of its 40 threads each time."""


async def answers(socket: Path, seconds: float) -> bool:
    """Whether anything of MLflow answers on the socket."""
    try:
        status, _ = await fetch(socket, "GET", HEALTH, timeout=seconds)
    except (OSError, TimeoutError):
        return False
    return status == 200


async def first_answer(socket: Path, seconds: float, database: str) -> None:
    """Return once MLflow has answered a call that reaches the database within so many seconds.

    The first such calls also make MLflow set up its store (0.3 to 2.5 s), which then is nobody's request.
    """
    while True:
        if socket.exists() and await answers(socket, seconds):
            break
        await asyncio.sleep(0.1)
    while True:
        asked = time.monotonic()
        try:
            status, _ = await fetch(socket, "GET", QUESTION, timeout=PATIENCE)
        except (OSError, TimeoutError):
            status = 0
        if status == 200 and time.monotonic() - asked <= seconds:
            break
        await asyncio.sleep(0.5)
