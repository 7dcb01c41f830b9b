"""The ways into MLflow with their bounds: one of each, kept over a reload, so that the bounds hold."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from proxy.forward import Spool
from proxy.hold import Hold, Mlflow
from proxy.http1 import Pool
from proxy.settings import Settings
from proxy.slots import Places, places

_BOUNDS = (
    "hold_requests",
    "hold_seconds",
    "buffer_bytes",
    "mlflow_concurrency",
    "mlflow_workers",
    "user_concurrency",
    "whole_downloads",
    "resend_body_limit",
    "resend_spool_bytes",
)
"""The settings that stand in what is made here."""


@dataclass(frozen=True, slots=True)
class Ways:
    """What all requests to MLflow share."""

    bounds: tuple[object, ...]
    hold: Hold
    places: Places
    pool: Pool
    spool: Spool


def ways(settings: Settings, mlflow: Mlflow, socket: Path, before: Ways | None = None) -> Ways:
    """Those there were `before`, where their bounds are the same.

    Where a bound has changed they are made anew, and requests under way are counted by the old ones.
    """
    bounds = tuple(getattr(settings, name) for name in _BOUNDS)
    if before is not None and before.bounds == bounds:
        return before
    return Ways(
        bounds,
        Hold(
            mlflow,
            requests=settings.hold_requests,
            seconds=settings.hold_seconds,
            held_bytes=settings.buffer_bytes,
        ),
        places(
            settings.mlflow_concurrency,
            settings.mlflow_workers,
            settings.whole_downloads,
            settings.user_concurrency,
        ),
        Pool(socket),
        Spool(socket.parent, limit=settings.resend_spool_bytes, each=settings.resend_body_limit),
    )
