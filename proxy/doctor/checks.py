"""Every check of the doctor, in the order in which they are told."""

from __future__ import annotations

from collections.abc import Iterator

from proxy.doctor import (
    certificate,
    database,
    disk,
    front,
    provider,
    round_trip,
    service,
    storage,
    time_limit,
    versions,
)
from proxy.doctor.case import Case
from proxy.doctor.examination import Check
from proxy.doctor.result import Result, failure, ok, warning

_DATA = ("PROXY_DATA_DIR",)
_ADDRESS = ("PROXY_PUBLIC_URL", "MLFLOW_HOST", "MLFLOW_PORT", "PROXY_TLS")


def _settings(case: Case) -> Iterator[Result]:
    """What `mlflow-proxy check` says, as the service reads them."""
    where = "as the running service reads them" if case.as_service else "as this shell has them"
    for problem in case.problems:
        name, _, what = problem.partition(": ")
        yield failure(
            "setting",
            problem if not what else f"{name}: {what}",
            "correct it where it was set; docs/settings.md",
        )
    set_by = {name for name, origin in case.loaded.origin.items() if origin != "default"}
    if not case.problems:
        yield ok("read", f"{len(set_by)} {'is' if len(set_by) == 1 else 'are'} set, {where}")
    for said in case.loaded.warnings:
        yield warning("setting", said, "as that line says; docs/settings.md")
    if case.service is not None and not case.as_service:
        yield warning(
            "source",
            f"process {case.service.pid} can't be looked into, so these are this shell's settings and "
            "may be others",
            "run the doctor as the service's user",
        )
    if not case.problems:
        from proxy.check import problems_of

        yield from (failure("file", line, "correct it where it was set") for line in problems_of(case.loaded))


CHECKS = (
    Check("settings", "all settings, and the files they name", _settings, lambda case: case.within(30)),
    Check("service", "the running service, MLflow behind it, settings not taken up yet",
          service.service, lambda case: case.within(service.SECONDS), _DATA),
    Check("database", "MLflow's database: reach, version, schema, rights, clock",
          database.mlflow_database, lambda case: case.within(database.SECONDS),
          ("MLFLOW_BACKEND_STORE_URI", *_DATA)),
    Check("sessions", "the database of sessions and tokens: the same",
          database.our_database, lambda case: case.within(database.SECONDS), ("PROXY_DATABASE_URL", *_DATA)),
    Check("storage", "the artifact storage: put, get, list, parts, delete",
          storage.storage, lambda case: case.within(storage.SECONDS),
          ("MLFLOW_DEFAULT_ARTIFACT_ROOT", *_DATA)),
    Check("provider", "the identity provider: discovery, keys, clock, redirect URI, client, a token's groups",
          provider.provider, lambda case: case.within(provider.SECONDS),
          ("MLFLOW_UI_OAUTH_ISSUER_URL", "MLFLOW_UI_OAUTH_CLIENT_ID", "MLFLOW_UI_OAUTH_CLIENT_SECRET")),
    Check("address", "the public URL: name, port, certificate chain",
          certificate.certificate, lambda case: case.within(certificate.SECONDS), _ADDRESS),
    Check("front", "what stands in front: host, forwarded headers, bodies, streams",
          front.front, lambda case: case.within(front.SECONDS), (*_ADDRESS, *_DATA)),
    Check("client", "a round trip with MLflow's own client",
          round_trip.round_trip, lambda case: case.within(round_trip.SECONDS), (*_ADDRESS, *_DATA)),
    Check("disk", "room, inodes, and whether the data directory can be written to",
          disk.disk, lambda case: case.within(disk.SECONDS), (*_DATA, "MLFLOW_DEFAULT_ARTIFACT_ROOT")),
    Check("versions", "what is installed and what runs, and known holes",
          versions.versions, lambda case: case.within(versions.SECONDS)),
    Check("time", "how long what stands in front waits for an answer",
          time_limit.time_limit, time_limit.seconds, (*_ADDRESS, *_DATA)),
)  # fmt: skip
NAMES = tuple(check.name for check in CHECKS)
