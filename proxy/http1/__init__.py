"""HTTP/1.1 connections to MLflow over its Unix socket, kept and used again."""

from proxy.http1.connection import Broken, Connection
from proxy.http1.fetch import fetch
from proxy.http1.known import Headers, Known
from proxy.http1.pool import IDLE_SECONDS, Pool

__all__ = ["IDLE_SECONDS", "Broken", "Connection", "Headers", "Known", "Pool", "fetch"]
