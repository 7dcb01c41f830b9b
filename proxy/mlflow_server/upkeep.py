"""One generation of MLflow from its start to being ready, and what is looked at while it serves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from proxy.mlflow_server import readiness
from proxy.mlflow_server.generation import Exit, Generation
from proxy.mlflow_server.plan import Plan

TICK = 1.0
"""Seconds between two looks at its processes."""


async def until_ready(current: Generation, plan: Plan) -> Exit | None:
    """Wait until it answers a call that reaches the database; why it must be given up where it does not."""
    settings = plan.settings
    answer = asyncio.create_task(
        readiness.first_answer(current.socket, settings.ready_timeout, plan.database)
    )
    watched: set[asyncio.Future[Any]] = {answer, current.over}
    try:
        while not (await asyncio.wait(watched, timeout=TICK, return_when=asyncio.FIRST_COMPLETED))[0]:
            if current.progress.migrating:
                # A migration that is killed half-way can leave a database that nothing opens.
                continue
            if time.monotonic() - current.started > settings.mlflow_start_timeout:
                return Exit(
                    "start_timeout",
                    f"MLflow was not ready {settings.mlflow_start_timeout:g} s after its start "
                    "(PROXY_MLFLOW_START_TIMEOUT)",
                )
        if current.over.done():
            return current.over.result()
        answer.result()
    finally:
        answer.cancel()
    await asyncio.to_thread(current.find_processes)
    return None


async def until_lost(current: Generation, jobs_lost: Callable[[Generation], bool]) -> Exit:
    """Look again and again whether its parts live; returns where it must be given up though it runs.

    `jobs_lost` decides whether the loss of the job runner is such a case.
    """
    while True:
        await asyncio.sleep(TICK)
        web_server, runner = current.web_server, current.job_runner
        if web_server is not None and not web_server.alive:
            # Looked at first: its helpers follow it, and would be taken for the cause.
            return Exit("exited", "MLflow's web server (uvicorn) has ended")
        if runner is not None and not runner.alive and jobs_lost(current):
            return Exit("jobs_lost", "MLflow's job runner has ended, and MLflow goes on without jobs")
