"""The credential for a request: renewed before it ends, once for all the processes that share the file."""

from __future__ import annotations

import time
from dataclasses import replace

from mlflow_proxy_client import oauth
from mlflow_proxy_client.credentials import LOCKS, CredentialsFile, Entry, Grant
from mlflow_proxy_client.errors import Away, Ended, Problem

AHEAD = 60.0
"""Seconds before its end when a token is renewed, or a quarter of its time where that is less."""
PATIENCE = 120.0
"""Seconds that a request waits for a provider that gives no answer, once the token has ended."""
PAUSE = 2.0
"""Seconds between two questions to such a provider, whichever processes ask; it grows."""
REFUSED_AFTER = 30.0
"""Seconds, or half of its time where that is less, after which a token that the server refuses may be renewed
although its time is not over. One that is refused at once would be refused again."""
_LONGEST_PAUSE = 15.0


def secret(file: CredentialsFile, server: str, refused: str | None = None) -> str:
    """What to send to the server as a bearer token; `refused` is one that it has just answered 401 to.

    It is `refused` again where no other can be had. Raises Problem where there is nothing to send.
    """
    entry = _entry(file, server)
    grant = entry.grant
    if grant is None:
        return _own(entry, server)
    if not _over(grant, refused):
        if _soon(grant) and grant.ended is None:
            renew_meanwhile(file, server)
            grant = _entry(file, server).grant or grant
        return grant.tokens.access
    return _renewed(file, server, refused)


def _renewed(file: CredentialsFile, server: str, refused: str | None) -> str:
    """Wait for a newer token, whoever gets it."""
    if not LOCKS:
        raise Problem(
            "this system has no file locks, so that tokens can't be renewed by the processes that share "
            f"them; run `mlflow-proxy login {server}` without --no-token"
        )
    deadline, pause, problem = time.monotonic() + PATIENCE, PAUSE, ""
    while True:
        with file.locked():
            entry = _entry(file, server)
            grant = entry.grant
            if grant is not None and _over(grant, refused) and grant.ended is None:
                problem = _ask(file, server, entry, grant)
                entry = _entry(file, server)
                grant = entry.grant
        if grant is None:
            return _own(entry, server)
        if not _over(grant, refused):
            return grant.tokens.access
        if grant.ended is not None:
            if entry.token is not None:
                return _own(entry, server)
            raise Ended(f"{grant.ended}; run `mlflow-proxy login {server}`")
        if entry.token is not None:
            return _own(entry, server)
        if time.monotonic() + pause > deadline:
            raise Away(f"the access token for {server} has ended, and it can't be renewed: {problem}")
        time.sleep(pause)
        pause = min(pause * 2, _LONGEST_PAUSE)


def renew_meanwhile(file: CredentialsFile, server: str) -> None:
    """Renew while the old token still counts, unless another process has done so or is about to. Nobody waits
    for that, and no failure matters."""
    if not LOCKS:
        return
    try:
        with file.locked(wait=False) as alone:
            if not alone:
                return
            entry = _entry(file, server)
            if entry.grant is not None and _soon(entry.grant) and entry.grant.ended is None:
                _ask(file, server, entry, entry.grant)
    except Problem:
        return  # it is said once the old one has ended


def _ask(file: CredentialsFile, server: str, entry: Entry, grant: Grant) -> str:
    """One question to the provider, under the lock, and its outcome into the file; why it failed, or ""."""
    now = time.time()
    if 0 <= now - grant.failed < PAUSE:
        return "the identity provider gave no answer"
    try:
        tokens = oauth.refresh(grant.client, grant.tokens)
    except Ended as error:
        file.put(server, replace(entry, grant=replace(grant, ended=str(error))))
        return str(error)
    except Problem as error:
        file.put(server, replace(entry, grant=replace(grant, failed=time.time())))
        return str(error)
    file.put(server, replace(entry, grant=replace(grant, tokens=tokens, failed=0.0)))
    return ""


def _over(grant: Grant, refused: str | None) -> bool:
    tokens, now = grant.tokens, time.time()
    if tokens.expires is not None and now >= tokens.expires:
        return True
    if tokens.access != refused:
        return False
    half = (tokens.expires - tokens.obtained) / 2 if tokens.expires is not None else REFUSED_AFTER
    return now - tokens.obtained >= min(REFUSED_AFTER, half)


def _soon(grant: Grant) -> bool:
    tokens = grant.tokens
    if tokens.expires is None:
        return False
    return time.time() >= tokens.expires - min(AHEAD, (tokens.expires - tokens.obtained) / 4)


def _entry(file: CredentialsFile, server: str) -> Entry:
    entry = file.read().get(server)
    if entry is None:
        raise Problem(f"there is no credential for {server}; run `mlflow-proxy login {server}`")
    return entry


def _own(entry: Entry, server: str) -> str:
    token = entry.token
    if token is None:
        raise Problem(f"there is no credential for {server}; run `mlflow-proxy login {server}`")
    if token.expires is not None and time.time() >= token.expires:
        raise Problem(f"the token {token.name!r} has expired; run `mlflow-proxy login {server}`")
    return token.secret
