"""Whoever can write to the audit log's files, or only send requests, against the audit log."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import wire
from attacked import PASSWORDS, Target
from audit_site import (
    ADA,
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

from proxy.audit.commands import text, verify_audit
from proxy.audit.log import audit_file
from proxy.audit.reading import files_of
from proxy.audit.repeats import KINDS
from proxy.audit.report import Report
from proxy.identity import Credential, Identity, Role
from proxy.settings import Settings
from proxy.store import Store
from proxy.store import audit as rows

KEY = "0123456789abcdef" * 4
ANOTHER_KEY = "fedcba9876543210" * 4


@pytest.fixture
def given(tmp_path: Path) -> Settings:
    """A log of some forty lines in several files, ended in good order, which nothing is wrong with."""
    given = settings(tmp_path, audit_key=KEY, audit_max_size=8192)
    write(given, 20)
    write(given, 20)
    assert len(files_of(audit_file(given))) >= 3
    whole(given)
    return given


def edited(path: Path, change: Callable[[list[bytes]], object]) -> None:
    """The same file with its lines changed in place."""
    held = path.read_bytes().splitlines(keepends=True)
    change(held)
    path.write_bytes(b"".join(held))


def found(given: Settings, **more: Any) -> list[tuple[str, str, int]]:
    """What a verification finds: kind, file, line."""
    report = verify_audit(given, **more)
    assert report.exit_code == (3 if report.findings else 0)
    return [(finding.kind, Path(finding.file).name, finding.line) for finding in report.findings]


def first(given: Settings) -> Path:
    return files_of(audit_file(given))[0]


# ---- files that were changed ----


def test_a_changed_line_is_found(given: Settings) -> None:
    edited(first(given), lambda held: held.__setitem__(4, held[4].replace(b'"ada"', b'"bob"')))
    assert found(given) == [("changed", first(given).name, 5)]


def test_a_line_whose_time_was_changed_by_a_second_is_found(given: Settings) -> None:
    def later(held: list[bytes]) -> None:
        moved = re.sub(
            rb"(\d)\.(\d{3})Z", lambda m: b"%d.%sZ" % ((int(m[1]) + 1) % 10, m[2]), held[2], count=1
        )
        held[2] = moved

    edited(first(given), later)
    assert found(given) == [("changed", first(given).name, 3)]


def test_a_line_cut_out_is_found(given: Settings) -> None:
    edited(first(given), lambda held: held.pop(6))
    assert found(given) == [("missing", first(given).name, 7)]


def test_several_lines_cut_out_are_named_by_their_numbers(given: Settings) -> None:
    edited(first(given), lambda held: held.__delitem__(slice(3, 9)))
    report = verify_audit(given)
    assert kinds(report) == ["missing"]
    assert "lines 4 to 9" in report.findings[0].text


def test_a_cut_end_is_found_by_the_database(given: Settings) -> None:
    edited(audit_file(given), lambda held: held.__delitem__(slice(-2, None)))
    report = verify_audit(given)
    assert kinds(report) == ["cut"]
    last = max(line["sequence"] for line in all_lines(given))
    assert f"lines {last + 1} to {last + 2}" in report.findings[0].text


def test_a_whole_last_file_taken_away_is_found(given: Settings) -> None:
    audit_file(given).unlink()
    assert [kind for kind, _, _ in found(given)] == ["cut"]


def test_a_whole_file_taken_from_the_middle_is_found(given: Settings) -> None:
    files_of(audit_file(given))[1].unlink()
    assert [kind for kind, _, _ in found(given)] == ["missing"]


def test_the_whole_log_taken_away_is_found(given: Settings) -> None:
    shutil.rmtree(audit_file(given).parent)
    assert [kind for kind, _, _ in found(given)] == ["missing"]


def test_an_oldest_file_taken_away_is_noted_and_found_where_all_have_to_be_there(given: Settings) -> None:
    first(given).unlink()
    report = verify_audit(given)
    assert (report.exit_code, report.findings) == (0, [])
    assert re.search(r"begins at \d+ here", report.notes[0])
    assert [kind for kind, _, _ in found(given, everything=True)] == ["missing"]


def test_the_first_lines_of_a_file_cut_off_are_found(given: Settings) -> None:
    edited(first(given), lambda held: held.__delitem__(slice(0, 3)))
    assert found(given) == [("missing", first(given).name, 1)]


def test_two_lines_that_changed_places_are_found(given: Settings) -> None:
    def swap(held: list[bytes]) -> None:
        held[5], held[6] = held[6], held[5]

    edited(first(given), swap)
    assert "reordered" in [kind for kind, _, _ in found(given)]


def test_a_line_that_stands_there_twice_is_found(given: Settings) -> None:
    edited(first(given), lambda held: held.insert(9, held[3]))
    assert found(given) == [("repeated", first(given).name, 10)]


def test_a_line_copied_from_another_file_is_found(given: Settings) -> None:
    stolen = audit_file(given).read_bytes().splitlines(keepends=True)[0]
    edited(first(given), lambda held: held.insert(3, stolen))
    assert {kind for kind, _, _ in found(given)} >= {"repeated"}


@pytest.mark.parametrize(
    "junk",
    [b"hello\n", b"{}\n", b"\n", b'{"sequence":4}\n', b"\0" * 4096 + b"\n", b"[" * 100_000 + b"\n"],
    ids=["text", "object", "empty", "no hmac", "zeros", "deep"],
)
def test_what_is_no_line_of_ours_is_found(given: Settings, junk: bytes) -> None:
    edited(first(given), lambda held: held.insert(3, junk))
    assert found(given) == [("foreign", first(given).name, 4)]


def test_a_line_of_another_chain_with_the_same_key_is_found(given: Settings, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = settings(tmp_path / "other", audit_key=KEY)
    write(other, 3)
    stolen = audit_file(other).read_bytes().splitlines(keepends=True)[3]
    edited(first(given), lambda held: held.insert(4, stolen))
    assert found(given) == [("foreign", first(given).name, 5)]


def test_another_services_log_in_place_of_this_one_is_found(given: Settings, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = settings(tmp_path / "other", audit_key=KEY)
    write(other, 30)
    for path in files_of(audit_file(given)):
        path.unlink()
    shutil.copy(audit_file(other), audit_file(given))
    assert ("missing", "audit.jsonl", 0) in [
        (finding.kind, Path(finding.file).name, finding.line) for finding in verify_audit(given).findings
    ]


def _forged(line: bytes, key: str, key_id: str | None = None, **fields: Any) -> bytes:
    """The line with other fields, authenticated anew by an attacker's key."""
    said = json.loads(line) | fields
    said.pop("hmac")
    if key_id is not None:
        said["key"] = key_id
    body = json.dumps(said, separators=(",", ":")).encode()[:-1]
    made = hmac.new(key.encode(), body, hashlib.sha256).hexdigest()
    return body + b',"hmac":"' + made.encode() + b'"}\n'


def test_a_line_authenticated_with_an_attackers_key_is_found(given: Settings) -> None:
    edited(first(given), lambda held: held.__setitem__(4, _forged(held[4], ANOTHER_KEY, user="bob")))
    assert found(given) == [("changed", first(given).name, 5)]


def test_a_line_that_names_a_key_of_the_attackers_does_not_pass(given: Settings) -> None:
    forge = lambda held: held.__setitem__(4, _forged(held[4], ANOTHER_KEY, "badbadbadbad", user="bob"))  # noqa: E731
    edited(first(given), forge)
    report = verify_audit(given)
    # The line itself can't be judged without its key; the next one does not follow it.
    assert kinds(report) == ["replaced"]
    assert "'badbadbadbad' is not known" in report.unsure[0]


def test_a_log_rewritten_from_some_line_on_with_an_attackers_key_is_found(given: Settings) -> None:
    previous = ""
    for path in files_of(audit_file(given)):

        def rewrite(held: list[bytes]) -> None:
            nonlocal previous
            for index, line in enumerate(held):
                more = {"previous": previous} if previous else {}
                held[index] = _forged(line, ANOTHER_KEY, "badbadbadbad", **more)
                previous = hashlib.sha256(held[index][:-1]).hexdigest()

        edited(path, rewrite)
    report = verify_audit(given)
    assert kinds(report) == ["replaced"]  # the database knows another last line
    assert report.unsure


def test_a_number_changed_into_another_does_not_hide_a_gap(given: Settings) -> None:
    def hide(held: list[bytes]) -> None:
        held.pop(5)
        for index in range(5, len(held)):
            number = json.loads(held[index])["sequence"]
            held[index] = held[index].replace(b'"sequence":%d' % number, b'"sequence":%d' % (number - 1))

    edited(first(given), hide)
    assert "changed" in [kind for kind, _, _ in found(given)]


def test_lines_added_after_the_last_one_are_found(given: Settings) -> None:
    last = audit_file(given).read_bytes().splitlines()[-1]
    said = json.loads(last)
    more = {"previous": hashlib.sha256(last).hexdigest(), "sequence": said["sequence"] + 1}
    edited(audit_file(given), lambda held: held.append(_forged(last, ANOTHER_KEY, **more)))
    assert [kind for kind, _, _ in found(given)] == ["changed"]


# ---- files that were changed while nobody looked, and a start after it ----


def _said(given: Settings) -> list[str]:
    return [line["details"]["what"] for line in all_lines(given) if line["event"] == "chain_broken"]


def test_a_start_finds_a_cut_end_and_its_lines_stay_missing(
    given: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    edited(audit_file(given), lambda held: held.__delitem__(slice(-2, None)))
    kept = max(line["sequence"] for line in all_lines(given))
    write(given, 1)
    assert _said(given) == ["lines are missing at the end"]
    assert "is not as it was written" in caplog.text
    missing = set(range(1, kept + 3)) - {line["sequence"] for line in all_lines(given)}
    assert missing == {kept + 1, kept + 2}
    assert [kind for kind, _, _ in found(given)] == ["told", "missing"]


def test_a_start_finds_an_older_copy_put_back(given: Settings, tmp_path: Path) -> None:
    shutil.copytree(audit_file(given).parent, tmp_path / "copy")
    write(given, 5)
    shutil.rmtree(audit_file(given).parent)
    shutil.copytree(tmp_path / "copy", audit_file(given).parent)
    write(given, 1)
    assert _said(given) == ["lines are missing at the end"]
    assert {kind for kind, _, _ in found(given)} == {"told", "missing"}


@pytest.mark.parametrize("how", ["emptied", "removed"])
def test_a_start_finds_a_log_that_is_gone(given: Settings, how: str) -> None:
    for path in files_of(audit_file(given)):
        path.write_bytes(b"") if how == "emptied" else path.unlink()
    chain = verify_audit(given).findings[0].text.split()[0]
    write(given, 1)
    assert _said(given) == ["the file is gone or empty"]
    assert all_lines(given)[0]["chain"] == chain
    assert {kind for kind, _, _ in found(given)} == {"told"}
    assert {kind for kind, _, _ in found(given, everything=True)} == {"told", "missing"}


def test_a_start_finds_a_last_line_that_was_changed(given: Settings) -> None:
    edited(audit_file(given), lambda held: held.__setitem__(-1, held[-1].replace(b"stopped", b"started")))
    write(given, 1)
    assert _said(given) == ["the last line was changed"]


def test_a_start_finds_lines_that_are_not_ours(given: Settings) -> None:
    edited(audit_file(given), lambda held: held.append(b"hello\n"))
    write(given, 1)
    assert _said(given) == ["lines at the end are not ours"]
    assert {kind for kind, _, _ in found(given)} == {"told", "foreign"}


def test_a_start_finds_a_line_that_is_not_the_one_the_database_knows(given: Settings) -> None:
    store = Store.open(given)
    (row,) = store.run_blocking(rows.every)
    other = rows.HeadRow(row.chain, row.sequence, "0" * 64, row.file, row.host, row.updated)
    store.run_blocking(lambda db: rows.advance(db, other, row))
    store.close()
    write(given, 1)
    assert _said(given) == ["a line is not the one that was written"]


# ---- files that are changed under the running service ----


def _under_way(given: Settings, change: Callable[[Path], object]) -> Report:
    async def life() -> None:
        async with running(given) as log:
            log.record("deletion", user="before")
            await until(lambda: [line["user"] for line in lines(audit_file(given))].count("before") == 1)
            change(audit_file(given))
            log.record("deletion", user="after")
            await until(lambda: "after" in [line["user"] for line in lines(audit_file(given))])
            assert log.problem == "it was changed from outside; mlflow-proxy audit verify says more"

    asyncio.run(life())
    assert "chain_broken" in events(given)
    return verify_audit(given)


def test_a_file_emptied_under_the_service_is_noticed_at_the_next_line(given: Settings) -> None:
    report = _under_way(given, lambda path: path.write_bytes(b""))
    assert {"told", "missing"} == set(kinds(report))
    assert "the file was cut" in text(report)


def test_a_file_removed_under_the_service_is_noticed(given: Settings) -> None:
    report = _under_way(given, lambda path: path.unlink())
    assert {"told", "missing"} == set(kinds(report))
    assert "the file was removed" in text(report)


def test_another_file_in_its_place_is_noticed(given: Settings) -> None:
    def replace(path: Path) -> None:
        held = path.read_bytes().splitlines(keepends=True)
        (path.parent / "new").write_bytes(b"".join(held[:-2]))
        (path.parent / "new").replace(path)

    report = _under_way(given, replace)
    assert {"told", "missing"} == set(kinds(report))


def test_lines_that_somebody_else_appends_are_noticed(given: Settings) -> None:
    def append(path: Path) -> None:
        with path.open("ab") as file:
            file.write(b'{"event":"sign_in","user":"nobody"}\n')

    report = _under_way(given, append)
    assert {"told", "foreign"} == set(kinds(report))


def test_a_head_changed_in_the_database_is_noticed(given: Settings) -> None:
    async def life() -> None:
        async with running(given) as log:
            store = Store.open(given)
            await until(lambda: store.run_blocking(rows.every)[0].sequence == log._file.synced.sequence)
            (row,) = store.run_blocking(rows.every)
            back = rows.HeadRow(row.chain, 3, "0" * 64, row.file, row.host, row.updated)
            store.run_blocking(lambda db: rows.advance(db, back, row))
            log.record("deletion")
            await until(lambda: "chain_broken" in events(given))
            store.close()

    asyncio.run(life())
    assert _said(given) == ["the database does not have the head that it was given"]


# ---- requests alone ----


NASTY = 'a","event":"sign_in\n{"x\r\0\x1b[2J\u2028\u202e\x85\ud800\\"'


def test_no_text_of_a_callers_breaks_a_line_or_forges_one(tmp_path: Path) -> None:
    given = settings(tmp_path)
    nasty = Identity(NASTY, Role.ADMIN, "token", "", NASTY, Credential(NASTY, NASTY))
    over = exchange(path=f"/api/2.0/mlflow/{NASTY}", identity=nasty, target={NASTY: NASTY, "run_id": NASTY})
    over.client = over.request_id = over.session = NASTY

    async def life() -> None:
        async with running(given) as log:
            log.observe(over)
            log.record("token_created", exchange=over, target={"token_name": NASTY}, **{NASTY: NASTY})

    asyncio.run(life())
    raw = audit_file(given).read_bytes()
    assert raw.count(b"\n") == 5
    assert raw.decode().replace("\n", "").isprintable()
    assert [line["event"] for line in all_lines(given)][2:4] == ["administration", "token_created"]
    whole(given)
    assert text(verify_audit(given)).replace("\n", "").isprintable()


def test_refused_requests_from_everywhere_do_not_fill_the_disk(tmp_path: Path) -> None:
    given = settings(tmp_path)

    async def flood() -> None:
        async with running(given) as log:
            for number in range(20_000):
                over = exchange(status=401, refusal="unauthenticated", identity=None)
                over.client = f"2001:db8::{number:x}"
                log.observe(over)
            assert log.counts["refused"] == 20_000
            assert log.lost == 0

    asyncio.run(flood())
    refused = [line for line in all_lines(given) if line["event"] == "refused"]
    assert len(refused) == KINDS + 2
    assert refused[-1]["client"] is None
    assert refused[-1]["details"] == {
        "reason": "unauthenticated",
        "others": True,
        "repeats": 20_000 - KINDS - 1,
    }


def test_a_refused_request_does_not_say_what_was_sent(tmp_path: Path) -> None:
    given = settings(tmp_path)
    secret = "mlfpat_4nX7pQ2vTz9LkWcB5sYdHgJmRa1EoU0iFq3x"

    async def life() -> None:
        async with running(given) as log:
            over = exchange("GET", f"/{secret}", 401, None, refusal="unauthenticated")
            over.user_agent = over.request_id = secret
            log.observe(over)
            log.record("sign_in_refused", exchange=over, user=secret, reason=f"no token {secret}")

    asyncio.run(life())
    assert "4nX7pQ2v" not in audit_file(given).read_text()
    assert "refused" in events(given)


def test_a_deletion_is_never_counted_away(tmp_path: Path) -> None:
    given = settings(tmp_path)

    async def life() -> None:
        async with running(given) as log:
            for _ in range(300):
                log.observe(exchange(identity=ADA, target={"run_id": "1"}))

    asyncio.run(life())
    assert events(given).count("deletion") == 300


# ---- the service as it is wired ----


def _verified(target: Target, *files: Path) -> subprocess.CompletedProcess[str]:
    """`mlflow-proxy audit verify` beside the running service."""
    return subprocess.run(
        [sys.executable, "-m", "proxy", "audit", "verify", *map(str, files)],
        cwd=target.service.folder,
        env=dict(target.service.environment),
        capture_output=True,
        text=True,
        timeout=60,
    )


def _line(target: Target, answer: wire.Answer) -> dict[str, Any]:
    """What the audit log says of a request."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        for line in lines(target.service.data / "audit" / "audit.jsonl"):
            if line["request_id"] == answer.request_id:
                return line
        time.sleep(0.05)
    raise AssertionError("no line")


def test_the_service_tells_of_deletions_and_refusals_and_a_line_cut_out_is_found(
    target: Target, tmp_path: Path
) -> None:
    made = target.post("edda", "/api/2.0/mlflow/runs/create", {"experiment_id": target.experiment})
    run = made.json()["run"]["info"]["run_id"]
    no = target.post("vera", "/api/2.0/mlflow/runs/delete", {"run_id": run})
    gone = target.post("edda", "/api/2.0/mlflow/runs/delete", {"run_id": run})
    again = target.post("edda", "/api/2.0/mlflow/runs/delete", {"run_id": "0" * 32})
    nobody = wire.ask(target.service, "GET", "/", wire.basic("edda", "not-her-password"))
    assert [answer.status for answer in (no, gone, again, nobody)] == [403, 200, 404, 401]
    said = [_line(target, answer) for answer in (no, gone, again, nobody)]
    assert [(line["event"], line["outcome"], line["user"], line["operation"]) for line in said] == [
        ("refused", "refused", "vera", "delete-run"),
        ("deletion", "success", "edda", "delete-run"),
        ("deletion", "failed", "edda", "delete-run"),
        ("refused", "refused", None, "ui"),
    ]
    assert said[1]["target"]["run_id"] == run
    assert said[3]["details"]["reason"] == "unauthenticated"
    whole_log = target.service.data / "audit" / "audit.jsonl"
    written = whole_log.read_text()
    for secret in (*PASSWORDS.values(), "not-her-password"):
        assert secret not in written
    time.sleep(1.5)  # until the database knows
    right = _verified(target)
    assert (right.returncode, right.stderr) == (0, "")
    assert "lines: as they were written" in right.stdout
    held = whole_log.read_bytes().splitlines(keepends=True)
    cut = next(index for index, line in enumerate(held) if run.encode() in line)
    (tmp_path / "audit.jsonl").write_bytes(b"".join(held[:cut] + held[cut + 1 :]))
    wrong = _verified(target, tmp_path / "audit.jsonl")
    assert wrong.returncode == 3
    assert f"{tmp_path / 'audit.jsonl'} line {cut + 1}: missing: line {cut + 1} is" in wrong.stdout
    assert "NOT as they were written" in wrong.stdout
