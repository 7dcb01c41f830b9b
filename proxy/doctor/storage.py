"""The artifact storage: put, get, list, parts and delete, each tried with MLflow's own access."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from proxy.doctor.case import Case
from proxy.doctor.result import Result, failure, ok, skipped, warning
from proxy.doctor.trials import Broken, steps
from proxy.mlflow_server.command import environment
from proxy.settings import artifact_destination

SECONDS = 60.0

_KEYS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the machine's role",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS, or the machine's service account",
    "wasbs": "AZURE_STORAGE_CONNECTION_STRING or AZURE_STORAGE_ACCESS_KEY, or the machine's identity",
}
# What a right is called where it is given: for each step, by scheme.
_RIGHTS = {
    "s3": {
        "put": "s3:PutObject",
        "get": "s3:GetObject",
        "list": "s3:ListBucket",
        "multipart": "s3:PutObject and s3:AbortMultipartUpload",
        "delete": "s3:DeleteObject",
    },
    "gs": {
        "put": "storage.objects.create",
        "get": "storage.objects.get",
        "list": "storage.objects.list",
        "multipart": "storage.objects.create",
        "delete": "storage.objects.delete",
    },
    "wasbs": dict.fromkeys(
        ("put", "get", "list", "multipart", "delete"), "the role Storage Blob Data Contributor"
    ),
}
_NO_BUCKET = (
    "NoSuchBucket",
    "ContainerNotFound",
    "bucket does not exist",
    "404 GET",
    "NotFound: The specified bucket",
)
_BAD_KEY = (
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "AuthenticationFailed",
    "ExpiredToken",
    "NoCredentialsError",
    "RefreshError",
    "DefaultCredentialsError",
    "ClientAuthenticationError",
    "InvalidAuthenticationInfo",
)
_AWAY = (
    "EndpointConnectionError",
    "ConnectTimeoutError",
    "ServiceRequestError",
    "ConnectionError",
    "ReadTimeout",
)


def storage(case: Case) -> Iterator[Result]:
    """The place that MLFLOW_DEFAULT_ARTIFACT_ROOT names."""
    root = artifact_destination(case.settings)
    scheme = root.partition("://")[0] if "://" in root else ""
    scheme = {"wasb": "wasbs", "file": ""}.get(scheme, scheme)
    if not scheme and not (place := Path(root.removeprefix("file://"))).is_dir():
        if place.parent.is_dir():
            yield skipped("root", f"there is no {place} yet: MLflow makes it for the first artifact")
        else:
            yield warning("root", f"there is no {place} yet", "start the service: MLflow makes it, if it may")
        return
    yield ok("root", root)
    try:
        for step in steps("storage_trial.py", [root], access(case), case.within(SECONDS) - 2):
            name, said = step["step"], step["said"]
            yield ok(name, "done") if step["ok"] else _failed(root, scheme, name, said)
    except Broken as error:
        yield failure(
            "trial",
            f"the storage could not be tried: {error}",
            "look for what stands between this machine and the storage: firewall, proxy, DNS",
        )


def access(case: Case) -> Mapping[str, str]:
    """The environment that MLflow has, without the database's URI: nothing here asks it."""
    given = environment(case.settings, case.loaded.passthrough, dict(case.environ), "")
    given = {name: value for name, value in given.items() if not name.startswith("MLFLOW_TRACKING_")}
    given.pop("MLFLOW_BACKEND_STORE_URI", None)
    # Two tries are enough to tell; the libraries' own patience is minutes.
    return {
        "AWS_MAX_ATTEMPTS": "2",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
        **given,
        "PATH": os.environ.get("PATH", ""),
    }


def _failed(root: str, scheme: str, step: str, said: str) -> Result:
    keys = _KEYS.get(scheme, "the storage's keys")
    if any(word in said for word in _NO_BUCKET):
        mend = f"make the bucket or container of {root}, or correct MLFLOW_DEFAULT_ARTIFACT_ROOT"
        return failure(step, f"there is no such bucket ({said})", mend)
    if any(word in said for word in _BAD_KEY):
        return failure(step, f"the key is refused ({said})", f"look at {keys}")
    if any(word in said for word in _AWAY):
        where = " and MLFLOW_S3_ENDPOINT_URL" if scheme == "s3" else ""
        return failure(step, f"the storage can't be reached ({said})", f"look at the network{where}")
    if scheme in _RIGHTS and step in _RIGHTS[scheme]:
        why = "; runs and artifacts can't be deleted (mlflow gc)" if step == "delete" else ""
        return failure(step, f"{said}{why}", f"give the key {_RIGHTS[scheme][step]} on {root}")
    if "No space left" in said or "ENOSPC" in said or "Disk quota" in said:
        return failure(step, said, "make room on that disk, or name another place")
    if step == "open":
        return failure(step, said, f"look at MLFLOW_DEFAULT_ARTIFACT_ROOT and {keys}")
    return failure(step, said, f"let the service's user write to {root}, or name another place")
