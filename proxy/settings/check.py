"""What must fit together: checks across settings, each saying which one to change."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping

from proxy.settings.credentials import check_credential_texts, check_credential_values
from proxy.settings.database import check_artifact_root, driver_uri
from proxy.settings.fields import Settings
from proxy.settings.listening import check_listening
from proxy.settings.names import refused_mlflow_option
from proxy.settings.sign_in import check_sign_in_texts, check_sign_in_values
from proxy.settings.sources import Problems
from proxy.settings.values import quoted


def check_texts(
    texts: Mapping[str, str], origin: Mapping[str, str], may_be_absent: Collection[str], problems: Problems
) -> None:
    """What can be seen without knowing every value; ``texts`` holds what is set, and nothing empty."""
    for name, needed, why in (
        ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "a user name needs a password"),
        ("PROXY_TLS_CERT_FILE", "PROXY_TLS_KEY_FILE", "a certificate needs its key"),
        ("PROXY_TLS_KEY_FILE", "PROXY_TLS_CERT_FILE", "a key needs its certificate"),
    ):
        if name in texts and needed not in texts:
            also = "" if needed.endswith("_FILE") else f" or {needed}_FILE"
            problems.add(name, origin[name], f"{why}: set {needed}{also}")
    for name in ("PROXY_TLS_CERT_FILE", "PROXY_TLS_KEY_FILE", "PROXY_USERS_FILE", "PROXY_LOGO_FILE"):
        if name in texts:
            _check_readable(name, texts[name], origin[name], name in may_be_absent, problems)
    _check_storage(texts, origin, problems)
    check_sign_in_texts(texts, origin, problems)
    check_credential_texts(texts, origin, problems)


def _check_storage(texts: Mapping[str, str], origin: Mapping[str, str], problems: Problems) -> None:
    uri, root = texts.get("MLFLOW_BACKEND_STORE_URI"), texts.get("MLFLOW_DEFAULT_ARTIFACT_ROOT", "")
    for name, check, text in (
        ("MLFLOW_BACKEND_STORE_URI", driver_uri, uri),
        ("PROXY_DATABASE_URL", driver_uri, texts.get("PROXY_DATABASE_URL", "").strip()),
        ("MLFLOW_DEFAULT_ARTIFACT_ROOT", check_artifact_root, root),
    ):
        try:
            if text:
                check(text)
        except ValueError as error:
            problems.add(name, origin[name], str(error))
    endpoint = texts.get("MLFLOW_S3_ENDPOINT_URL", "").strip()
    if endpoint and not endpoint.lower().startswith(("http://", "https://")):
        problems.add(
            "MLFLOW_S3_ENDPOINT_URL",
            origin["MLFLOW_S3_ENDPOINT_URL"],
            f"{quoted(endpoint)} is not a URL that begins with http:// or https://",
        )
    if root.lower().startswith("s3:"):
        pair = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
        for name, needed in (pair, pair[::-1]):
            if name in texts and needed not in texts:
                problems.add(
                    name, origin[name], f"one does not do without the other: set {needed} or {needed}_FILE"
                )
    if root.lower().startswith("gs:") and (key := texts.get("GOOGLE_APPLICATION_CREDENTIALS")):
        name = "GOOGLE_APPLICATION_CREDENTIALS"
        _check_readable(name, key, origin[name], False, problems)


def _check_readable(name: str, path: str, origin: str, may_be_absent: bool, problems: Problems) -> None:
    try:
        with open(path, "rb"):  # noqa: PTH123 - a path that can't be one raises ValueError here
            pass
    except FileNotFoundError:
        if not may_be_absent:
            problems.add(name, origin, f"there is no file {path}")
    except OSError as error:
        problems.add(name, origin, f"{path} can't be read: {os.strerror(error.errno or 0)}")
    except ValueError:
        problems.add(name, origin, "is not a path")


def check_values(settings: Settings, origin: Mapping[str, str], problems: Problems) -> None:
    """What depends on values that are each good by themselves."""
    check_listening(settings, origin, problems)
    check_sign_in_values(settings, origin, problems)
    check_credential_values(settings, origin, problems)
    if refused := refused_mlflow_option(settings.mlflow_args):
        problems.add("PROXY_MLFLOW_ARGS", origin.get("PROXY_MLFLOW_ARGS", "default"), refused)
    if settings.body_limit > settings.buffer_bytes:
        name = "PROXY_BODY_LIMIT" if "PROXY_BODY_LIMIT" in origin else "PROXY_BUFFER_BYTES"
        problems.add(name, origin.get(name, "default"), "PROXY_BODY_LIMIT may be at most PROXY_BUFFER_BYTES")
