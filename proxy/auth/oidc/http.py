"""HTTP to the provider: no redirects, bounded answers, a deadline, and failures in this room's words."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus, urlsplit

import httpx2
from authlib.common.errors import AuthlibBaseError  # type: ignore[import-untyped]
from authlib.integrations.httpx_client import AsyncOAuth2Client  # type: ignore[import-untyped]

from proxy.auth.oidc.failures import ProviderError, ProviderUnavailable

LIMIT = 1024 * 1024
"""Bytes of an answer's body: a key set or a user-info answer has a few thousand."""
_DEADLINE = 15.0  # seconds for a whole answer: a byte now and then would hold a mere read timeout off
_CONNECTIONS = 20


class _Refused(Exception):
    """An answer that is not read."""


class TokenError(Exception):
    """The token endpoint's error answer (RFC 6749, 5.2)."""

    def __init__(self, error: str, description: str) -> None:
        super().__init__(error)
        self.error = error
        self.description = description


class Http:
    """One client for one provider. Who makes it closes it.

    `ca` is a file with the authorities of its certificates, where they are not the system's.
    """

    def __init__(self, client_id: str, client_secret: str | None, *, ca: Path | None = None) -> None:
        tls = {} if ca is None else {"verify": ssl.create_default_context(cafile=ca)}
        self._client = AsyncOAuth2Client(
            client_id,
            client_secret,
            headers={
                "User-Agent": "mlflow-proxy",
                "Accept": "application/json",
                # A compressed answer has no bound until it is unpacked.
                "Accept-Encoding": "identity",
            },
            timeout=httpx2.Timeout(10.0, connect=5.0),
            follow_redirects=False,
            limits=httpx2.Limits(max_connections=_CONNECTIONS, keepalive_expiry=15),
            event_hooks={"response": [_bound]},
            **tls,
        )
        self._client.register_client_auth_method(("client_secret_basic", _basic))

    async def aclose(self) -> None:
        await self._client.aclose()

    async def json(self, url: str, what: str, bearer: str | None = None) -> Any:
        """GET. Raises ProviderUnavailable; ProviderError (denied) where `bearer` is refused."""
        headers = {} if bearer is None else {"Authorization": f"Bearer {bearer}"}
        async with _asking(what, url):
            answer = await self._client.request("GET", url, withhold_token=True, headers=headers)
            if bearer is not None and answer.status_code == 401:
                raise ProviderError(
                    "denied",
                    "The identity provider does not say who you are.",
                    check=f"{what} ({shown_url(url)}) answered {answer.status_code}; look at the scopes that "
                    "are asked for (MLFLOW_UI_OAUTH_SCOPES).",
                )
            answer.raise_for_status()
            return answer.json()

    async def token(self, url: str, method: str, grant: str, **fields: str) -> dict[str, Any]:
        """POST to the token endpoint; `method` is the client's. Raises TokenError, ProviderUnavailable."""
        async with _asking("the token endpoint", url):
            try:
                answer = await self._client.fetch_token(
                    url, grant_type=grant, auth=self._client.client_auth(method), **fields
                )
            except AuthlibBaseError as error:
                raise TokenError(str(error.error), str(error.description or "")) from None
            finally:
                # The client would keep the last person's tokens.
                self._client.token = None
            return dict(answer)


class _Bounded(httpx2.AsyncByteStream):
    def __init__(self, stream: httpx2.AsyncByteStream) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        async for piece in self._stream:
            size += len(piece)
            if size > LIMIT:
                raise _Refused(f"is over {LIMIT} bytes")
            yield piece

    async def aclose(self) -> None:
        await self._stream.aclose()


async def _bound(answer: httpx2.Response) -> None:
    """Look at the head of an answer before any of its body is read."""
    if 300 <= answer.status_code < 400:
        raise _Refused(f"is a redirect ({answer.status_code}), which is not followed")
    if answer.headers.get("content-encoding", "identity").lower() != "identity":
        raise _Refused("is compressed, which was not asked for")
    length = answer.headers.get("content-length", "")
    if length.isdecimal() and (len(length) > 12 or int(length) > LIMIT):
        raise _Refused(f"is over {LIMIT} bytes")
    assert isinstance(answer.stream, httpx2.AsyncByteStream)
    answer.stream = _Bounded(answer.stream)


@contextlib.asynccontextmanager
async def _asking(what: str, url: str) -> AsyncIterator[None]:
    with _worded(what, url):
        async with asyncio.timeout(_DEADLINE):
            yield


@contextlib.contextmanager
def _worded(what: str, url: str) -> Iterator[None]:
    slow = "The identity provider does not answer."
    odd = "The identity provider's answer can't be used."
    shown = f"{what} ({shown_url(url)})"
    try:
        yield
    except (TimeoutError, httpx2.TimeoutException):
        raise ProviderUnavailable("unavailable", slow, check=f"{shown} did not answer in time.") from None
    except httpx2.HTTPStatusError as error:
        status = error.response.status_code
        if status >= 500 or status == 429:
            raise ProviderUnavailable("unavailable", slow, check=f"{shown} answered {status}.") from None
        raise ProviderUnavailable("bad_answer", odd, check=f"{shown} answered {status}.") from None
    except _Refused as error:
        raise ProviderUnavailable("bad_answer", odd, check=f"The answer of {shown} {error}.") from None
    except (httpx2.HTTPError, OSError) as error:
        raise ProviderUnavailable(
            "unavailable",
            slow,
            check=f"{shown} can't be reached: {str(error)[:200] or type(error).__name__}.",
        ) from None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, httpx2.InvalidURL):
        raise ProviderUnavailable(
            "bad_answer", odd, check=f"The answer of {shown} is not the JSON it should be."
        ) from None


def shown_url(url: str) -> str:
    """A URL without what may be secret in it."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _basic(client: Any, method: str, uri: str, headers: Any, body: Any) -> tuple[str, Mapping[str, str], Any]:
    """RFC 6749, 2.3.1: id and secret are form-encoded first, which Authlib leaves out."""
    pair = f"{quote_plus(client.client_id)}:{quote_plus(client.client_secret)}"
    headers["Authorization"] = f"Basic {base64.b64encode(pair.encode('ascii')).decode('ascii')}"
    return uri, headers, body
