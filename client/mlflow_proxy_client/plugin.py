"""MLflow's plugin: with MLFLOW_TRACKING_AUTH=mlflow-proxy each call carries what login left, renewed."""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests
from requests.auth import AuthBase
from requests.exceptions import RequestException
from requests.utils import rewind_body

from mlflow_proxy_client import renewal
from mlflow_proxy_client.addresses import covers, without_user
from mlflow_proxy_client.credentials import CredentialsFile
from mlflow_proxy_client.errors import Problem

NAME = "mlflow-proxy"


class RequestAuthProvider:
    """What MLflow's registry asks for (mlflow/tracking/request_auth/abstract_request_auth_provider.py). It is
    known by its two methods: deriving from MLflow's class would load MLflow with every command of ours."""

    def __init__(self) -> None:
        self._auth = Auth(CredentialsFile())

    def get_name(self) -> str:
        return NAME

    def get_auth(self) -> Auth:
        return self._auth


class Auth(AuthBase):
    """Puts the credential for a request's server on it, and on nothing else; shared by threads.

    Raises Problem, which MLflow's client raises as an MlflowException with the same words, at once.
    """

    def __init__(self, file: CredentialsFile) -> None:
        self._file = file

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        found = self._file.find(request.url or "")
        if found is None:
            if "Authorization" not in request.headers:
                request.register_hook("response", _not_signed_in)
            return request
        server, _ = found
        secret = renewal.secret(self._file, server)
        request.headers["Authorization"] = f"Bearer {secret}"
        call = _Call(self._file, server, secret)
        request.register_hook("response", call.answered)
        return request


class _Call:
    """One request with a credential of `server`'s, and what becomes of it after a 401 or a redirect."""

    def __init__(self, file: CredentialsFile, server: str, secret: str) -> None:
        self._file = file
        self._server = server
        self._secret = secret
        self._again = False

    def answered(self, response: requests.Response, **options: Any) -> requests.Response:
        request = response.request
        if response.is_redirect:
            # `requests` keeps the header on a redirect within a host; another folder of it is another's.
            if not covers(self._server, urljoin(response.url, response.headers["location"])):
                request.headers.pop("Authorization", None)
            return response
        if response.status_code != 401 or self._again or not covers(self._server, request.url or ""):
            return response
        newer = renewal.secret(self._file, self._server, self._secret)
        if newer == self._secret or not _rewound(request):
            return response
        self._again = True
        response.content  # noqa: B018 - read to its end, the connection can be used again
        response.close()
        request.headers["Authorization"] = f"Bearer {newer}"
        again: requests.Response = response.connection.send(request, **options)
        again.history.append(response)
        again.request = request
        return self.answered(again)


def _rewound(request: requests.PreparedRequest) -> bool:
    """Whether the body can be sent again from its beginning."""
    if request.body is None or isinstance(request.body, (str, bytes)):
        return True
    try:
        rewind_body(request)
    except RequestException:
        return False
    return True


def _not_signed_in(response: requests.Response, **_: Any) -> None:
    if response.status_code == 401:
        url = response.request.url or ""
        server = os.environ.get("MLFLOW_TRACKING_URI", "").rstrip("/")
        if not server.startswith("http") or not covers(server, url):
            parts = urlsplit(url)
            server = f"{parts.scheme}://{parts.netloc}"
        raise Problem(f"nobody is signed in there; run `mlflow-proxy login {without_user(server)}`")
