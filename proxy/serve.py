"""From settings to a running service: its sockets, servers and signals, and the order in which it ends."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib.metadata
import logging
import os
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvloop

from proxy import __version__, certificates, control, data_dir, first_start, logs
from proxy.app import applications
from proxy.backup import figures, journal
from proxy.callers import Callers, grounded, opened
from proxy.doctor.visits import Visits
from proxy.history import History
from proxy.house import Door, House, Houses
from proxy.metrics import Metrics
from proxy.mlflow_server import MlflowServer, schema
from proxy.mlflow_server.memory import memory
from proxy.pages import brand, templating
from proxy.probes import Watching
from proxy.reload import FILE, Operator, Parts, Reloader
from proxy.runtime_dir import runtime_dir
from proxy.secret_watch import SecretWatch
from proxy.servers import Server, config, listening, url_of
from proxy.settings import Loaded, Settings, database_uri
from proxy.tasks import ended
from proxy.tracing import tracing
from proxy.ui.keeper import Keeper
from proxy.watchdog import Watchdog
from proxy.welcome import welcome

log = logging.getLogger("proxy.serve")

PROGRESS_SECONDS = 5.0
# What MLflow gets at least, of the grace period, when the requests under way have used it up.
LEAST_GRACE = 5.0
# What threads get at the very end, when nothing is left for them to do.
THREAD_SECONDS = 2.0


def serve(reread: Callable[[], Loaded], confirm: Callable[[str], bool] | None = None) -> None:
    """Serve until SIGTERM or SIGINT with the settings that `reread` gives now, and again at each reload.

    `confirm` asks a person at the terminal, where there is one, whether to migrate the database. Raises
    UserError for whatever stops the start.
    """
    loaded = reread()
    settings = loaded.settings
    signal.signal(signal.SIGUSR1, lambda *_: None)  # until the logs are there: by itself it ends a process
    application_log = logs.configure(settings)
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)  # it tells of each listener by itself
    for warning in loaded.warnings:
        log.warning("%s", warning)
    try:
        with (
            listening(settings.host, settings.port, "MLFLOW_PORT") as main,
            runtime_dir(settings.runtime_dir) as runtime,
            data_dir.lock(settings.data_dir, url := url_of(settings, main), runtime / control.NAME),
        ):
            journal.check_finished(settings.data_dir)
            if confirm is not None:
                settings = schema.asked(settings, database_uri(settings), confirm)
            uvloop.run(_serve(loaded, settings, reread, main, url, runtime, application_log))
    finally:
        application_log.finish()
    _leave_threads()


async def _serve(
    loaded: Loaded,
    settings: Settings,
    reread: Callable[[], Loaded],
    main: socket.socket,
    url: str,
    runtime: Path,
    application_log: logs.ApplicationLog,
) -> None:
    password = first_start.check_password(settings)
    tls, authority = certificates.prepare(settings)
    log.info("serving at %s; MLflow is being started", url)
    jobs_token = secrets.token_urlsafe(32)
    mlflow_version = importlib.metadata.version("mlflow")
    metrics = Metrics(version=__version__, mlflow_version=mlflow_version)
    access_log = logs.AccessLog(settings.log_format, logs.access_output(settings))
    metrics.log_lines_dropped = lambda: access_log.dropped + application_log.dropped
    if tls is not None:
        metrics.certificate_expiry = lambda: tls.not_after
    watchdog = Watchdog()

    def observe(event: str, data: dict[str, Any]) -> None:
        if event == "line":
            logs.mlflow_line(data["text"], data["generation"])
        elif event == "ready" and data["generation"] == 1:
            generated = password if settings.password is None else None
            standing = houses.standing
            assert standing is not None
            user = standing.callers.authenticator.users.single_user if settings.basic_auth else None
            text = welcome(settings, url, user, generated, authority)
            print(text, file=sys.stderr, flush=True)

    async with contextlib.AsyncExitStack() as stack:
        # Last of all: whoever runs the loop waits for the threads of its executor, however long they take.
        stack.callback(lambda: asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1)))
        traced = await stack.enter_async_context(tracing(__version__, loaded.passthrough))
        if traced is not None:
            metrics.spans_lost = lambda: traced.lost
        ground = await stack.enter_async_context(grounded(settings, metrics))
        internal = stack.enter_context(listening("127.0.0.1", 0, "the jobs' listener"))
        jobs_port = internal.getsockname()[1]
        mlflow = MlflowServer(settings, loaded.passthrough, runtime, jobs_port, jobs_token, observe)
        doors = {name: Door(name) for name in ("public", "internal", "scraper")}
        houses = Houses(list(doors.values()))
        ui = Keeper(data_dir.layout(settings.data_dir).ui)
        data = data_dir.layout(settings.data_dir).path
        watching = Watching(
            lambda: reloader.loaded,
            data,
            mlflow,
            ground.store,
            lambda: None if tls is None else tls.not_after,
            houses.provider,
        )
        metrics.gauges = lambda: (*watching.gauges(), *figures.gauges(data))
        secret_watch = SecretWatch(lambda: reloader.loaded, lambda: reloader.reload(by=FILE))
        history = History(metrics.tally, lambda: memory(mlflow.pid))
        visits = Visits(lambda: reloader.loaded, reread, mlflow_version)
        stack.callback(access_log.close)
        await stack.enter_async_context(houses.closing())

        async def prepare(settings: Settings, password: str) -> _Prepared:
            """All that depends on the settings. Raises UserError."""
            shown = brand.load(settings.name, settings.logo_file)
            inside = contextlib.AsyncExitStack()
            try:
                callers = await inside.enter_async_context(
                    opened(settings, password, jobs_token, metrics, watchdog.end_credentials, ground)
                )
            except BaseException:
                await inside.aclose()
                raise
            return _Prepared(inside, callers, lambda: take_up(settings, callers, inside, shown))

        def take_up(
            settings: Settings, callers: Callers, inside: contextlib.AsyncExitStack, shown: brand.Brand
        ) -> None:
            apps = applications(
                settings,
                mlflow,
                callers,
                metrics,
                access_log,
                watchdog,
                jobs_port=jobs_port,
                certificate_names=tls.names if tls else (),
                own_authority=authority is not None,
                before=standing.ways if (standing := houses.standing) is not None else None,
                ui=ui,
                probed=lambda: {**secret_watch.checks(), **watching.probes.checks()},
                probe_notes=watching.probes.notes,
                history=history,
                tracing=traced,
                visits=visits,
            )
            background = [asyncio.create_task(coroutine) for coroutine in callers.background]
            for task in background:
                task.add_done_callback(_say_failure)
            inside.push_async_callback(ended, background)
            edges = {"public": apps.public, "internal": apps.internal, "scraper": apps.scraper}
            houses.move_into(House(callers, edges, {"public": apps.lane}, apps.ways, inside))
            templating.show(shown)
            logging.getLogger().setLevel(settings.log_level.upper())
            for server in servers:
                server.config.timeout_graceful_shutdown = round(settings.grace_seconds)

        servers = [Server(config(doors["internal"], settings, None), internal)]
        if settings.metrics_address is not None:
            scraper = stack.enter_context(listening(*settings.metrics_address, "PROXY_METRICS_ADDRESS"))
            servers.append(Server(config(doors["scraper"], settings, None), scraper))
        public = Server(config(doors["public"], settings, tls), main)
        servers.append(public)
        (await prepare(settings, password)).take_up()
        reloader = Reloader(loaded, Parts(reread, prepare, mlflow, ground.store, tls, ground.audit))
        commands: dict[str, control.Command] = {
            "reload": lambda asked, say: reloader.reload(
                say, by=Operator.of(asked), roll=bool(asked.get("roll"))
            ),
            **visits.commands,
        }
        await stack.enter_async_context(control.listening(runtime / control.NAME, commands))

        def reopen() -> None:
            access_log.reopen()
            application_log.reopen()
            log.info("SIGUSR1: the logs' files were opened again")

        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, reopen)
        background = [watchdog.run(), ground.audit.run(), watching.probes.run(), history.run(), ui.run()]
        background.append(secret_watch.run())
        await _live(reloader, public, servers[:-1], mlflow, background, tls)


def _leave_threads() -> None:
    """End the process here where threads go on, which Python would wait for; they may wait for a database
    that stands still."""
    deadline = time.monotonic() + THREAD_SECONDS
    threads = [one for one in threading.enumerate() if one is not threading.main_thread() and not one.daemon]
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    if any(thread.is_alive() for thread in threads):
        sys.stderr.flush()
        os._exit(0)


@dataclass(frozen=True, slots=True)
class _Prepared:
    stack: contextlib.AsyncExitStack
    callers: Callers
    take_up: Callable[[], None]

    async def discard(self) -> None:
        for coroutine in self.callers.background:
            coroutine.close()
        await self.stack.aclose()


async def _live(
    reloader: Reloader,
    public: Server,
    others: list[Server],
    mlflow: MlflowServer,
    background: list[Coroutine[Any, Any, None]],
    tls: certificates.TlsContext | None,
) -> None:
    """Everything that runs, until it is asked to end; then the clients' requests first, MLflow after them."""
    background.append(_say_progress(mlflow))
    if tls is not None:
        background.append(tls.watch())
    async with _running(*(server.serve() for server in others)), _running(*background):
        supervision = asyncio.create_task(mlflow.run())
        supervision.add_done_callback(lambda _: public.stop())
        _on_signals(public, others, reloader)
        gc.collect()
        gc.set_threshold(10_000, *gc.get_threshold()[1:])
        # What is there now lives for ever, and a request leaves no cycles: the collector took a tenth of a
        # loaded proxy's time.
        gc.freeze()
        try:
            await public.serve()
        finally:
            began = public.asked_to_stop_at or time.monotonic()
            left = reloader.loaded.settings.grace_seconds - (time.monotonic() - began)
            log.info("ending MLflow")
            await mlflow.stop(max(LEAST_GRACE, left))
            for server in others:
                server.stop()
            await supervision
    log.info("ended")


def _on_signals(public: Server, others: list[Server], reloader: Reloader) -> None:
    def end() -> None:
        if public.should_exit:
            # Asked twice: whoever does that has no patience left.
            for server in (public, *others):
                server.force_exit = True
        else:
            log.info("asked to end: no new connection is taken, requests under way finish")
        public.stop()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end)
    reloads: set[asyncio.Task[bool]] = set()

    def reload() -> None:
        task = loop.create_task(reloader.reload())
        reloads.add(task)
        task.add_done_callback(reloads.discard)

    loop.add_signal_handler(signal.SIGHUP, reload)


@contextlib.asynccontextmanager
async def _running(*coroutines: Any) -> AsyncIterator[None]:
    """Those run while the body does, and are cancelled after it; a failure of one is logged, not lost."""
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    for task in tasks:
        task.add_done_callback(_say_failure)
    try:
        yield
    finally:
        await ended(tasks)


def _say_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("a part of the service has failed", exc_info=error)


async def _say_progress(mlflow: MlflowServer) -> None:
    """How far a long start is, in the log, for whoever waits in front of it."""
    said = ""
    while True:
        await asyncio.sleep(PROGRESS_SECONDS)
        reason = "" if mlflow.up else mlflow.reason
        if reason and reason != said:
            log.info("%s", reason)
        said = reason
