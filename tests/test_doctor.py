"""`mlflow-proxy doctor`: settings, service, disk, versions, and how it tells of them."""

from __future__ import annotations

import contextlib
import fcntl
import importlib.metadata
import json
import os
import pty
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from doctor_site import doctor, fake_service, plan
from programs import needs
from service import PASSWORD, Service, clean_environment, free_port

from proxy.doctor.examination import Check, examine
from proxy.doctor.result import Outcome, Result, exit_code, failure, ok
from proxy.doctor.running import running_on
from proxy.doctor.telling import as_text
from proxy.doctor.versions import floors, older, parsed

MACHINE = {("service", "files"), ("disk", "data"), ("disk", "temporary"), ("disk", "artifacts")}
"""What may be told of the machine that the tests run on."""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("d")
    (folder / "settings").mkdir()
    (folder / "settings" / "mlflow.env").write_text("PROXY_HOLD_SECONDS=3\n")
    with fake_service(folder, PROXY_ENV_FILE=str(folder / "settings" / "mlflow.env")) as service:
        yield service


def test_wrong_settings_are_told_all_at_once_and_what_does_not_hang_on_them_is_looked_at(
    tmp_path: Path,
) -> None:
    (tmp_path / "mlflow.env").write_text(
        "MLFLOW_PORT=none\nPROXY_HOLD_SECOND=5\nMLFLOW_BACKEND_STORE_URI=postgres://user:s3cr3t@db/mlflow\n"
    )
    told = doctor("settings", "database", "disk", "address", "versions", cwd=tmp_path)
    assert told.code == 2
    said = [result["seen"] for result in told.results("settings") if result["outcome"] == "failure"]
    assert len(said) == 3
    assert any(line.startswith("MLFLOW_PORT (mlflow.env)") for line in said)
    assert any("did you mean PROXY_HOLD_SECONDS?" in line for line in said)
    assert any("write postgresql://" in line for line in said)
    assert "s3cr3t" not in told.text
    told.says("database", "settings", "skipped", "MLFLOW_BACKEND_STORE_URI can't be read")
    told.says("address", "settings", "skipped", "MLFLOW_PORT can't be read")
    assert told.result("disk", "data")
    told.says("versions", "installed", "ok")


def test_a_lock_that_nobody_holds_is_no_service(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text(json.dumps({"pid": os.getpid(), "address": "https://127.0.0.1:1"}))
    assert running_on(tmp_path) is None


@needs("unshare")
def test_root_does_not_read_another_users_process(tmp_path: Path) -> None:
    # The process that the lock names is whose the data directory is; as root's, its PYTHONPATH would be run.
    command = [sys.executable, "-m", "proxy", "doctor", "disk", "--data-dir", str(tmp_path)]
    with contextlib.ExitStack() as stack:
        if os.geteuid() == 0:
            other = stack.enter_context(subprocess.Popen(["sleep", "600"], user=65534))
            stack.callback(other.kill)
            pid = other.pid
        else:  # root in a namespace of its own, in which the machine's is somebody else
            command, pid = ["unshare", "--map-root-user", *command], 1
        lock = stack.enter_context((tmp_path / "lock").open("w"))
        fcntl.flock(lock, fcntl.LOCK_EX)
        json.dump({"pid": pid, "address": "https://127.0.0.1:1"}, lock)
        lock.flush()
        done = subprocess.run(command, env=clean_environment(), cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "mlflow-proxy doctor --data-dir" in done.stderr
    assert "sudo -u" in done.stderr
    assert done.stdout == ""


def test_files_that_the_settings_name_are_looked_at(tmp_path: Path) -> None:
    (tmp_path / "users").write_text("ada:no hash at all\n")
    told = doctor("settings", cwd=tmp_path, environment={"PROXY_USERS_FILE": "users"})
    told.says("settings", "file", "failure", str(tmp_path / "users"))


def test_a_service_that_does_not_run_is_told_and_nothing_is_made(tmp_path: Path) -> None:
    told = doctor("--quick", cwd=tmp_path)
    told.says("service", "running", "failure", "no mlflow-proxy runs on", "--data-dir")
    for check, what in (("front", "way"), ("client", "client"), ("time", "time"), ("provider", "provider")):
        told.says(check, what, "skipped")
    assert told.says("database", "reach", "warning", "there is no")["mend"].startswith("start the service")
    told.says("address", "port", "failure", "takes no connection")
    told.says("storage", "root", "warning", "there is no")
    assert list(tmp_path.iterdir()) == []


def test_settings_are_read_as_the_running_service_reads_them(service: Service, tmp_path: Path) -> None:
    told = doctor("settings", "service", "--data-dir", service.data, cwd=tmp_path)
    assert told.wrong() <= MACHINE, told.text
    told.says("settings", "read", "ok", "as the running service reads them")
    told.says("service", "ready", "ok")
    assert PASSWORD not in told.text


def test_settings_that_were_not_taken_up_or_are_wrong_by_now_are_told(
    service: Service, tmp_path: Path
) -> None:
    file = Path(service.environment["PROXY_ENV_FILE"])
    before = file.read_text()
    try:
        file.write_text("PROXY_HOLD_SECONDS=7\n")
        told = doctor("service", "--data-dir", service.data, cwd=tmp_path)
        told.says("service", "reload", "warning", "PROXY_HOLD_SECONDS", "mlflow-proxy reload")
        file.write_text("PROXY_HOLD_SECONDS=soon\n")
        told = doctor("settings", "service", "--data-dir", service.data, cwd=tmp_path)
        told.says("service", "reload", "failure", "PROXY_HOLD_SECONDS", "would stop the next start")
        told.says("settings", "setting", "failure", "PROXY_HOLD_SECONDS")
    finally:
        file.write_text(before)


def test_an_mlflow_that_does_not_start_is_told_with_the_reason(tmp_path: Path) -> None:
    with fake_service(tmp_path / "s", until="alive", how={"exit": 4, "print": ["this is why"]}) as service:
        told = doctor("service", "--data-dir", service.data, cwd=tmp_path)
        told.says("service", "ready", "failure", "MLflow can't be used", "mlflow-not-ready.md")
        told.says("service", "running", "ok")
        plan(tmp_path / "s")


def _isolated(folder: Path, then: str) -> tuple[str, ...]:
    """What runs a command where a small file system of its own is mounted on the data directory, after `then`
    was done to it; nobody else sees it."""
    who = () if os.geteuid() == 0 else ("--map-root-user",)
    script = (
        f'cd "{folder}" && mkdir mlflow-data && mount -t tmpfs -o size=8m tmpfs mlflow-data || exit 99; '
        f'mkdir mlflow-data/artifacts; {then}; exec "$@"'
    )
    command = ("unshare", "--mount", *who, "sh", "-c", script, "sh")
    tried = subprocess.run([*command, "rmdir", "mlflow-data/artifacts"], capture_output=True, text=True)
    if tried.returncode == 99 or "Operation not permitted" in tried.stderr:
        pytest.skip(f"no file system can be mounted here: {tried.stderr.strip()}")
    (folder / "mlflow-data").rmdir()
    return command


@needs("unshare", "mount")
def test_a_full_disk_is_found(tmp_path: Path) -> None:
    before = _isolated(tmp_path, "cat /dev/zero > mlflow-data/full 2>/dev/null")
    told = doctor("disk", "storage", cwd=tmp_path, before=before)
    told.says("disk", "data", "failure", "the disk is full", "make room")
    told.says("disk", "write", "failure", "No space left")
    told.says("storage", "put", "failure", "No space left", "make room on that disk")


@needs("unshare", "mount")
def test_a_disk_that_takes_no_writes_is_found(tmp_path: Path) -> None:
    before = _isolated(tmp_path, "mount -o remount,ro mlflow-data")
    told = doctor("disk", "storage", cwd=tmp_path, before=before)
    told.says("disk", "write", "failure", "Read-only file system", "the service's user")
    told.says("storage", "put", "failure", "Read-only file system", "let the service's user write")


def test_a_library_with_a_known_hole_is_found(tmp_path: Path) -> None:
    old = tmp_path / "path" / "h11-0.14.0.dist-info"
    old.mkdir(parents=True)
    (old / "METADATA").write_text("Metadata-Version: 2.1\nName: h11\nVersion: 0.14.0\n")
    told = doctor("versions", cwd=tmp_path, environment={"PYTHONPATH": str(tmp_path / "path")})
    told.says("versions", "holes", "failure", "h11 0.14.0", "CVE-2025-43859", "install h11 0.16.0")


def test_what_is_locked_has_none_of_the_holes_that_are_listed() -> None:
    listed = floors()
    assert len({(floor.package, floor.advisory) for floor in listed}) == len(listed) > 15
    for floor in listed:
        fixed = [parsed(version) for version in floor.fixed.split(",")]
        assert all(fixed), floor
        assert fixed == sorted(fixed), floor
        assert not older(parsed(importlib.metadata.version(floor.package)), fixed), floor


@pytest.mark.parametrize(
    ("have", "fixed", "expected"),
    [
        ("1.6.11", "1.6.12,1.7.1", True),
        ("1.6.12", "1.6.12,1.7.1", False),
        ("1.7.0", "1.6.12,1.7.1", True),
        ("1.5.9", "1.6.12,1.7.1", True),
        ("1.10.0", "1.9.9", False),
        ("2.0rc1", "1.9", False),
        ("0.16.0.1", "0.16.0", False),
    ],
)
def test_a_line_that_was_mended_too_is_as_good_as_the_newest(have: str, fixed: str, expected: bool) -> None:
    assert older(parsed(have), [parsed(one) for one in fixed.split(",")]) is expected


def test_a_check_that_hangs_or_breaks_is_told_and_disturbs_no_other() -> None:
    def hangs(_: object) -> Iterator[Result]:
        yield ok("first", "seen")
        threading.Event().wait()

    def breaks(_: object) -> Iterator[Result]:
        yield ok("first", "seen")
        raise ValueError("unthought of")

    def well(_: object) -> Iterator[Result]:
        yield ok("first", "seen")

    class Anything:
        def is_wrong(self, _: str) -> bool:
            return False

    def check(name: str, look: object, seconds: float) -> Check:
        return Check(name, "", look, lambda _: seconds)  # type: ignore[arg-type]

    reports = list(
        examine(Anything(), [check("a", hangs, 5), check("b", breaks, 60), check("c", well, 60)])  # type: ignore[arg-type]
    )
    assert [[result.what for result in report.results] for report in reports] == [
        ["first", "deadline"],
        ["first", "doctor"],
        ["first"],
    ]
    assert "unthought of" in reports[1].results[1].seen
    assert reports[0].results[1].outcome is Outcome.FAILURE


def test_the_exit_code_is_that_of_the_worst() -> None:
    assert exit_code(set()) == exit_code({Outcome.OK, Outcome.SKIPPED}) == 0
    assert exit_code({Outcome.OK, Outcome.WARNING}) == 1
    assert exit_code({Outcome.WARNING, Outcome.FAILURE, Outcome.OK}) == 2


def test_what_strangers_say_moves_no_cursor_and_secrets_are_masked() -> None:
    from proxy.doctor.examination import Report

    said = Report("front", [failure("way", "\x1b[2Jsaid: hunter2-hunter2", "mend\rit")], 0.1)
    text = as_text(said, lambda line: line.replace("hunter2-hunter2", "***"), colours=False)
    assert "\x1b" not in text
    assert "\r" not in text
    assert "hunter2" not in text
    assert "***" in text
    assert "\x1b[1;31m" in as_text(said, str, colours=True)


def _at_a_terminal(folder: Path, **environment: str) -> str:
    main, other = pty.openpty()
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "proxy", "doctor", "versions"],
            cwd=folder,
            env=clean_environment(TERM="xterm", **environment),
            stdin=subprocess.DEVNULL,
            stdout=other,
        )
        os.close(other)
        said = b""
        while True:
            try:
                piece = os.read(main, 65536)
            except OSError:  # the other end is closed
                break
            if not piece:
                break
            said += piece
        assert process.wait(60) == 0
    finally:
        os.close(main)
    return said.decode()


def test_colours_are_for_terminals_and_for_who_wants_them(tmp_path: Path) -> None:
    assert "\x1b[32mok" in _at_a_terminal(tmp_path)
    assert "\x1b" not in _at_a_terminal(tmp_path, NO_COLOR="1")
    done = subprocess.run(
        [sys.executable, "-m", "proxy", "doctor", "versions"],
        cwd=tmp_path, env=clean_environment(TERM="xterm"), capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0
    assert "\x1b" not in done.stdout
    assert done.stdout.splitlines()[-1].startswith("0 failures")


def test_mistakes_in_the_call_are_one_line_and_exit_code_2(tmp_path: Path) -> None:
    for arguments, words in (
        (("nonsense",), "there is no check 'nonsense': settings, service"),
        (("--url", "mlflow.example.com"), "--url: begins with http:// or https://"),
        (("--token-file", "absent"), "--token-file: absent can't be read"),
        (("--token-file", "two"), "holds one token and nothing else"),
    ):
        (tmp_path / "two").write_text("one two\n")
        done = subprocess.run(
            [sys.executable, "-m", "proxy", "doctor", *arguments],
            cwd=tmp_path, env=clean_environment(), capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 2
        assert words in done.stderr
        assert "Traceback" not in done.stderr


@needs("setpriv")
def test_who_may_not_look_into_the_data_directory_is_told_so(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    # Root, where it is one that runs the tests, without its right to pass by what the mode says.
    plain = ("setpriv", "--bounding-set=-dac_override,-dac_read_search") if os.geteuid() == 0 else ()
    data.chmod(0)
    try:
        told = doctor("service", "database", "disk", "--data-dir", data, cwd=tmp_path, before=plain)
    finally:
        data.chmod(0o700)
    told.says("service", "running", "failure", "can't be seen by this user", "sudo -u", str(data))
    told.says("database", "user", "failure", "mlflow.db", "as the service's user")
    assert "defect" not in told.text


def test_every_check_is_listed_and_documented() -> None:
    from proxy.doctor.checks import CHECKS

    listed = subprocess.run(
        [sys.executable, "-m", "proxy", "doctor", "--list"], capture_output=True, text=True
    ).stdout
    told = (Path(__file__).parent.parent / "docs" / "doctor.md").read_text()
    for check in CHECKS:
        assert f"{check.name} " in listed
        assert f"\n| `{check.name}` |" in told


def test_nothing_listens_where_the_service_says_it_does(tmp_path: Path) -> None:
    told = doctor("address", cwd=tmp_path, environment={"MLFLOW_PORT": str(free_port())})
    told.says("address", "port", "failure", "MLFLOW_PORT")
    assert json.loads(told.text)["service"] is None
