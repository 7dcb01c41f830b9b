"""Where a browser without a session is sent: to the sign-in page, with the way back."""

from __future__ import annotations

from urllib.parse import quote

from proxy.oauth2.redirects import safe_rd
from proxy.oauth2.site import go
from proxy.pages.answers import App, Receive, Scope, Send


def asking(prefix: str) -> App:
    """The application. Not straight to the provider: a fragment (MLflow's routes are fragments) survives a
    redirect to a page of ours, whose script carries it on, and is lost at the provider.
    """

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        target = scope["raw_path"].decode("ascii")
        if query := scope["query_string"]:
            target += "?" + query.decode("latin-1")
        rd = safe_rd(prefix + target, prefix)
        await go(scope, send, f"{prefix}/oauth2/sign_in?rd={quote(rd, safe='')}", status=302)

    return app
