"""The audit log: what is an event, what its line says, and a chain that outlives rotation and crashes."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import os
import re
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import fake_provider
import pytest
import session_site
from audit_site import (
    RUN,
    all_lines,
    events,
    exchange,
    kinds,
    lines,
    running,
    settings,
    until,
    whole,
    write,
)
from end_to_end.databases import PostgreSQL, database
from programs import needs
from sign_in_service import PASSWORD, Browser, serving, settings_for

from proxy.audit import EVENTS, NO_AUDIT, OUTCOMES
from proxy.audit import writer as writers
from proxy.audit.chain import BEGINNING, Head
from proxy.audit.commands import commands_audit, commands_file, text, verify_audit
from proxy.audit.entry import LONGEST, entry
from proxy.audit.exchanges import told
from proxy.audit.file import ChainFile
from proxy.audit.keys import KEY_FILE, audit_keys
from proxy.audit.log import audit_file, open_audit
from proxy.audit.reading import files_of
from proxy.audit.repeats import Repeats
from proxy.audit.writer import Writer
from proxy.auth import passwords
from proxy.auth.session import Sessions, cookie_secrets
from proxy.auth.users import UsersFile
from proxy.errors import UserError
from proxy.identity import Identity, Role
from proxy.operations import OPERATIONS
from proxy.settings import Settings
from proxy.store import Store
from proxy.store import audit as rows

PROJECT = Path(__file__).parent.parent
FIELDS = [
    *("time", "sequence", "event", "outcome", "user", "role", "auth", "credential", "credential_name"),
    *("session", "client", "request_id", "operation", "target", "details"),
    *("chain", "previous", "key", "hmac"),
]
VERA = Identity("vera", Role.VIEWER, "basic", "", "vera")


# ---- what a line says ----


def test_a_line_says_who_did_what_to_what_with_which_credential_and_from_where(tmp_path: Path) -> None:
    given = settings(tmp_path)

    async def delete() -> None:
        async with running(given) as log:
            log.observe(exchange(target={"run_id": RUN, "experiment_id": "7"}, session="5e55"))

    asyncio.run(delete())
    line = next(line for line in all_lines(given) if line["event"] == "deletion")
    assert list(line) == FIELDS
    said = {name: line[name] for name in FIELDS[2:15]}
    assert said == {
        "event": "deletion",
        "outcome": "success",
        "user": "ada",
        "role": "admin",
        "auth": "token",
        "credential": "c0ffee0123456789",
        "credential_name": "nightly",
        "session": "5e55",
        "client": "192.0.2.7",
        "request_id": "req-1",
        "operation": "delete-run",
        "target": {"run_id": RUN, "experiment_id": "7"},
        "details": {"status": 200, "path": "/api/2.0/mlflow/runs/delete"},
    }
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"])


def test_every_line_has_every_field(tmp_path: Path) -> None:
    write(settings(tmp_path), 1)
    for line in all_lines(settings(tmp_path)):
        assert list(line) == FIELDS


def test_texts_are_bounded_and_hold_nothing_that_looks_like_a_credential() -> None:
    secret = "mlfpat_4nX7pQ2vTz9LkWcB5sYdHgJmRa1EoU0iFq3x"
    jwt = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhZGEifQ.c2lnbmF0dXJl"
    line = entry(
        "administration",
        at=0,
        exchange=exchange(path=f"/api/{secret}/x", identity=None),
        user=secret,
        target={"model": f"models:/{jwt}", "uri": "postgresql://mlflow:hunter2@db/x"},
        details={"path": f"/a/{secret}", "long": "x" * 9999, "lone": "\ud800", "nan": float("nan")},
    )
    written = json.dumps(line)
    for part in ("4nX7pQ2v", "eyJzdWIi", "c2lnbmF0", "hunter2"):
        assert part not in written
    assert "mlfpat_***" in written
    assert len(line["details"]["long"]) == LONGEST + 3
    assert line["details"]["lone"] == "\ufffd"
    assert "nan" not in line["details"]
    many = entry(
        "deletion", at=0, target={str(n): "x" for n in range(999)}, details=dict.fromkeys("ab" * 99, 1)
    )
    assert len(many["target"]) == 48


# ---- which requests are events ----


@pytest.mark.parametrize(
    ("over", "event", "outcome"),
    [
        (exchange(), "deletion", "success"),
        (exchange(status=404), "deletion", "failed"),
        (exchange(status=499, mlflow_started=1.0, error="client_gone"), "deletion", "unknown"),
        (exchange(status=499, error="client_gone"), "deletion", "failed"),
        (exchange(status=502, mlflow_started=1.0, error="reset"), "deletion", "unknown"),
        (exchange(status=503, refusal="not_ready"), "deletion", "failed"),
        (exchange(path="/api/2.0/mlflow/runs/restore"), "restoration", "success"),
        (exchange(path="/api/2.0/mlflow/experiments/delete"), "deletion", "success"),
        (exchange("DELETE", "/api/2.0/mlflow/registered-models/alias"), "deletion", "success"),
        (
            exchange("DELETE", f"/api/2.0/mlflow-artifacts/artifacts/7/{RUN}/artifacts/m"),
            "deletion",
            "success",
        ),
        (exchange(path="/api/3.0/mlflow/gateway/secrets/create"), "administration", "success"),
        (
            exchange(path="/ajax-api/3.0/mlflow/assistant/sessions/1/permission"),
            "permission_change",
            "success",
        ),
        (exchange(path="/api/2.0/mlflow/users/update-password"), "permission_change", "success"),
        (exchange(path="/api/2.0/mlflow/something-new"), "administration", "success"),
        (exchange(status=401, refusal="unauthenticated", identity=None), "refused", "refused"),
        (exchange(status=429, refusal="locked_out", identity=None), "refused", "refused"),
        (exchange(status=403, refusal="forbidden", identity=VERA), "refused", "refused"),
        (exchange(status=403, refusal="cross_origin"), "refused", "refused"),
        (exchange("GET", "/", 403, refusal="forbidden", identity=VERA), "refused", "refused"),
        (exchange("PUT", "/api/2.0/mlflow-artifacts/artifacts/7/x", error="revoked"), "refused", "refused"),
    ],
)
def test_what_is_an_event(over: Any, event: str, outcome: str) -> None:
    found = told(over)
    assert found is not None
    assert (found.event, found.outcome) == (event, outcome)


@pytest.mark.parametrize(
    "over",
    [
        exchange("GET", "/"),
        exchange("GET", "/metrics"),
        exchange("GET", "/api/3.0/mlflow/gateway/secrets/list"),
        exchange("GET", "/api/2.0/mlflow/something-new", 404),
        exchange(path="/api/2.0/mlflow/runs/create"),
        exchange(path="/api/2.0/mlflow/runs/log-batch", status=400),
        exchange(path="/api/2.0/mlflow/runs/log-batch", status=503, refusal="not_ready"),
        # A browser that is sent to the sign-in page, and MLflow's own 403 or a model provider's 401.
        exchange("GET", "/", 303, refusal="unauthenticated", identity=None),
        exchange(path="/gateway/openai/v1/responses", status=401),
    ],
)
def test_what_is_no_event(over: Any) -> None:
    assert told(over) is None


def test_every_operation_that_deletes_or_administers_is_an_event() -> None:
    from proxy.audit import exchanges

    for operation in OPERATIONS:
        changes = operation.access.value in ("delete", "destroy", "admin")
        ours = operation.name in ("admin", "metrics", "unparsed")  # which change nothing
        assert (operation.name in exchanges._EVENTS) >= (changes and not ours), operation
        assert not (ours and operation.name in exchanges._EVENTS)


def test_what_the_path_names_is_the_target_where_the_body_was_not_read() -> None:
    refused = exchange(
        "DELETE", f"/api/2.0/mlflow-artifacts/artifacts/7/{RUN}/artifacts/m", 403, VERA, refusal="forbidden"
    )
    found = told(refused)
    assert found is not None
    assert found.target == {"experiment_id": "7", "run_id": RUN}


# ---- refusals that repeat ----


def test_the_first_refusal_is_told_at_once_and_the_rest_counted(tmp_path: Path) -> None:
    given = settings(tmp_path)

    async def knock() -> None:
        async with running(given) as log:
            for _ in range(50):
                log.observe(exchange(status=403, refusal="forbidden", identity=VERA))
            log.observe(exchange(status=401, refusal="unauthenticated", identity=None))
            await until(lambda: events(given).count("refused") == 2)
            assert log.counts["refused"] == 51

    asyncio.run(knock())
    refused = [line for line in all_lines(given) if line["event"] == "refused"]
    assert [(line["user"], line["details"].get("repeats")) for line in refused] == [
        ("vera", None),
        (None, None),
        ("vera", 49),  # told at the end, with what came again
    ]


def test_repeats_are_told_once_a_minute_and_then_forgotten() -> None:
    repeats = Repeats()
    line = entry("refused", at=0, user="vera", details={"reason": "forbidden"})
    assert repeats.first(line, 0.0) is line
    assert repeats.first(line, 1.0) is None
    assert repeats.due(59.0) == []
    assert [each["details"] for each in repeats.due(61.0)] == [{"reason": "forbidden", "repeats": 1}]
    assert repeats.due(122.0) == []
    assert repeats.first(line, 123.0) is line


# ---- the chain ----


def test_each_line_holds_the_digest_of_the_one_before(tmp_path: Path) -> None:
    import hashlib

    given = settings(tmp_path)
    write(given, 5)
    write(given, 5)
    previous = BEGINNING
    for number, line in enumerate(audit_file(given).read_bytes().splitlines(), 1):
        fields = json.loads(line)
        assert (fields["sequence"], fields["previous"]) == (number, previous)
        previous = hashlib.sha256(line).hexdigest()
    assert len({line["chain"] for line in all_lines(given)}) == 1
    whole(given)


def test_starts_and_stops_are_told(tmp_path: Path) -> None:
    given = settings(tmp_path)
    write(given, 0)
    write(given, 0)
    assert events(given) == [
        *("chain_started", "service_started", "service_stopped"),
        *("chain_continued", "service_started", "service_stopped"),
    ]


def test_a_full_file_is_kept_under_its_first_lines_number_and_the_chain_runs_on(tmp_path: Path) -> None:
    given = settings(tmp_path, audit_max_size=8192)
    write(given, 60)
    write(given, 60)
    files = files_of(audit_file(given))
    assert len(files) > 5
    for path in files:
        found = lines(path)
        if path != audit_file(given):
            assert path.name == f"audit-{found[0]['sequence']:010d}.jsonl"
            assert path.stat().st_size < 3 * 8192
        assert found[0]["event"] == ("chain_started" if path == files[0] else "file_started")
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [line["sequence"] for line in all_lines(given)] == list(range(1, len(all_lines(given)) + 1))
    whole(given)


def test_a_group_that_may_read_the_log_may_read_the_next_file(tmp_path: Path) -> None:
    given = settings(tmp_path, audit_max_size=4096)
    write(given, 1)
    audit_file(given).chmod(0o640)
    write(given, 30)
    assert {stat.S_IMODE(path.stat().st_mode) for path in files_of(audit_file(given))} == {0o640}


def test_a_file_that_logrotate_renames_is_followed_by_a_new_one(tmp_path: Path) -> None:
    given = settings(tmp_path)
    path = audit_file(given)

    async def rotate() -> None:
        async with running(given) as log:
            log.record("deletion", user="before")
            await until(lambda: "deletion" in events(given))
            path.rename(path.with_name("audit.jsonl.1"))
            log.record("deletion", user="after")
            await until(lambda: events(given).count("deletion") == 2)
            assert log.problem is None

    asyncio.run(rotate())
    assert [line["event"] for line in lines(path)] == ["file_started", "deletion", "service_stopped"]
    whole(given)
    old = path.with_name("audit.jsonl.1")
    path.with_name("audit.jsonl.2.gz").write_bytes(gzip.compress(old.read_bytes()))
    old.unlink()
    whole(given)


def test_a_rename_between_two_lives_is_followed_too(tmp_path: Path) -> None:
    given = settings(tmp_path)
    write(given, 3)
    path = audit_file(given)
    path.rename(path.with_name("audit.jsonl-20260101"))
    write(given, 3)
    assert (lines(path)[0]["sequence"], lines(path)[0]["event"]) == (7, "file_started")
    whole(given)
    path.with_name("audit.jsonl-20260101").unlink()  # moved away, as somebody's rules have it
    report = verify_audit(given)
    assert (report.exit_code, report.findings) == (0, [])
    assert re.search(r"begins at 7 here; lines 1 to 6 are elsewhere", report.notes[0])


def test_a_line_that_broke_off_is_kept_and_marked_and_the_chain_goes_on(tmp_path: Path) -> None:
    given = settings(tmp_path)
    write(given, 3)
    path = audit_file(given)
    with path.open("ab") as file:
        file.write(b'{"time":"2026-01-01T00:00:00.000Z","sequ')
    write(given, 3)
    assert b'"sequ\n' in path.read_bytes()
    torn = next(line for line in all_lines(given) if line["event"] == "line_torn")
    assert torn["details"] == {"bytes": 40}
    whole(given)
    assert "broke off, and the next line says so" in text(verify_audit(given))


@pytest.mark.slow
def test_killed_at_any_moment_the_chain_goes_on_whole(tmp_path: Path) -> None:
    given = settings(tmp_path, audit_max_size=65536)
    program = (
        "import asyncio, sys; from pathlib import Path; from audit_site import *\n"
        "async def life():\n"
        "    async with running(settings(Path(sys.argv[1]), audit_max_size=65536)) as log:\n"
        "        print('on', flush=True)\n"
        "        while True:\n"
        "            log.record('deletion', user='ada'); await asyncio.sleep(0.0005)\n"
        "asyncio.run(life())\n"
    )
    for life in range(3):
        child = subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path)],
            cwd=PROJECT / "tests",
            env={**os.environ, "PYTHONPATH": str(PROJECT)},
            stdout=subprocess.PIPE,
        )
        assert child.stdout is not None
        assert child.stdout.readline() == b"on\n"
        time.sleep(0.6 + 0.13 * life)
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
    write(given, 1)
    assert len(all_lines(given)) > 300
    whole(given)


FULL_DISK = """
import asyncio, resource, signal, sys
from dataclasses import replace
from pathlib import Path
from audit_site import *
given = settings(Path(sys.argv[1]))
async def life():
    async with running(given) as log:
        log.record("deletion", user="before")
        await until(lambda: "deletion" in events(given))
        # As a full disk does, the kernel takes part of a line and then nothing (setrlimit(2), EFBIG).
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (audit_file(given).stat().st_size + 700, hard))
        for number in range(40):
            log.record("deletion", user=f"while full {number}")
        await until(lambda: log.problem is not None)
        print(log.problem, flush=True)
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        await until(lambda: log.problem is None)
        assert log.lost == 0
asyncio.run(life())
"""


def test_what_a_full_disk_does_not_take_waits_and_is_written_when_there_is_room(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path)],
        cwd=PROJECT / "tests",
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "can't be written (File too large)" in done.stdout
    given = settings(tmp_path)
    users = [line["user"] for line in all_lines(given) if line["event"] == "deletion"]
    assert users == ["before", *(f"while full {number}" for number in range(40))]
    assert "line_torn" in events(given)
    whole(given)


def test_what_waits_is_bounded_and_what_is_lost_is_counted_and_told(tmp_path: Path) -> None:
    file = ChainFile(tmp_path / "audit.jsonl", audit_keys(settings(tmp_path), make=True), 2**20)
    file.begin(Head("service-0", 0, BEGINNING))
    writer = Writer(file)  # nobody writes yet
    for _ in range(writers.MOST + 5):
        writer.put(entry("deletion", at=time.time()))
    assert (writer.waiting, writer.lost) == (writers.MOST, 5)
    writer.start()
    assert writer.close(60)
    last = lines(tmp_path / "audit.jsonl")[-1]
    assert (last["event"], last["details"], last["outcome"]) == ("events_lost", {"lost": 5}, "failed")


def test_two_processes_never_write_one_file(tmp_path: Path) -> None:
    given = settings(tmp_path)

    async def twice() -> None:
        async with running(given):
            (tmp_path / "other").mkdir()
            other = settings(tmp_path / "other", audit_file=audit_file(given))
            with pytest.raises(UserError, match="another process writes it"):
                async with running(other):
                    pass

    asyncio.run(twice())
    whole(given)


def test_recording_does_not_wait_for_the_disk(tmp_path: Path) -> None:
    given = settings(tmp_path)

    async def hurry() -> None:
        async with running(given) as log:
            began = time.perf_counter()
            for _ in range(2000):
                log.record("deletion", exchange=exchange(), target={"run_id": RUN})
            assert (time.perf_counter() - began) / 2000 < 0.0005
            await until(lambda: events(given).count("deletion") == 2000, 20)

    asyncio.run(hurry())


def test_a_request_that_is_no_event_costs_next_to_nothing() -> None:
    over = exchange(path="/api/2.0/mlflow/runs/log-batch")
    began = time.perf_counter()
    for _ in range(100_000):
        told(over)
    assert (time.perf_counter() - began) / 100_000 < 5e-6


def test_a_defect_in_what_is_handed_in_is_counted_and_raises_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    given = settings(tmp_path)

    async def wrong() -> None:
        async with running(given) as log:
            log.record("deletion", target=7)  # type: ignore[arg-type]
            log.observe(exchange(target=None))
            assert log.lost == 2
            log.record("deletion", user="after")
            await until(lambda: "events_lost" in events(given))

    asyncio.run(wrong())
    assert "can't be written to the audit log" in caplog.text
    whole(given)


def test_it_can_be_switched_off(tmp_path: Path) -> None:
    given = settings(tmp_path, audit=False)

    async def off() -> None:
        store = Store.open(given)
        log = await open_audit(given, store)
        assert log is NO_AUDIT
        log.record("deletion")
        log.observe(exchange())
        await log.run()
        await log.aclose()
        store.close()

    asyncio.run(off())
    with commands_audit(given) as audit:
        audit.record("user_added", target={"user": "ann"})
    assert not audit_file(given).parent.exists()


# ---- the database ----


def test_the_database_is_told_of_the_newest_line_within_seconds(tmp_path: Path) -> None:
    given = settings(tmp_path)

    async def follow() -> None:
        async with running(given) as log:
            store = Store.open(given)
            log.record("deletion")

            def head() -> int:
                return max((row.sequence for row in store.run_blocking(rows.every)), default=0)

            await until(lambda: head() == 3)
            store.close()

    asyncio.run(follow())
    store = Store.open(given)
    (row,) = store.run_blocking(rows.every)
    store.close()
    last = all_lines(given)[-1]
    assert (row.chain, row.sequence) == (last["chain"], last["sequence"])
    assert row.file == str(audit_file(given))


def test_a_database_that_is_away_holds_up_no_line(tmp_path: Path) -> None:
    given = settings(tmp_path)

    async def away() -> None:
        async with running(given) as log:
            with contextlib.closing(sqlite3.connect(tmp_path / "proxy.db", isolation_level=None)) as other:
                other.execute("BEGIN EXCLUSIVE")
                for number in range(5):
                    began = time.monotonic()
                    log.record("deletion", user=str(number))
                    await until(lambda: events(given).count("deletion") == number + 1)  # noqa: B023
                    assert time.monotonic() - began < 1.0
                    await asyncio.sleep(0.5)
                other.execute("ROLLBACK")

    asyncio.run(away())
    whole(given)


@pytest.mark.slow
@needs(*PostgreSQL.programs)
def test_replicas_over_one_database_go_on_without_it_and_are_verified_together(tmp_path: Path) -> None:
    with database(PostgreSQL) as server:
        folders = [tmp_path / "one", tmp_path / "two"]
        for folder in folders:
            folder.mkdir()
        # As from a secret store; one key for all.
        more = {"database_url": server.uri(), "audit_key": "0123456789abcdef" * 4}
        replicas = [settings(folder, **more) for folder in folders]

        async def outage() -> None:
            async with running(replicas[0]) as one, running(replicas[1]) as two:
                for log in (one, two):
                    log.record("deletion", user="before")
                await asyncio.sleep(1.2)
                await asyncio.to_thread(server.stop)
                for log, given in ((one, replicas[0]), (two, replicas[1])):
                    began = time.monotonic()
                    log.record("deletion", user="meanwhile")
                    await until(lambda: events(given).count("deletion") == 2)  # noqa: B023
                    assert time.monotonic() - began < 1.0
                await asyncio.sleep(2.0)
                await asyncio.to_thread(server.start)
                await asyncio.sleep(2.5)
                assert (one.problem, two.problem, one.lost, two.lost) == (None, None, 0, 0)

        asyncio.run(outage())
        for given in replicas:
            assert "chain_broken" not in events(given)
            report = verify_audit(given)
            assert (report.exit_code, len(report.chains)) == (0, 1)
            assert any("is not among the files" in note for note in report.notes)
            assert kinds(verify_audit(given, everything=True)) == ["missing"]
        collected = [path for given in replicas for path in files_of(audit_file(given))]
        report = verify_audit(replicas[0], collected, everything=True)
        assert (report.exit_code, len(report.chains), report.notes) == (0, 2, [])


def test_a_query_that_was_given_up_and_carried_out_after_all_is_no_tampering(tmp_path: Path) -> None:
    given = settings(tmp_path)

    async def late() -> None:
        async with running(given) as log:
            store = Store.open(given)
            for _ in range(30):
                log.record("deletion")
                await asyncio.sleep(0.02)
                task = asyncio.create_task(log._note())
                await asyncio.sleep(0)
                task.cancel()  # as by a deadline: the thread goes on
            log.record("deletion", user="last")
            await until(lambda: store.run_blocking(rows.every)[0].sequence == 33)
            assert log.problem is None
            store.close()

    asyncio.run(late())
    assert "chain_broken" not in events(given)


# ---- keys ----


def test_a_key_is_made_and_kept_for_its_owner_alone(tmp_path: Path) -> None:
    given = settings(tmp_path)
    write(given, 1)
    path = tmp_path / KEY_FILE
    kept = path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    write(given, 1)
    assert path.read_text() == kept
    assert kept.strip() not in audit_file(given).read_text()
    assert kept.strip() not in repr(audit_keys(given, make=False))
    assert len({line["key"] for line in all_lines(given)}) == 1


def test_a_new_key_signs_and_the_old_ones_verify(tmp_path: Path) -> None:
    old, new = "0123456789abcdef" * 4, "fedcba9876543210" * 4
    write(settings(tmp_path), 2)
    write(settings(tmp_path, audit_key=old), 2)
    both = settings(tmp_path, audit_key=f"{new},{old}")
    write(both, 2)
    assert len({line["key"] for line in all_lines(both)}) == 3
    whole(both)
    report = verify_audit(settings(tmp_path, audit_key=new))
    assert (report.findings, report.exit_code) == ([], 4)
    assert "is not known" in report.unsure[0]


def test_a_damaged_key_file_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / KEY_FILE).write_text("short\n")
    with pytest.raises(UserError, match="holds no key"):
        write(settings(tmp_path), 1)


# ---- commands ----


def test_commands_have_a_chain_of_their_own(tmp_path: Path) -> None:
    given = settings(tmp_path)
    write(given, 1)
    for name in ("ann", "bob"):
        with commands_audit(given) as audit:
            audit.record("user_added", target={"user": name}, role="editor")
    found = lines(commands_file(given))
    assert [line["event"] for line in found] == ["chain_started", "user_added", "user_added"]
    assert found[1]["auth"] == "command"
    assert found[1]["user"]
    assert found[1]["target"] == {"user": "ann"}
    report = verify_audit(given)
    assert (report.exit_code, len(report.chains)) == (0, 2)


def test_what_a_command_did_before_it_failed_is_written(tmp_path: Path) -> None:
    given = settings(tmp_path)
    with contextlib.suppress(UserError), commands_audit(given) as audit:
        audit.record("token_revoked", target={"token": "1"})
        raise UserError("and the next one failed")
    assert lines(commands_file(given))[-1]["event"] == "token_revoked"


@pytest.mark.slow
def test_commands_at_the_same_time_wait_for_each_other(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from audit_site import settings\n"
        "from proxy.audit.commands import commands_audit\n"
        "for n in range(5):\n"
        "    with commands_audit(settings(Path(sys.argv[1]))) as audit: audit.record('user_added')\n"
    )
    write(settings(tmp_path), 1)
    with commands_audit(settings(tmp_path)) as audit:
        held = subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path)],
            cwd=PROJECT / "tests",
            env={**os.environ, "PYTHONPATH": str(PROJECT)},
        )
        with pytest.raises(subprocess.TimeoutExpired):
            held.wait(4)  # for this one
        audit.record("user_removed")
    assert held.wait(60) == 0
    children = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path)],
            cwd=PROJECT / "tests",
            env={**os.environ, "PYTHONPATH": str(PROJECT)},
        )
        for _ in range(3)
    ]
    assert [child.wait(60) for child in children] == [0, 0, 0]
    found = [line["event"] for line in lines(commands_file(settings(tmp_path)))]
    assert found == ["chain_started", "user_removed", *["user_added"] * 20]
    whole(settings(tmp_path))


def test_a_command_before_there_is_a_service_leaves_no_log_behind(tmp_path: Path) -> None:
    given = settings(tmp_path / "nothing")
    with commands_audit(given) as audit:
        audit.record("user_added", target={"user": "ann"})
    assert not (tmp_path / "nothing").exists()


def test_without_a_log_there_is_nothing_to_verify(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no audit log was written there yet"):
        verify_audit(settings(tmp_path))


# ---- who hands events in ----


def test_changes_of_the_users_file_are_told(tmp_path: Path) -> None:
    given, path = settings(tmp_path), tmp_path / "users"
    one, two = passwords.hash_password("seven lamps"), passwords.hash_password("eight lamps")
    path.write_text(f"ann:{one}:viewer\nbob:{one}\ncyd:{one}\n")

    async def change() -> None:
        async with running(given) as log:
            users = UsersFile(path, log)
            path.write_text(f"ann:{one}:admin\nbob:{two}\ndan:{one}:editor\n")
            users.current()

    asyncio.run(change())
    said = [
        (line["event"], line["target"]["user"], line["details"])
        for line in all_lines(given)
        if line["target"].get("user")
    ]
    by = {"by": "the users file"}
    assert said == [
        ("role_changed", "ann", by | {"before": "viewer", "after": "admin"}),
        ("password_changed", "bob", by),
        ("user_removed", "cyd", by),
        ("user_added", "dan", by | {"role": "editor"}),
    ]
    assert "argon2" not in audit_file(given).read_text()


def _told(given: Settings, *names: str) -> list[tuple[Any, ...]]:
    """Event, user, target's user, way and reason of the lines with these events."""
    return [
        (
            line["event"],
            line["user"],
            line["target"].get("user"),
            line["details"].get("way") or line["details"].get("by"),
            line["details"].get("reason"),
        )
        for line in all_lines(given)
        if line["event"] in names
    ]


def test_signing_in_and_out_is_told_by_either_way(tmp_path: Path) -> None:
    with (
        fake_provider.running() as provider,
        serving(settings_for(provider.issuer, tmp_path, username="root")) as service,
    ):
        browser = Browser()
        browser.sign_in(service)
        (session,) = service.call(service.sessions.list_all())
        browser.post(f"{service.url}/oauth2/sign_out", {}, {"Origin": service.url})
        form = {"username": "root", "password": PASSWORD}
        browser.post(f"{service.url}/oauth2/sign_in", form, {"Origin": service.url})
    assert _told(service.settings, "sign_in", "sign_out") == [
        ("sign_in", "ada@example.com", None, "identity provider", None),
        ("sign_out", "ada@example.com", None, None, None),
        ("sign_in", "root", None, "password", None),
    ]
    began = next(line for line in all_lines(service.settings) if line["event"] == "sign_in")
    assert (began["session"], began["client"]) == (session.id, "127.0.0.1")


def test_who_is_not_let_in_is_told_and_what_was_typed_is_not(tmp_path: Path) -> None:
    rules = {"username": "root", "allowed_groups": ("nobody-is-in-this-group",)}
    with (
        fake_provider.running() as provider,
        serving(settings_for(provider.issuer, tmp_path, **rules)) as service,
    ):
        browser = Browser()
        browser.sign_in(service)
        for name in ("root", "my-secret-in-the-wrong-field"):
            form = {"username": name, "password": "another-secret"}
            browser.post(f"{service.url}/oauth2/sign_in", form, {"Origin": service.url})
        browser.get(f"{service.url}/oauth2/callback?code=x&state=y")
    assert _told(service.settings, "sign_in", "sign_in_refused") == [
        ("sign_in_refused", None, "ada@example.com", "identity provider", "not_admitted"),
        ("sign_in_refused", None, "root", "password", "unauthenticated"),
        ("sign_in_refused", None, None, "identity provider", "bad_state"),
        # The second wrong password, told of with those that repeat.
        ("sign_in_refused", None, None, "password", "unauthenticated"),
    ]
    assert "secret" not in audit_file(service.settings).read_text()


def test_sessions_that_others_end_are_told(tmp_path: Path) -> None:
    with fake_provider.running() as provider, serving(settings_for(provider.issuer, tmp_path)) as service:
        browser = Browser()
        for _ in range(2):
            browser.jar.clear()
            browser.sign_in(service)
        first, second = service.call(service.sessions.list_all())
        service.call(service.sessions.end(first.id, "root"))
        ended = service.sessions.log_out(second.issuer, fake_provider.SUBJECT, None, "t1", time.time() + 60)
        assert service.call(ended) == 1
    assert _told(service.settings, "session_ended") == [
        ("session_ended", "root", "ada@example.com", None, None),
        ("session_ended", None, "ada@example.com", "the identity provider", None),
    ]


def test_a_role_that_the_provider_changes_is_told(tmp_path: Path) -> None:
    given = session_site.settings(tmp_path, session_refresh=1.0)

    async def refresh() -> None:
        async with running(given) as log:
            provider = session_site.ObedientProvider()
            replica = session_site.Replica(given, provider)
            secrets = cookie_secrets(given)
            replica.sessions = Sessions(
                given, replica.store, provider, session_site.roles, lambda *_: None, secrets, log
            )
            browser = session_site.Browser()
            await browser.sign_in(replica)
            provider.claims = replace(session_site.ADA, groups=("viewers",))
            await asyncio.sleep(1.1)
            await replica.ask(browser.header, browser)
            provider.mode = "refuses"
            await asyncio.sleep(1.1)
            await replica.ask(browser.header, browser)
            replica.store.close()

    asyncio.run(refresh())
    changed, ended = (line for line in all_lines(given) if line["event"] in ("role_changed", "session_ended"))
    assert (changed["target"], changed["details"]) == (
        {"user": "ada@example.com"},
        {"before": "admin", "after": "viewer"},
    )
    assert ended["details"] == {"by": "the identity provider (denied)"}


def test_the_document_explains_every_event_outcome_and_field() -> None:
    page = (PROJECT / "docs" / "audit-log.md").read_text()
    explained = set(re.findall(r"^\| `([a-z_]+)`", page, re.MULTILINE))
    assert explained >= EVENTS
    assert explained >= OUTCOMES
    assert explained >= set(FIELDS)
    assert explained <= EVENTS | OUTCOMES | set(FIELDS) | {"changed"} | set(_KINDS)


_KINDS = ("changed", "missing", "cut", "reordered", "repeated", "foreign", "replaced", "told")
