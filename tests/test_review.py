"""The review: what of a nasty month it finds, what it leaves alone, and what it makes of bad input."""

from __future__ import annotations

import gzip
import json
import os
import pty
import select
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from review_habits import delete_runs, script, visit
from review_incidents import Bad, Incident
from review_world import DAY, At, User, World, browser, by_browser, by_token

from proxy.codings import compressed
from proxy.identity import Credential, Role
from proxy.review.findings import KINDS
from proxy.review.thresholds import described

pytestmark = pytest.mark.timeout(1800)  # a month is made in 20 s of a core, on a busy machine in minutes

START = 1_767_312_000.0  # a Friday, at midnight
MAC = browser("chrome/mac", 138)


def review(*arguments: str | Path, given: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "proxy", "review", *map(str, arguments)]
    return subprocess.run(command, input=given, capture_output=True, timeout=900)


def told(*arguments: str | Path, given: bytes | None = None) -> dict[str, Any]:
    """The report as JSON."""
    done = review("--format", "json", *arguments, given=given)
    assert done.stderr == b"", done.stderr.decode()
    report: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == (1 if report["findings"] else 0)
    return report


def kinds(report: dict[str, Any]) -> set[str]:
    return {kind for finding in report["findings"] for kind in finding["kinds"]}


def ada(**more: Any) -> User:
    return User("ada@example.org", Role.EDITOR, token=Credential("c0ffee0123456789", "laptop"), **more)


def quiet(world: World, user: User, days: int = 12, first: int = 0) -> None:
    """Days of work at one place, in one browser and with one client."""
    for day in range(first, first + days):
        for hour in (9, 11, 14):
            at = START + day * DAY + hour * 3600
            visit(world, at, by_browser(user, "203.0.113.10", MAC), ["1", "2", "3"], 4)
            script(world, at + 1200, by_token(user, "203.0.113.10"), ["1", "2"], 4)


# ---- a month ----


def _seconds(text: str) -> float:
    import datetime

    return datetime.datetime.fromisoformat(text).timestamp()


def _is(finding: dict[str, Any], incident: Incident) -> bool:
    """Whether a finding is about that: the same somebody, or something, within half a day."""
    near = (
        _seconds(finding["from"]) - DAY / 2 <= incident.end
        and incident.begin <= _seconds(finding["until"]) + DAY / 2
    )
    about = {*finding["users"], *finding["addresses"], *finding["operations"]}
    nobody = not about and incident.about == {""} and incident.kind in finding["kinds"]
    return near and (nobody or not incident.about.isdisjoint(about))


@pytest.fixture(
    scope="module", params=[2, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (10, 31))]
)
def month(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Bad, dict[str, Any]]:
    """The incidents of a month with that seed, and what the review tells of its log."""
    bad = Bad(request.param)
    world = bad.build().world
    folder = tmp_path_factory.mktemp("month")
    access, audit = world.write(folder)
    return bad, told(*access, *audit)


def test_there_is_an_incident_of_each_kind_and_forty_users(month: Any) -> None:
    bad, report = month
    assert {incident.kind for incident in bad.incidents} == set(KINDS)
    assert len(bad.incidents) >= 12
    assert len(bad.month.users) == 40
    assert report["requests"] > 100_000
    assert report["foreign_lines"] == 0


def test_each_incident_of_a_month_is_found(month: Any) -> None:
    bad, report = month
    for incident in bad.incidents:
        found = [each for each in report["findings"] if _is(each, incident)]
        assert any(incident.kind in each["kinds"] for each in found), (incident, found)


def test_at_most_three_findings_of_a_month_were_not_planted(month: Any) -> None:
    bad, report = month
    others = [each for each in report["findings"] if not any(_is(each, one) for one in bad.incidents)]
    assert len(others) <= 3, [(each["kinds"], each["reasons"][0]["why"]) for each in others]


def test_each_reason_has_lines_that_are_in_the_log(month: Any) -> None:
    _, report = month
    files: dict[str, list[bytes]] = {}
    for reason in [reason for each in report["findings"] for reason in each["reasons"]]:
        assert reason["lines"], reason
        assert len(reason["lines"]) <= 20
        for line in reason["lines"]:
            path = line["file"]
            if path not in files:
                data = Path(path).read_bytes()
                files[path] = (gzip.decompress(data) if path.endswith(".gz") else data).split(b"\n")
            raw = json.loads(files[path][line["line"] - 1])
            assert line["text"].startswith(raw["time"])
            if raw["user"] and "event" not in raw:
                assert raw["user"] in line["text"]


# ---- what is read ----


def test_the_order_and_the_packing_of_files_make_no_difference(tmp_path: Path) -> None:
    world, user = World(1, START), ada()
    quiet(world, user)
    delete_runs(world, START + 11 * DAY + 15 * 3600, by_browser(user, "203.0.113.10", MAC), 200)
    access, audit = world.write(tmp_path / "plain")
    plain = told(*access, *audit)
    packed = tmp_path / "packed"
    packed.mkdir()
    for number, path in enumerate(access):
        data = path.read_bytes()
        data = gzip.decompress(data) if path.suffix == ".gz" else data
        (packed / f"log{9 - number}").write_bytes(compressed(data, "zstd", 3) if number % 2 else data)
    (packed / "log0").write_bytes(audit[0].read_bytes())
    again = told(str(packed / "log*"))
    assert kinds(plain) == kinds(again) == {"deletions"}
    assert plain["requests"] == again["requests"]
    reasons = [[each["why"] for each in report["findings"][0]["reasons"]] for report in (plain, again)]
    assert reasons[0] == reasons[1]


def test_a_log_is_read_from_standard_input(tmp_path: Path) -> None:
    world, user = World(1, START), ada()
    quiet(world, user)
    delete_runs(world, START + 11 * DAY + 15 * 3600, by_browser(user, "203.0.113.10", MAC), 200)
    access, _ = world.write(tmp_path, parts=1)
    report = told("-", given=gzip.compress(access[0].read_bytes()))
    assert kinds(report) == {"deletions"}
    assert report["files"] == ["-"]


def test_two_replicas_logs_are_read_side_by_side(tmp_path: Path) -> None:
    """A token that was in use by way of the other replica meanwhile was not silent."""
    world, user = World(1, START), ada()
    quiet(world, user, 25)
    script(world, START + 24 * DAY + 10 * 3600, by_token(user, "203.0.113.10", "curl/8.5.0"), ["1"], 3)
    access, _ = world.write(tmp_path, parts=1)
    replicas: tuple[list[bytes], list[bytes]] = ([], [])
    for line in access[0].read_bytes().splitlines(keepends=True):
        day = (_seconds(json.loads(line)["time"]) - START) // DAY
        replicas[3 < day < 24].append(line)
    for number, lines in enumerate(replicas):
        (tmp_path / f"replica{number}").write_bytes(b"".join(lines))
    assert "silence" in kinds(told(tmp_path / "replica0"))
    assert "silence" not in kinds(told(tmp_path / "replica0", tmp_path / "replica1"))


def test_what_is_no_line_of_ours_is_counted_and_told(tmp_path: Path) -> None:
    world, user = World(1, START), ada()
    quiet(world, user, 2)
    access, _ = world.write(tmp_path, parts=1)
    good = access[0].read_bytes()
    one = json.loads(good.split(b"\n")[0])
    bad: list[bytes] = [
        b"hello",
        b"{}",
        b"[]",
        b"null",
        b'{"time":1}',
        b"\xff\xfe",
        b'{"a":' * 3000,
        b'"' + b"x" * 200_000,
    ]
    for name in one:
        for value in (None, 7, -1e300, "x", [], {}, True, "9999-99-99T99:99:99.999Z"):
            bad.append(json.dumps({**one, name: value}).encode())
    mixed = tmp_path / "mixed"
    mixed.write_bytes(b"\n".join(bad) + b"\n\n\r\n" + good + b'{"time":"2026-01-0')
    report = told(mixed)
    assert report["foreign_lines"] >= len(bad) // 4
    assert report["requests"] >= good.count(b"\n")
    assert b"lines of neither log" in review(mixed).stdout


def test_a_line_without_an_end_takes_no_memory(tmp_path: Path) -> None:
    """400 MB of it, in a file of 400 KB, with 200 MB to read it in."""
    (tmp_path / "endless").write_bytes(gzip.compress(b"x" * (1 << 20)) * 400)
    world = World(1, START)
    quiet(world, ada(), 1)
    access, _ = world.write(tmp_path, parts=1)
    bounded = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_DATA, (200 << 20, 200 << 20));"
        "from proxy.cli import main; main()"
    )
    command = [
        sys.executable,
        "-c",
        bounded,
        "review",
        "--format",
        "json",
        str(tmp_path / "endless"),
        str(access[0]),
    ]
    done = subprocess.run(command, capture_output=True, timeout=900)
    assert done.returncode == 0, done.stderr.decode()
    assert json.loads(done.stdout)["foreign_lines"] == 1


def test_a_line_that_is_too_long_takes_none_of_those_beside_it_along(tmp_path: Path) -> None:
    """Nor is its end, where a block of it begins like a line of ours, taken for one."""
    world = World(1, START)
    quiet(world, ada(), 1)
    access, _ = world.write(tmp_path, parts=1)
    lines = access[0].read_bytes().splitlines(keepends=True)
    middle = len(lines) // 2
    log = tmp_path / "long"
    log.write_bytes(
        b"x" * (1 << 18)
        + b"".join(lines[:middle])
        + b"y" * (1 << 20)
        + b"\n"
        + b"".join(lines[middle:])
        + b"z" * (1 << 19)
    )
    report = told(log)
    assert report["foreign_lines"] == 3
    assert report["requests"] == len(lines) - 1  # the first is the end of what is too long


def test_a_file_is_read_once_and_a_name_is_a_name_before_it_is_a_pattern(tmp_path: Path) -> None:
    world = World(1, START)
    quiet(world, ada(), 1)
    access, _ = world.write(tmp_path, parts=1)
    log = access[0].rename(tmp_path / "log[1]")
    requests = len(log.read_bytes().splitlines())
    (tmp_path / "log1").write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:7]))
    (tmp_path / "link").symlink_to(log)
    report = told(log, tmp_path / "link", str(tmp_path / "log[[]1]"), log)
    assert (report["files"], report["requests"]) == ([str(log)], requests)
    assert told(str(tmp_path / "lo*1"))["requests"] == 7
    assert told(str(tmp_path / "lo*"))["requests"] == requests + 7


def test_what_can_t_be_read_is_said_and_ends_with_2(tmp_path: Path) -> None:
    world = World(1, START)
    quiet(world, ada(), 2)
    access, _ = world.write(tmp_path, parts=1)
    good = access[0]
    cut, foreign, nothing = tmp_path / "cut.gz", tmp_path / "foreign", tmp_path / "nothing"
    cut.write_bytes(gzip.compress(good.read_bytes())[:-4000])
    foreign.write_text('127.0.0.1 - - [10/Oct/2026:13:55:36 +0000] "GET / HTTP/1.1" 200 5\n' * 20)
    nothing.write_bytes(b"")
    for bad in (tmp_path / "absent", tmp_path, cut, foreign, nothing, tmp_path / "*.none"):
        done = review(bad) if bad in (foreign, nothing) else review(bad, good)
        assert done.returncode == 2, (bad, done.stdout)
        assert b"mlflow-proxy: not read:" in done.stderr
        assert b"Traceback" not in done.stderr
    assert b"requests" in review(cut).stdout


def test_what_a_caller_has_sent_reaches_no_terminal_and_no_page(tmp_path: Path) -> None:
    """In a user agent that needs no credential, and in a line that was not written by us."""
    world, user = World(1, START), ada()
    quiet(world, user)
    evil = "\x1b]0;gone\x07\x1b[2J\u202e\u2028<script>alert(1)</script><img src=x onerror=y>'\"&\x9b31m\x7f"
    at = START + 11 * DAY + 15 * 3600
    script(world, at, At(user, "198.51.100.9", evil, "token", None, user.token), ["1", "2"], 30)
    access, _ = world.write(tmp_path, parts=1)
    lines = access[0].read_bytes().decode().splitlines()
    forged = [json.dumps({**json.loads(line), "user_agent": evil, "path": evil}) for line in lines[-40:]]
    log = tmp_path / "a\x1b[31m<b>.log"
    log.write_text("\n".join(lines + forged) + "\n")
    for form in ("text", "json", "html"):
        done = review("--format", form, log)
        said = done.stdout.decode()
        assert done.returncode == 1
        assert "alert" in said
        assert all(each.isprintable() or each == "\n" for each in said), form
        if form == "html":
            found = Tags()
            found.feed(said)
            assert not found.seen & {"script", "img", "b", "link", "iframe", "object"}
            assert not found.outside
            assert "default-src 'none'" in said
            assert "<svg" in said
        assert all(each.isprintable() or each == "\n" for each in done.stderr.decode())


class Tags(HTMLParser):
    """Which elements a page has, and what of them leads outside."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()
        self.outside: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self.outside += [
            f"{name}={value}"
            for name, value in attrs
            if name.startswith("on") or (name in ("src", "href") and not (value or "").startswith("#"))
        ]


def test_progress_is_told_on_a_terminal_alone(tmp_path: Path) -> None:
    world = World(1, START)
    quiet(world, ada(), 2)
    access, _ = world.write(tmp_path, parts=1)
    assert review(*access).stderr == b""
    terminal, side = pty.openpty()
    command = [sys.executable, "-m", "proxy", "review", "-"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=side)
    os.close(side)
    try:
        assert process.stdin is not None
        said = b""
        while b"reading: " not in said:  # until it has taken long enough to be worth a word
            process.stdin.write(access[0].read_bytes())
            process.stdin.flush()
            while select.select([terminal], [], [], 0)[0]:
                said += os.read(terminal, 4096)
        process.stdin.close()
        assert process.wait(600) in (0, 1)  # the same days again and again may be unusual
    finally:
        process.kill()
        process.wait()
        os.close(terminal)


# ---- what is learned ----


def test_what_was_learned_is_kept_and_its_lines_are_not_taken_twice(tmp_path: Path) -> None:
    world, user = World(1, START), ada()
    quiet(world, user)
    first, _ = world.write(tmp_path / "first", parts=1)
    later = World(2, START)
    quiet(later, user, 1, first=12)
    script(later, START + 12 * DAY + 12 * 3600, by_token(user, "198.51.100.9", "curl/8.5.0"), ["1"], 10)
    second, _ = later.write(tmp_path / "second", parts=1)
    memory = tmp_path / "learned"
    assert told("--learned", memory, *first)["findings"] == []
    assert memory.stat().st_mode & 0o077 == 0
    assert told(*second)["findings"] == [], "one day alone shows nothing"
    before = memory.read_bytes()
    report = told("--learned", memory, *first, *second)
    assert report["already_learned"] == len(first[0].read_bytes().splitlines())
    assert "new-network" in kinds(report)
    assert memory.read_bytes() != before
    assert told("--learned", memory, *second)["findings"] == [], "once is enough"


def test_nothing_is_learned_from_what_could_not_be_read(tmp_path: Path) -> None:
    world = World(1, START)
    quiet(world, ada(), 2)
    access, _ = world.write(tmp_path, parts=1)
    memory = tmp_path / "learned"
    assert review("--learned", memory, *access, tmp_path / "absent").returncode == 2
    assert not memory.exists()


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b'{"form":1,"learned":{}}', b'{"form":2}', b"\xff"])
def test_a_file_that_holds_nothing_learned_is_refused(tmp_path: Path, content: bytes) -> None:
    memory = tmp_path / "learned"
    memory.write_bytes(content)
    done = review("--learned", memory, "-", given=b"")
    assert done.returncode == 2
    assert done.stderr.startswith(b"mlflow-proxy: --learned ")
    assert memory.read_bytes() == content


# ---- thresholds ----


def test_a_threshold_can_be_another(tmp_path: Path) -> None:
    world, user = World(1, START), ada()
    quiet(world, user)
    delete_runs(world, START + 11 * DAY + 15 * 3600, by_browser(user, "203.0.113.10", MAC), 30)
    access, _ = world.write(tmp_path)
    assert kinds(told(*access)) == set()
    assert kinds(told("--set", "deletions=20", *access)) == {"deletions"}
    assert kinds(told("--set", "deletions=20", "--set", "points=4", *access)) == set()


@pytest.mark.parametrize(
    "given", ["points", "points=", "points=x", "nothing=1", "points=-1", "points=nan", "=1"]
)
def test_a_threshold_that_there_is_not_is_a_mistake(given: str) -> None:
    done = review("--set", given, "-", given=b"")
    assert done.returncode == 2
    assert done.stderr.startswith(b"mlflow-proxy: --set ")


def test_the_thresholds_and_kinds_are_documented() -> None:
    text = (Path(__file__).parent.parent / "docs" / "review.md").read_text()
    for name, default, meaning in described():
        assert f"| `{name}` | {default} | {meaning} |" in text
    for kind in KINDS:
        assert f"| `{kind}` |" in text
    listed = review("--thresholds").stdout.decode().splitlines()
    assert [line.split()[0] for line in listed] == [name for name, _, _ in described()]
