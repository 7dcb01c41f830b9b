"""The page: the whole chain of applications, outermost last, and what each is made of; no logic."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from proxy import oauth2, ui_script
from proxy.auth.tokens.tokens import Tokens
from proxy.backup import state
from proxy.callers import Callers, SignInParts
from proxy.doctor.visits import Visits
from proxy.edge import Edge
from proxy.forward import Forwarder, Rules
from proxy.gate import Gate, Page, SignIn, pages_alone
from proxy.history import History
from proxy.hosts import LOOPBACK, Hosts
from proxy.lane import Lane
from proxy.logs import AccessLog
from proxy.metrics import Metrics
from proxy.mlflow_server import MlflowServer
from proxy.operations import OWN
from proxy.pages import client
from proxy.pages.account import account_pages
from proxy.pages.admin import ADMIN, Sources, admin
from proxy.pages.current_user import current_user
from proxy.pages.errors import is_navigation
from proxy.pages.health import livez, readyz
from proxy.pages.metrics import metrics as metrics_page
from proxy.pages.probes_of_mlflow import health, version
from proxy.pages.sign_in import signed_in
from proxy.pages.token_api import token_api
from proxy.pages.token_forms import Rules as TokenRules
from proxy.pages.waiting import unless_up
from proxy.settings import Settings
from proxy.tracing import Tracing
from proxy.ui.keeper import Keeper
from proxy.ui.serving import Ui
from proxy.watchdog import Watchdog
from proxy.ways import Ways, ways

# For anybody to read: what is wrong where is in the log.
_USERS_PROBLEM = "the users file has a mistake; its last good content is in force, and the log says more"


@dataclass(frozen=True, slots=True)
class Applications:
    """One application for each listener, and what they share that must be run or ended."""

    public: Edge
    """The service itself."""
    lane: Lane
    """Its lane for plain requests."""
    internal: Edge
    """The same for MLflow's own jobs alone, on a loopback port."""
    scraper: Edge
    """The metrics and the probes, without a credential (PROXY_METRICS_ADDRESS)."""
    ways: Ways


def applications(
    settings: Settings,
    mlflow: MlflowServer,
    callers: Callers,
    metrics: Metrics,
    access_log: AccessLog,
    watchdog: Watchdog,
    *,
    jobs_port: int,
    certificate_names: tuple[str, ...],
    own_authority: bool = False,
    before: Ways | None = None,
    probed: Callable[[], Mapping[str, str | None]] = dict,
    probe_notes: Callable[[], Mapping[str, str]] = dict,
    history: History | None = None,
    ui: Keeper | None = None,
    tracing: Tracing | None = None,
    visits: Visits | None = None,
) -> Applications:
    """Put the service together; nothing runs yet. `before` are the ways of the one that this replaces;
    without `ui`, MLflow serves its own files; `visits` are the doctor's."""
    prefix = urlsplit(settings.public_url).path.rstrip("/") if settings.public_url else ""
    shared = ways(settings, mlflow, mlflow.socket, before)
    hold, spool = shared.hold, shared.spool
    metrics.child = mlflow
    metrics.held_requests = hold.waiting_for
    metrics.waits = lambda: hold.waited
    metrics.users_held_up = hold.users_held_up
    metrics.slots = shared.places.used
    metrics.spool_bytes = lambda: spool.used
    authenticator, sign_in = callers.authenticator, callers.sign_in

    forward = Forwarder(
        shared.pool,
        hold,
        watchdog,
        Rules(
            authority=f"127.0.0.1:{jobs_port}".encode(),
            prefix=prefix.encode(),
            direct_artifacts=settings.direct_artifacts,
            body_limit=settings.body_limit,
            stall=settings.stall_timeout,
            answer=settings.answer_timeout,
            abandoned=settings.abandoned_timeout,
            verified_names=settings.verified_names,
            compress=settings.compression,
        ),
        places=shared.places,
        spool=spool,
    )
    mlflow_ui = unless_up(mlflow, forward, prefix)
    names = (*LOOPBACK, settings.host, *certificate_names, *settings.allowed_hosts)
    hosts = Hosts(names, settings.public_url)
    others: dict[str, Callable[[], str | None]] = {
        "users": lambda: _USERS_PROBLEM if authenticator.users.problem else None,
        "audit-log": lambda: callers.audit.problem,
        **({} if (jwts := callers.jwts) is None else {"jwt-issuers": lambda: jwts.problem}),
        **({} if sign_in is None else _looks(sign_in)),
    }
    probes = {
        "/livez": Page(OWN["livez"], livez, anywhere=True),
        "/readyz": Page(
            OWN["readyz"],
            readyz(mlflow, probed, probe_notes, **others),
            anywhere=True,
        ),
        "/metrics": Page(OWN["metrics"], metrics_page(metrics), anywhere=True),
    }
    pages = dict(probes)
    if history is not None:
        sources = Sources(
            prefix,
            mlflow,
            metrics,
            history,
            probed,
            others,
            None if sign_in is None else sign_in.sessions.list_all,
            functools.partial(state.read, settings.data_dir),
        )
        pages[ADMIN] = Page(OWN["admin"], admin(sources))
    pages[ui_script.PATH] = Page(OWN["sign-in"], ui_script.script)
    mlflow_ui = ui_script.adding_script(mlflow_ui, sessions=sign_in is not None)
    if callers.tokens is not None:
        pages |= _credential_pages(settings, callers, callers.tokens, prefix, own_authority)
    session_gate = None
    if sign_in is not None:
        pages |= _sign_in_pages(settings, sign_in, callers, hosts, metrics)
        session_gate = SignIn(
            sign_in.sessions,
            oauth2.asking(prefix),
            "For MLflow's client run `mlflow-proxy login "
            f"{settings.public_url or 'URL'}`, or set MLFLOW_TRACKING_TOKEN to a token that you make at "
            f"{settings.public_url or prefix}/-/account.",
            passwords=settings.basic_auth,
        )
    answers = {"current-user": current_user, "version": version, "health": health(mlflow)}
    if ui is not None:
        answers["ui"] = Ui(
            ui,
            mlflow_ui,
            changed=lambda page: ui_script.with_script(page, sessions=sign_in is not None),
            left_to_mlflow=lambda scope: is_navigation(scope) and not _back_soon(mlflow, hold.seconds),
            frame_options=lambda: mlflow.frame_options,
            stall=settings.stall_timeout,
            compress=settings.compression,
        )
    if visits is not None:
        visits.moves_to(pages)
    gate = Gate(
        pages,
        answers,
        mlflow_ui,
        authenticator,
        hosts,
        prefix=prefix,
        delete_role=settings.delete_role,
        direct_artifacts=settings.direct_artifacts,
        sign_in=session_gate,
    )
    public = Edge(gate, metrics, access_log, callers.audit, settings.trusted_proxies, tracing=tracing)
    return Applications(
        public=public,
        lane=Lane(public, gate, forward),
        internal=Edge(gate, metrics, access_log, callers.audit, (), internal=True, tracing=tracing),
        scraper=Edge(pages_alone(probes), metrics, access_log, callers.audit, ()),
        ways=shared,
    )


def _back_soon(mlflow: MlflowServer, hold_seconds: float) -> bool:
    """Whether the calls of a page that is loaded now can be expected to be answered in the end."""
    if mlflow.up:
        return True
    return mlflow.away_since is not None and time.monotonic() - mlflow.away_since < hold_seconds


def _looks(sign_in: SignInParts) -> dict[str, Callable[[], str | None]]:
    return {
        "sessions": lambda: sign_in.sessions.problem,
        "identity-provider": lambda: sign_in.provider.problem,
    }


def _sign_in_pages(
    settings: Settings, sign_in: SignInParts, callers: Callers, hosts: Hosts, metrics: Metrics
) -> dict[str, Page]:
    passwords = callers.authenticator if settings.basic_auth else None
    routes = oauth2.routes(
        settings,
        sign_in.provider,
        sign_in.sessions,
        passwords,
        hosts,
        sign_in.keys,
        metrics.authentication,
        callers.audit,
    )
    # All but this one are for people who have not signed in yet.
    who = routes.pop("/oauth2/userinfo")
    return {
        **{path: Page(OWN["sign-in"], app) for path, app in routes.items()},
        "/oauth2/userinfo": Page(OWN["own"], who),
        "/-/signed-in": Page(OWN["sign-in"], signed_in),
    }


def _credential_pages(
    settings: Settings, callers: Callers, tokens: Tokens, prefix: str, own_authority: bool
) -> dict[str, Page]:
    sign_in = callers.sign_in
    account = account_pages(
        None if sign_in is None else sign_in.sessions,
        tokens,
        lambda scope: scope["exchange"].session,
        TokenRules(
            settings.token_max_lifetime, settings.token_overlap, settings.public_url, prefix, own_authority
        ),
        tokens.may_manage,
        *([] if sign_in is None else [sign_in.provider.sign_out_origin]),
    )
    provider = None
    if sign_in is not None and settings.jwt_audience and settings.cli_client_id is not None:
        provider = client.Provider(
            sign_in.provider.issuer, settings.cli_client_id, settings.cli_scopes, settings.jwt_audience[0]
        )
    how = client.login_json(provider, passwords=settings.basic_auth, public_url=settings.public_url)
    own = {
        **account,
        **token_api(tokens, settings.token_max_lifetime),
        "/-/whoami": client.whoami,
    }
    return {"/-/login.json": Page(OWN["sign-in"], how)} | {
        path: Page(OWN["own"], app) for path, app in own.items()
    }
