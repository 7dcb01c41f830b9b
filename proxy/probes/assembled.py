"""Which looks there are, over the service's parts; and what of them Prometheus reads."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from proxy.auth.oidc import Provider, ProviderUnavailable
from proxy.certificates import remote
from proxy.metrics import Gauge
from proxy.mlflow_server import MlflowServer, schema
from proxy.probes import looks
from proxy.probes.ages import written
from proxy.probes.probes import DEADLINE, Look, Probes
from proxy.settings import Loaded, database_uri
from proxy.store import Store, StoreUnavailable, tokens

WITHIN = {"7d": 7 * 86400.0}
"""What counts as soon, of tokens that end, in seconds by the label's value."""
GENERATED = {
    "MLFLOW_TRACKING_PASSWORD": "password",
    "PROXY_COOKIE_SECRET": "cookie-secret",
    "PROXY_AUDIT_KEY": "audit.key",
    "MLFLOW_CRYPTO_KEK_PASSPHRASE": "gateway-secrets.passphrase",
}
"""The secrets that are made on first start, and their files in the data directory."""

GAUGES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "probe_success": ("1 where the latest look found all well (docs/operations.md).", ("probe",)),
    "probe_duration_seconds": ("Seconds that the latest look took.", ("probe",)),
    "probe_last_success_timestamp_seconds": (
        "Unix time of the latest look that found all well.",
        ("probe",),
    ),
    "certificate_not_after_timestamp_seconds": (
        "Unix time at which another server's certificate ends (PROXY_PROBE_CERTIFICATES).",
        ("target",),
    ),
    "disk_free_bytes": ("Bytes free where the data directory is.", ()),
    "disk_size_bytes": ("Bytes of the disk where the data directory is.", ()),
    "secret_age_seconds": ("Age of secrets in files, since the file was written.", ("secret",)),
    "tokens_expiring": ("Tokens of ours in use that end within that time.", ("within",)),
}
"""What Prometheus reads of it: documentation and labels by name."""


class Watching:
    """All looks of one service. `loaded` gives the settings in force, `own_end` tells when our own
    certificate ends, and `provider` is the identity provider, None where there is none."""

    def __init__(
        self,
        loaded: Callable[[], Loaded],
        data: Path,
        mlflow: MlflowServer,
        store: Store,
        own_end: Callable[[], float | None],
        provider: Callable[[], Provider | None],
    ) -> None:
        self._loaded = loaded
        self._mlflow = mlflow
        self._store = store
        self._asking = looks.InThread(self._database)
        self._data = data
        self._provider = provider
        self._ends: dict[str, float] = {}
        self._expiring: dict[str, int] = {}
        self._space: tuple[int, int] | None = None
        self._written: dict[str, float] = {}

        def every() -> float:
            return loaded().settings.probe_interval

        certificates = looks.certificates(
            own_end,
            lambda: loaded().settings.probe_certificates,
            remote.ends,
            self._ends,
            DEADLINE / 2,
            time.time,
        )
        storage = looks.storage(lambda: mlflow.socket if mlflow.up else None, DEADLINE)
        self.probes = Probes(
            {
                "database": Look(self._ask_database, every),
                "storage": Look(storage, lambda: loaded().settings.probe_storage_interval),
                "provider": Look(self._ask_provider, every),
                "certificate": Look(certificates, every),
                "disk": Look(looks.InThread(self._disk), every),
                "tokens": Look(self._tokens, every),
            }
        )

    async def _ask_database(self) -> None:
        if self._mlflow.generation <= 1 and not self._mlflow.up:
            raise looks.NotNow  # its tables are being made
        await self._asking()

    def _database(self) -> None:
        try:
            version = schema.version_of(database_uri(self._loaded().settings))
        except schema.Unreachable as error:
            raise looks.Failed(str(error)) from None
        if not version:
            raise looks.Failed("MLflow's tables can't be read in the database")

    def _disk(self) -> None:
        """Look at the files, once for all scrapes until the next look: a network's may not answer at all."""
        generated = {name: self._data / file for name, file in GENERATED.items()}
        self._written = written(self._loaded().origin, generated)
        self._space = None
        self._space = looks.space(self._data)
        looks.enough(*self._space)

    async def _ask_provider(self) -> None:
        provider = self._provider()
        if provider is None:
            raise looks.NotNow
        try:
            await provider.look()
        except ProviderUnavailable as error:
            raise looks.Failed(str(error)) from None

    async def _tokens(self) -> None:
        now = time.time()

        def count(connection: Any) -> dict[str, int]:
            return {name: tokens.ending(connection, now, now + seconds) for name, seconds in WITHIN.items()}

        try:
            self._expiring = await self._store.run(count)
        except StoreUnavailable as error:
            raise looks.Failed(str(error)) from None

    def gauges(self) -> Iterator[Gauge]:
        """What the latest looks have found, of GAUGES; nothing is looked at for it."""
        seen = {name: target for name, target in self.probes.targets.items() if target.looked is not None}
        yield _gauge("probe_success", {(name,): target.problem is None for name, target in seen.items()})
        yield _gauge("probe_duration_seconds", {(name,): target.seconds for name, target in seen.items()})
        yield _gauge(
            "probe_last_success_timestamp_seconds",
            {(name,): at for name, target in seen.items() if (at := target.last_success) is not None},
        )
        yield _gauge(
            "certificate_not_after_timestamp_seconds",
            {(name,): end for name, end in self._ends.copy().items() if name != looks.OWN},
        )
        if (space := self._space) is not None:
            yield _gauge("disk_free_bytes", {(): space[0]})
            yield _gauge("disk_size_bytes", {(): space[1]})
        now = time.time()
        ages: dict[tuple[str, ...], float] = {
            (name,): max(0.0, now - at) for name, at in self._written.items()
        }
        yield _gauge("secret_age_seconds", ages)
        yield _gauge("tokens_expiring", {(name,): number for name, number in self._expiring.copy().items()})


def _gauge(name: str, samples: Mapping[tuple[str, ...], float]) -> Gauge:
    documentation, labels = GAUGES[name]
    return Gauge(name, documentation, labels, samples)
