"""One question over HTTP and its JSON answer: bounded, verified, sent nowhere but where it was meant."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import requests

from mlflow_proxy_client import __version__
from mlflow_proxy_client.addresses import is_safe
from mlflow_proxy_client.errors import Away, Problem, plain

CONNECT, READ = 10.0, 20.0
"""Seconds for a connection, and for the next part of an answer."""
LIMIT = 1 << 20
"""Bytes of an answer."""


@dataclass(frozen=True)
class Trust:
    """How one side proves who it is; as `requests` takes it."""

    verify: bool | str = True
    cert: str | None = None


def provider_trust() -> Trust:
    """For identity providers: the usual authorities, or those of REQUESTS_CA_BUNDLE."""
    return Trust()


def server_trust() -> Trust:
    """For the MLflow server: as MLflow's own client is told (mlflow/utils/rest_utils.py, MlflowHostCreds)."""
    insecure = os.environ.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() in ("true", "1")
    authority = os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH")
    if insecure and authority:
        raise Problem(
            "MLFLOW_TRACKING_INSECURE_TLS and MLFLOW_TRACKING_SERVER_CERT_PATH are both set; unset the first"
        )
    return Trust(authority or not insecure, os.environ.get("MLFLOW_TRACKING_CLIENT_CERT_PATH"))


@dataclass(frozen=True)
class Answer:
    """What came back. `data` is empty where the body was no JSON object."""

    status: int
    data: Mapping[str, Any]

    def text(self, key: str) -> str | None:
        """That member, where it is a string that is not empty."""
        value = self.data.get(key)
        return value if isinstance(value, str) and value else None


def ask(
    method: str,
    url: str,
    trust: Trust,
    *,
    authorization: str | None = None,
    form: Mapping[str, str] | None = None,
    body: Mapping[str, Any] | None = None,
) -> Answer:
    """Send it and read the answer. Redirects are not followed.

    Raises Away where there is no answer, Problem where there can't be one: no TLS, an untrusted
    certificate, more than LIMIT.
    """
    host = plain(url.split("?", 1)[0])
    if not is_safe(url):
        raise Problem(f"{host} is not encrypted, and nothing secret is sent there")

    def authorize(request: requests.PreparedRequest) -> requests.PreparedRequest:
        # An authentication of our own also keeps `requests` from sending what ~/.netrc has for that host.
        if authorization is not None:
            request.headers["Authorization"] = authorization
        return request

    try:
        with (
            requests.Session() as session,
            session.request(
                method,
                url,
                data=form,
                json=body,
                auth=authorize,
                headers={
                    "Accept": "application/json",
                    "User-Agent": f"mlflow-proxy-client/{__version__}",
                },
                verify=trust.verify,
                cert=trust.cert,
                # What is not encrypted stays on this machine, whatever HTTP_PROXY says.
                proxies={"no_proxy": urlsplit(url).hostname or ""} if url.startswith("http:") else None,
                timeout=(CONNECT, READ),
                allow_redirects=False,
                stream=True,
            ) as answer,
        ):
            content = bytearray()
            for piece in answer.iter_content(1 << 16):
                content += piece
                if len(content) > LIMIT:
                    raise Problem(f"the answer of {host} is over {LIMIT} bytes")
            status = answer.status_code
    except requests.exceptions.SSLError as error:
        raise Problem(
            f"the certificate of {host} is not trusted ({plain(error)}); for a server with an authority of "
            "its own set MLFLOW_TRACKING_SERVER_CERT_PATH to its file, for a provider REQUESTS_CA_BUNDLE"
        ) from None
    except OSError as error:
        # requests' exceptions are OSErrors; a file of certificates that is not there is one as well.
        raise Away(f"no answer from {host}: {plain(error)}") from None
    return Answer(status, _object(bytes(content)))


def _object(content: bytes) -> Mapping[str, Any]:
    try:
        data = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}
