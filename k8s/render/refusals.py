"""Why manifests are not rendered: what is missing, left as it came, wrong, or not for several replicas."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from given import Given
from manifests import Container, Manifests

from proxy import first_start
from proxy.errors import UserError
from proxy.mlflow_server import schema
from proxy.settings import Loaded, database_uri, load, proxy_database_uri
from proxy.settings.variables import FILE_NAMES, KNOWN

# Names and addresses that are nobody's (RFC 2606, RFC 5737), and words.
PLACEHOLDER = re.compile(
    r"\bexample\.(com|org|net)\b|CHANGE[-_ ]?ME|\bREPLACE\b|<[A-Za-z_ -]+>"
    r"|\b(192\.0\.2|198\.51\.100|203\.0\.113)\.\d",
    re.IGNORECASE,
)
# Stands for what is in a Secret that somebody else makes: long enough for a key, and no weak password.
_UNKNOWN = "3f9a1c5d7e2b4f60918273645546372819a0b1c2d3e4f5061728394a5b6c7d8e"
_UNKNOWN_URI = "postgresql://unknown:unknown@unknown/unknown"
# What each replica would else make for itself, or MLflow has a default for that everybody knows.
SHARED = ("PROXY_COOKIE_SECRET", "MLFLOW_CRYPTO_KEK_PASSPHRASE", "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY")


def problems_of(manifests: Manifests, given: Given, existing: set[str]) -> list[str]:
    """A line for each; none shows a secret."""
    problems = [*_placeholders(manifests, given), *_missing(manifests, existing)]
    several: list[str] = []
    mistakes: dict[str, str] = {}
    # What several of them say is said of the first, and the server's is that.
    for container in sorted(manifests.containers(), key=lambda one: one.spec.get("args") != ["serve"]):
        if not container.spec.get("args"):
            continue
        try:
            loaded = _loaded(manifests, container)
        except UserError as error:
            for line in str(error).splitlines():
                mistakes.setdefault(line, container.where)
        else:
            if container.spec["args"][0] == "serve":
                several += _for_several(manifests.replicas(), loaded)
    return [*problems, *several, *(f"{where}: {line}" for line, where in mistakes.items())]


def _placeholders(manifests: Manifests, given: Given) -> Iterator[str]:
    for name, text in given.secrets.items():
        if PLACEHOLDER.search(text):
            yield f"{name} ({given.origin[name]}): is still a placeholder"
    told = manifests.host()  # with PROXY_PUBLIC_URL, where the Ingress has it from
    for one in manifests.documents:
        where = f"{one['kind']}/{one['metadata']['name']}"
        if one["kind"] == "PrometheusRule":
            continue
        for path, text in _scalars(one):
            if PLACEHOLDER.search(text) and text != told:
                shown = "" if one["kind"] == "Secret" else f"{text[:100]!r} "
                yield f"{where}, {path}: {shown}is still a placeholder"


def _scalars(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, inside in value.items():
            yield from _scalars(inside, f"{path}.{key}".lstrip("."))
    elif isinstance(value, list):
        for number, inside in enumerate(value):
            yield from _scalars(inside, f"{path}.{number}")
    elif isinstance(value, str):
        yield path, value


def needed(manifests: Manifests) -> Iterator[tuple[str, str, str]]:
    """Secret, key and who wants it."""
    for container in manifests.containers():
        for name, value in container.environment.items():
            if name.endswith("_FILE") and (found := container.key_of(value)) is not None:
                yield *found, f"{name} of {container.where}"
    for one in manifests.of("ServiceMonitor"):
        for endpoint in one["spec"]["endpoints"]:
            if found := endpoint.get("authorization", {}).get("credentials"):
                yield found["name"], found["key"], f"ServiceMonitor/{one['metadata']['name']}"


def _missing(manifests: Manifests, existing: set[str]) -> Iterator[str]:
    promised = _promised(manifests)
    wanted = {(secret, key): who for secret, key, who in needed(manifests)}
    for (secret, key), who in wanted.items():
        if secret in existing or (secret in promised and key in (promised[secret] or (key,))):
            continue
        values = manifests.values_of(secret)
        if values is None or not values.get(key, "").strip():
            ours = "put it into the .env file, " if key in FILE_NAMES.values() else ""
            yield (
                f"Secret/{secret} has no {key}, which {who} wants: {ours}have a store make it "
                "(components/external-secrets, components/vault), or name the Secret with --existing-secret"
            )


def _promised(manifests: Manifests) -> dict[str, set[str]]:
    """The Secrets that an operator makes in the cluster, with their keys; none: not known here."""
    found: dict[str, set[str]] = {}
    for one in manifests.documents:
        spec, name = one.get("spec", {}), one["metadata"]["name"]
        match one["kind"]:
            case "ExternalSecret":
                keys = {each["secretKey"] for each in spec.get("data", ())}
                found[spec.get("target", {}).get("name", name)] = set() if spec.get("dataFrom") else keys
            case "VaultStaticSecret" | "VaultDynamicSecret":
                found[spec["destination"]["name"]] = set()
            case "SealedSecret":
                found[spec.get("template", {}).get("metadata", {}).get("name", name)] = set(
                    spec["encryptedData"]
                )
    return found


def _loaded(manifests: Manifests, container: Container) -> Loaded:
    """With that environment. Raises UserError with what the program itself would say at its start."""
    with tempfile.TemporaryDirectory() as scratch:
        environment = {}
        for name, value in container.environment.items():
            key = container.key_of(value) if name in FILE_NAMES or name in KNOWN else None
            if key is not None:
                file = Path(scratch, key[0], key[1])
                file.parent.mkdir(exist_ok=True)
                file.write_text(_value(manifests, *key, FILE_NAMES.get(name, name)))
                value = str(file)
            environment[name] = value
        try:
            loaded = load({}, environment, Path(scratch))
            if loaded.settings.password is not None:
                first_start.check_password(loaded.settings)
        except UserError as error:
            lines = str(error)
            for folder, (secret, _) in container.mounts.items():
                lines = lines.replace(f"{scratch}/{secret}/", f"{folder}/")
            raise UserError(lines) from None
        return loaded


def _value(manifests: Manifests, secret: str, key: str, name: str) -> str:
    values = manifests.values_of(secret) or {}
    if key in values:
        return values[key]
    return _UNKNOWN_URI if name.endswith(("_URI", "DATABASE_URL")) else _UNKNOWN


def _for_several(replicas: int, loaded: Loaded) -> Iterator[str]:
    """What one replica may do and several must not."""
    if replicas < 2:
        return
    settings = loaded.settings
    they = f"there are up to {replicas} replicas"
    if database_uri(settings).startswith("sqlite"):
        yield f"MLFLOW_BACKEND_STORE_URI: is SQLite, one pod's own file, and {they}: name a database server"
    if proxy_database_uri(settings).startswith("sqlite"):
        yield f"PROXY_DATABASE_URL: is SQLite, one pod's own file, and {they}: name a PostgreSQL (MLflow's)"
    if "://" not in (settings.artifact_root or "") or str(settings.artifact_root).startswith("file:"):
        yield f"MLFLOW_DEFAULT_ARTIFACT_ROOT: is a folder of each pod's own, and {they}: name a bucket"
    jobs = loaded.passthrough.get("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "true")
    if jobs.strip().lower() not in ("false", "0"):
        yield (
            f"MLFLOW_SERVER_ENABLE_JOB_EXECUTION: is not false, and {they}: each MLflow that starts runs the "
            "others' running jobs again"
        )
    if schema.policy(settings, database_uri(settings)) != "never":
        yield f"PROXY_MIGRATE: is not never, and {they}: the Job migrates (mlflow-migrate), no pod does"
    shared = [*SHARED, *(("MLFLOW_TRACKING_PASSWORD",) if settings.basic_auth else ())]
    for name in shared:
        if loaded.origin.get(name, "default") == "default":
            yield f"{name}: is not set, and {they}, which need the same"
