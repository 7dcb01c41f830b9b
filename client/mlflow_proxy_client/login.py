"""What login, logout and whoami do: signing in, keeping what came of it where MLflow finds it, undoing it."""

from __future__ import annotations

import base64
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone

from mlflow_proxy_client import browser, device, mlflow_file, oauth, renewal
from mlflow_proxy_client.addresses import covers, server_url
from mlflow_proxy_client.credentials import CredentialsFile, Entry, Grant, OwnToken
from mlflow_proxy_client.errors import Problem, plain
from mlflow_proxy_client.http import Answer
from mlflow_proxy_client.server import CURRENT, PASSWORD, PROVIDER, NewToken, Server, SignIn

Say = Callable[[str], None]


@dataclass(frozen=True)
class Wishes:
    """What the person asks for beyond the server's URL."""

    way: str | None = None
    """``device`` or ``browser``; None for the browser where this machine has one."""
    open_browser: bool = True
    port: int = 0
    """Of 127.0.0.1, for the browser to come back to; 0 for any."""
    keep_token: bool = True
    """Make a token of the server's and leave it to MLflow's client."""
    name: str | None = None
    lifetime: float | None = None
    """Of that token, in seconds."""
    any_audience: bool = False
    """Sign in although the access token would be good for another server that one has signed in to."""


def by_provider(server: Server, wishes: Wishes, known: Mapping[str, Entry], say: Say) -> Entry:
    """Sign in with the server's identity provider. `known` is what was left by earlier logins, by server."""
    offered = _offered(server, PROVIDER)
    _check_audience(server, offered, wishes, known, say)
    client = oauth.discover(offered)
    say(f"Signing in to {server.url} with {plain(client.issuer)}")
    way = wishes.way or ("browser" if browser.available() or not client.device_endpoint else "device")
    if way == "browser":
        tokens = browser.sign_in(client, say, open_it=wishes.open_browser, port=wishes.port)
    else:
        tokens = device.sign_in(client, say)
    bearer = f"Bearer {tokens.access}"
    who = _who(server, bearer)
    token = _new_token(server, bearer, wishes) if wishes.keep_token else None
    return Entry(who.text("user") or "", Grant(client, tokens), token)


def by_password(server: Server, user: str, password: str, wishes: Wishes) -> Entry:
    """Make a token with a user name and password, of which nothing is kept."""
    _offered(server, PASSWORD)
    authorization = basic(user, password)
    who = _who(server, authorization)
    return Entry(who.text("user") or user, token=_new_token(server, authorization, wishes))


def by_token(server: Server, secret: str) -> Entry:
    """Keep a token that was made elsewhere."""
    if not secret or not secret.isascii() or not secret.isprintable() or " " in secret:
        raise Problem("there is no token on standard input; paste it, or pipe it into the command")
    who = _who(server, f"Bearer {secret}")
    about = who.data.get("credential")
    if not isinstance(about, dict) or who.text("method") != "token":
        raise Problem("this is no token of the server's; make one on its account page")
    expires = about.get("expires")
    token = OwnToken(
        str(about.get("id")),
        str(about.get("name")),
        secret,
        float(expires) if isinstance(expires, (int, float)) else None,
    )
    return Entry(user=who.text("user") or "", token=token)


def check_mlflow_file(file: CredentialsFile) -> None:
    """Raise Problem, before anything is made, where MLflow's own file has a credential that is not ours."""
    user, password = mlflow_file.read()
    if password is not None and not _ours(file, password):
        raise Problem(
            f"{mlflow_file.path()} has a credential of {plain(user or 'somebody')!r} that was not left by "
            "mlflow-proxy login; --force replaces it, and --no-token leaves it alone"
        )


def keep(file: CredentialsFile, server: Server, entry: Entry, say: Say) -> None:
    """Write what a sign-in gave where MLflow finds it, and revoke the token that was there before."""
    with file.locked():
        before = file.read().get(server.url)
        if entry.token is not None:
            _note_other_server(file, server, say)
            mlflow_file.write(entry.user, entry.token.secret)
        file.put(server.url, entry)
    if before is not None:
        if entry.token is None and before.token is not None:
            mlflow_file.remove(before.token.secret)
        # Not the earlier sign-in with the provider: that may be the same one to it as the new (RFC 7009,
        # section 2.1), and would end that as well.
        for problem in _revoked(server, before, entry):
            say(f"note: what was there before could not be revoked: {problem}")


def logout(file: CredentialsFile, server: Server) -> list[str]:
    """Remove what there is for that server and revoke it; what could not be revoked, and why."""
    with file.locked():
        entry = file.read().get(server.url)
        if entry is None:
            raise Problem(f"nobody is signed in to {server.url} here")
        if entry.token is not None:
            mlflow_file.remove(entry.token.secret)
        file.put(server.url, None)
    problems = _revoked(server, entry)
    if entry.grant is not None and entry.grant.ended is None:
        try:
            oauth.revoke(entry.grant.client, entry.grant.tokens)
        except Problem as error:
            problems.append(f"the sign-in with {entry.grant.client.issuer}: {error}")
    return problems


def whoami(file: CredentialsFile, server: Server) -> tuple[Answer, str]:
    """Who the server says one is, and where the credential was found: the one that MLflow's client would send
    there, by its environment; else the one that login left for that server."""
    authorization, source = _credential(file, server)
    return server.whoami(authorization), source


def chosen_server(file: CredentialsFile, url: str | None) -> Server:
    """The server meant where none is named: MLFLOW_TRACKING_URI's, or the only one that there is."""
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    if url is None and uri.startswith(("http://", "https://")):
        url = uri
    if url is not None:
        return Server(server_url(url))
    known = sorted(file.read())
    if not known:
        raise Problem("nobody is signed in here; run `mlflow-proxy login URL`")
    if len(known) > 1:
        raise Problem(f"name one of the servers: {', '.join(known)}")
    return Server(known[0])


def basic(user: str, password: str) -> str:
    """The Authorization header of RFC 7617, as MLflow's client sends it."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode("ascii")


def _offered(server: Server, method: str) -> SignIn:
    sign_in = server.sign_in()
    if method not in sign_in.methods:
        how = {
            PROVIDER: "--username, for a user name and password",
            PASSWORD: "no --username, for the identity provider",
        }
        others: Sequence[str] = [
            words for other, words in how.items() if other != method and other in sign_in.methods
        ]
        make = f" made at {plain(sign_in.account)}" if sign_in.account else ""
        ways = "; or ".join([*others, f"--with-token and a token{make}"])
        raise Problem(f"{server.url} does not offer that; use {ways}")
    return sign_in


def _check_audience(
    server: Server, offered: SignIn, wishes: Wishes, known: Mapping[str, Entry], say: Say
) -> None:
    """Whoever serves a page can name the provider and the audience of another server, and would be sent an
    access token that opens that one (RFC 9728, sections 3.3 and 7.3; RFC 8707, section 3)."""
    for url, entry in sorted(known.items()):
        if url == server.url or entry.grant is None or wishes.any_audience or not offered.audience:
            continue
        client = entry.grant.client
        if (client.issuer, client.audience) == (offered.issuer, offered.audience):
            raise Problem(
                f"{server.url} asks for an access token that is for {url} (audience "
                f"{plain(offered.audience)!r}) and would open it; where both are the same server, --force "
                "signs in all the same"
            )
    if offered.audience.startswith(("https://", "http://")) and not covers(
        offered.audience.rstrip("/"), server.url
    ):
        say(
            f"note: {server.url} asks for an access token for {plain(offered.audience)}, which is not its "
            "own address; go on only where you trust it with that"
        )


def _new_token(server: Server, authorization: str, wishes: Wishes) -> OwnToken:
    name = wishes.name or f"login on {platform.node() or 'a machine without a name'}"
    made = server.make_token(authorization, name, wishes.lifetime)
    if not isinstance(made, NewToken) and wishes.name is None:
        # From an earlier login here, by somebody who lost the file.
        name = f"{name}, {datetime.now(timezone.utc):%Y-%m-%d %H:%M:%S}"
        made = server.make_token(authorization, name, wishes.lifetime)
    if not isinstance(made, NewToken):
        raise Problem(
            plain(made.text("message") or f"there is a token named {name!r} already; choose --name")
        )
    return OwnToken(made.id, made.name, made.secret, made.expires)


def _who(server: Server, authorization: str) -> Answer:
    answer = server.whoami(authorization)
    if answer.status != 200:
        raise Problem(plain(answer.text("message") or f"{server.url} lets nobody in with that"))
    return answer


def _ours(file: CredentialsFile, password: str) -> bool:
    return any(entry.token is not None and entry.token.secret == password for entry in file.read().values())


def _note_other_server(file: CredentialsFile, server: Server, say: Say) -> None:
    _, password = mlflow_file.read()
    for url, entry in file.read().items():
        if url != server.url and entry.token is not None and entry.token.secret == password:
            say(
                f"note: {mlflow_file.path()} had the token for {url}, and holds one alone; for several "
                "servers set MLFLOW_TRACKING_AUTH=mlflow-proxy"
            )


def _revoked(server: Server, entry: Entry, newer: Entry | None = None) -> list[str]:
    """Revoke the entry's token unless the newer entry has the same; why that was not possible."""
    token = entry.token
    if token is None or (newer is not None and newer.token == token):
        return []
    try:
        server.revoke_token(f"Bearer {token.secret}", CURRENT)
    except Problem as error:
        return [f"the token {token.name!r}: {error}"]
    return []


def _credential(file: CredentialsFile, server: Server) -> tuple[str, str]:
    known = server.url in file.read()
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    by_plugin = os.environ.get("MLFLOW_TRACKING_AUTH") == "mlflow-proxy" and known
    if not by_plugin and uri.startswith("http") and server_url(uri) == server.url:
        user, password = mlflow_file.read()
        user = os.environ.get("MLFLOW_TRACKING_USERNAME") or user
        password = os.environ.get("MLFLOW_TRACKING_PASSWORD") or password
        if user and password:
            named = os.environ.get("MLFLOW_TRACKING_PASSWORD") == password
            return basic(user, password), "MLFLOW_TRACKING_PASSWORD" if named else str(mlflow_file.path())
        if token := os.environ.get("MLFLOW_TRACKING_TOKEN"):
            return f"Bearer {token}", "MLFLOW_TRACKING_TOKEN"
    return f"Bearer {renewal.secret(file, server.url)}", str(file.path)
