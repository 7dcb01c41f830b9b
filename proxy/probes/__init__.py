"""Looks now and then at what the service hangs on: database, storage, provider, certificates, disk."""

from proxy.probes.assembled import Watching

__all__ = ["Watching"]
