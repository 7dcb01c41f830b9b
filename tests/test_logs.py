"""The logs: a line for every request, that nothing in it can break, and that no reader can hold up."""

from __future__ import annotations

import json
import logging
import os
import pty
import random
import re
import select
import string
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from proxy import logs
from proxy.exchange import Exchange
from proxy.identity import Identity, Role
from proxy.logs import AccessLog, writer
from proxy.operations import operation_of

PROJECT = Path(__file__).parent.parent
RUN = "0123456789abcdef0123456789abcdef"
FIELDS = [
    *("time", "request_id", "client", "user", "auth", "role", "credential"),
    *("operation", "experiment_id", "run_id"),
    *("method", "path", "status", "bytes_in", "bytes_out", "duration_ms", "ttfb_ms", "mlflow_ms"),
    *("refusal", "error", "resent", "trace_id", "user_agent"),
]
# What breaks lines, terminals and parsers somewhere.
NASTY = "\n\r\t\0\x1b[31m\x07\x7f\x85\x9b\u2028\u2029\u202e\ufeff\udc80\ud800\"'\\/<>&%{}[],: äß漢😀"


def exchange_of(method: str = "POST", path: str = "/api/2.0/mlflow/runs/log-batch") -> Exchange:
    exchange = Exchange(method, path, 50.0, 1_763_900_000.25)
    exchange.operation = operation_of(method, path)
    exchange.identity = Identity("alice", Role.EDITOR, "basic")
    exchange.request_id = "4f1c22ab04d100000017"
    exchange.client = "192.0.2.7"
    exchange.user_agent = "mlflow-python-client/3.17.2"
    exchange.status = 200
    exchange.bytes_in = 120
    exchange.bytes_out = 2
    exchange.first_byte = 50.0115
    exchange.ended = 50.0125
    exchange.mlflow_started = 50.001
    exchange.mlflow_ended = 50.012
    return exchange


@dataclass
class Output:
    """A file with an access log in it."""

    path: Path
    log: AccessLog

    def lines(self) -> list[bytes]:
        assert self.log.close(10)
        text = self.path.read_bytes()
        assert not text or text.endswith(b"\n")
        return text.split(b"\n")[:-1]

    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines()]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[[str], Output]]:
    descriptors: list[int] = []

    def make(log_format: str) -> Output:
        path = tmp_path / f"access-{len(descriptors)}.log"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        descriptors.append(descriptor)
        return Output(path, AccessLog(log_format, descriptor))

    yield make
    for descriptor in descriptors:
        os.close(descriptor)


@pytest.fixture
def output(opened: Callable[[str], Output]) -> Output:
    return opened("json")


@pytest.fixture
def combined(opened: Callable[[str], Output]) -> Output:
    return opened("combined")


@dataclass(frozen=True)
class Level:
    """The settings that the application log reads."""

    log_level: str = "info"
    log_file: Path | None = None
    log_max_size: int = 0
    log_keep: int = 0


class Application:
    """The application log of this process, going into a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def configure(self, level: str = "info") -> None:
        logs.configure(Level(level), self.descriptor)

    def records(self) -> list[dict[str, Any]]:
        assert logs.configure(Level(), self.descriptor)  # the one before is written out by this
        return [json.loads(line) for line in self.path.read_bytes().split(b"\n")[:-1]]


@pytest.fixture
def application(tmp_path: Path) -> Iterator[Application]:
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    log = Application(tmp_path / "application.log")
    log.configure()
    yield log
    # Nothing of ours stays behind in the process that runs the other tests.
    with Path(os.devnull).open("wb") as nothing:
        root.removeHandler(logs.configure(Level(), nothing.fileno()))
    os.close(log.descriptor)
    root.setLevel(level)
    assert list(root.handlers) == handlers
    logging.captureWarnings(False)
    logging.getLogger("uvicorn.access").disabled = False


def test_a_request_has_one_line_that_says_everything(output: Output) -> None:
    output.log.write(exchange_of("GET", "/api/2.0/mlflow/runs/get"), f"run_id={RUN}".encode())
    (record,) = output.records()
    assert record == {
        "time": "2025-11-23T12:13:20.250Z",
        "request_id": "4f1c22ab04d100000017",
        "client": "192.0.2.7",
        "user": "alice",
        "auth": "basic",
        "role": "editor",
        "credential": None,
        "operation": operation_of("GET", "/api/2.0/mlflow/runs/get").name,
        "experiment_id": None,
        "run_id": RUN,
        "method": "GET",
        "path": "/api/2.0/mlflow/runs/get",
        "status": 200,
        "bytes_in": 120,
        "bytes_out": 2,
        "duration_ms": pytest.approx(12.5, abs=0.011),
        "ttfb_ms": pytest.approx(11.5, abs=0.011),
        "mlflow_ms": pytest.approx(11.0, abs=0.011),
        "refusal": None,
        "error": None,
        "resent": None,
        "trace_id": None,
        "user_agent": "mlflow-python-client/3.17.2",
    }


def test_a_refused_an_unparsed_and_a_crashed_request_have_their_lines_too(output: Output) -> None:
    refused = exchange_of()
    refused.identity = None
    refused.mlflow_started = refused.mlflow_ended = None
    refused.refusal, refused.status = "unauthenticated", 401
    output.log.write(refused)
    unparsed = Exchange("", "", 1.0, 1_763_900_000.0)
    unparsed.refusal, unparsed.status = "unparsed", 400
    output.log.write(unparsed)
    crashed = exchange_of()
    crashed.error, crashed.status, crashed.ended, crashed.first_byte = "crashed", 500, None, None
    crashed.started = time.perf_counter()
    crashed.resent = ["reset", "crashed"]
    output.log.write(crashed)
    first, second, third = output.records()
    assert (first["user"], first["auth"], first["role"], first["mlflow_ms"]) == (None, None, None, None)
    assert (first["refusal"], first["status"]) == ("unauthenticated", 401)
    assert (second["operation"], second["refusal"]) == ("unparsed", "unparsed")
    assert (third["error"], third["ttfb_ms"]) == ("crashed", None)
    assert third["resent"] == ["reset", "crashed"]
    assert third["duration_ms"] < 5000


def test_times_are_utc_with_milliseconds_whatever_the_fraction(output: Output) -> None:
    for received in (0.0, 1_763_900_000.0, 1_763_900_000.9999998, 1_763_900_001.001):
        exchange = exchange_of()
        exchange.received = received
        output.log.write(exchange)
    times = [record["time"] for record in output.records()]
    assert times == [
        "1970-01-01T00:00:00.000Z",
        "2025-11-23T12:13:20.000Z",
        "2025-11-23T12:13:20.999Z",
        "2025-11-23T12:13:21.000Z",
    ]


@pytest.mark.parametrize("log_format", ["json", "combined"])
def test_no_value_of_a_query_is_written_but_ids(opened: Callable[[str], Output], log_format: str) -> None:
    output = opened(log_format)
    for path in ("/api/2.0/mlflow/runs/get", "/get-artifact", "/graphql", "/nowhere"):
        output.log.write(
            exchange_of("GET", path),
            f"token=hunter2&run_id={RUN}&run_uuid=hunter2%0Ahunter2&path=hunter2&experiment_id=hunter2;x".encode(),
        )
    lines = b"\n".join(output.lines())
    assert b"hunter2" not in lines
    assert lines.count(b"\n") == 3


def test_nothing_in_a_request_breaks_a_json_line(output: Output) -> None:
    chance = random.Random(5)
    alphabet = NASTY + string.ascii_letters
    texts = [NASTY, *alphabet, *("".join(chance.choices(alphabet, k=30)) for _ in range(500))]
    for text in texts:
        exchange = exchange_of(text, "/" + text)
        exchange.user_agent = exchange.client = exchange.request_id = text
        exchange.identity = Identity(text, Role.VIEWER, "basic")
        output.log.write(exchange, text.encode("utf-8", "replace"))
    lines = output.lines()
    assert len(lines) == len(texts)
    for text, line in zip(texts, lines, strict=True):
        shown = line.decode()
        assert shown.isprintable(), line
        assert len(shown.splitlines()) == 1
        record = json.loads(line)
        assert list(record) == FIELDS
        whole = re.sub("[\ud800-\udfff]", "\ufffd", text)
        assert (record["path"], record["user"], record["user_agent"]) == ("/" + whole, whole, whole)


def test_nothing_in_a_request_breaks_a_combined_line(combined: Output) -> None:
    chance = random.Random(6)
    alphabet = NASTY + string.ascii_letters
    texts = [NASTY, *alphabet, *("".join(chance.choices(alphabet, k=30)) for _ in range(500))]
    for text in texts:
        exchange = exchange_of(text, "/" + text)
        exchange.user_agent = exchange.client = text
        exchange.identity = Identity(text, Role.VIEWER, "basic")
        combined.log.write(exchange)
    lines = combined.lines()
    assert len(lines) == len(texts)
    shape = re.compile(
        r'(?:[^ "\\]|\\.)+ - (?:[^ "\\]|\\.)+ \[\d\d/[A-Z][a-z][a-z]/\d{4}:\d\d:\d\d:\d\d \+0000\] '
        r'"(?:[^" \\]|\\.)* /[^" \\]* HTTP/1\.1" \d{3} (?:\d+|-) "-" "(?:[^"\\]|\\.)*"'
    )
    for line in lines:
        assert shape.fullmatch(line.decode("ascii")), line
        assert line.decode("ascii").isprintable()


def test_the_combined_format_is_apaches(combined: Output) -> None:
    exchange = exchange_of("GET", '/a b/"q"/ä')
    exchange.user_agent = 'Mozilla "5.0" \\ \n\t\x01'
    exchange.identity = Identity("Alice B", Role.ADMIN, "basic")
    combined.log.write(exchange)
    refused = exchange_of("GET", "/")
    refused.identity, refused.user_agent, refused.bytes_out, refused.status = None, "", 0, 304
    combined.log.write(refused)
    first, second = combined.lines()
    assert first == (
        rb'192.0.2.7 - Alice\x20B [23/Nov/2025:12:13:20 +0000] "GET /a%20b/%22q%22/%C3%A4 HTTP/1.1" 200 2 '
        rb'"-" "Mozilla \"5.0\" \\ \n\t\x01"'
    )
    assert second == b'192.0.2.7 - - [23/Nov/2025:12:13:20 +0000] "GET / HTTP/1.1" 304 - "-" "-"'


@pytest.mark.parametrize("log_format", ["json", "combined"])
def test_long_paths_and_user_agents_are_cut(opened: Callable[[str], Output], log_format: str) -> None:
    output = opened(log_format)
    exchange = exchange_of("GET", "/" + "p" * 60_000)
    exchange.user_agent = "u" * 60_000
    output.log.write(exchange, b"q" * 60_000)
    (line,) = output.lines()
    assert line.count(b"p" * 2047 + b"...") == 1
    assert line.count(b"u" * 256 + b"...") == 1
    assert len(line) < 3000


def test_a_reader_that_takes_nothing_holds_nobody_up_and_what_it_misses_is_counted() -> None:
    reader, pipe = os.pipe()
    log = AccessLog("json", pipe)
    number = writer.MAX_LINES + 5_000
    exchange = exchange_of()
    slowest = 0.0
    for _ in range(number):
        before = time.perf_counter()
        log.write(exchange)
        slowest = max(slowest, time.perf_counter() - before)
    assert slowest < 1.0
    assert 4_000 < log.dropped <= 5_000
    before = time.perf_counter()
    assert not log.close(0.3)
    assert time.perf_counter() - before < 1.0
    # The reader comes back: what was kept is whole.
    read = bytearray()
    while select.select([reader], [], [], 1.0)[0]:
        read += os.read(reader, 1 << 20)
    lines = bytes(read).split(b"\n")
    assert lines.pop() == b""
    assert len(lines) == number - log.dropped
    assert {len(line) for line in lines} == {len(lines[0])}
    assert log.close()
    os.close(pipe)
    os.close(reader)


def test_what_waits_is_bounded_in_bytes_too() -> None:
    reader, pipe = os.pipe()
    log = AccessLog("json", pipe)
    exchange = exchange_of("GET", "/" + "\x01" * 2000)
    for _ in range(20_000):
        log.write(exchange)
    kept = 20_000 - log.dropped
    assert 0.9 * writer.MAX_BYTES < kept * 12_400 < 1.1 * writer.MAX_BYTES
    os.close(reader)
    assert log.close(30)  # the thread that writes gets EPIPE, and ends before its descriptor does
    os.close(pipe)


def test_the_bound_is_on_what_waits_and_not_on_what_was_written() -> None:
    with Path(os.devnull).open("wb") as nothing:
        log = AccessLog("json", nothing.fileno())
        exchange = exchange_of("GET", "/" + "p" * 2000)
        for _ in range(40):
            for _ in range(1_000):
                log.write(exchange)
            time.sleep(0.04)
        assert log.close(30)
        assert writer.MAX_BYTES < 40_000 * 2_000
        assert log.dropped == 0


def test_a_reader_that_has_gone_is_survived_counted_and_said_once(application: Application) -> None:
    reader, pipe = os.pipe()
    log = AccessLog("json", pipe)
    os.close(reader)
    for _ in range(3):
        log.write(exchange_of())
        time.sleep(0.1)
    assert log.close()
    assert log.dropped == 3
    os.close(pipe)
    said = [record["message"] for record in application.records() if record["logger"] == "proxy.logs"]
    assert len(said) == 1
    assert "Broken pipe" in said[0]


def test_a_full_disk_is_survived_and_written_again_when_it_has_room(tmp_path: Path) -> None:
    """A file size limit gives the same short write and error as a full disk; a process of its own has it."""
    path = tmp_path / "access.log"
    script = f"""
import os, resource, signal, sys, time
sys.path.insert(0, {str(PROJECT)!r})
from tests.test_logs import exchange_of
from proxy.logs import AccessLog
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2500, resource.RLIM_INFINITY))
log = AccessLog("json", os.open({str(path)!r}, os.O_WRONLY | os.O_CREAT | os.O_APPEND))
for number in range(20):
    log.write(exchange_of())
time.sleep(0.3)
full = os.path.getsize({str(path)!r}), log.dropped
log.write(exchange_of())
time.sleep(0.3)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
for number in range(5):
    log.write(exchange_of())
log.close()
print(*full, log.dropped)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    size, dropped, dropped_in_all = map(int, done.stdout.split())
    assert size == 2500
    *lines, end = path.read_bytes().split(b"\n")
    assert end == b""
    whole = []
    torn = 0
    for line in lines:
        try:
            whole.append(json.loads(line))
        except ValueError:
            torn += 1
    assert torn == 1
    assert dropped + len(whole) - 5 == 20
    assert dropped_in_all == dropped + 1
    assert len(whole) == 5 + 2500 // (len(lines[0]) + 1)


def test_a_pipe_that_somebody_made_non_blocking_is_waited_for() -> None:
    reader, pipe = os.pipe()
    os.set_blocking(pipe, False)
    log = AccessLog("json", pipe)
    for _ in range(2_000):
        log.write(exchange_of())
    time.sleep(0.3)
    read = bytearray()
    while select.select([reader], [], [], 0.5)[0]:
        read += os.read(reader, 4096)
    assert bytes(read).count(b"\n") == 2_000
    assert log.dropped == 0
    assert log.close()
    os.close(pipe)
    os.close(reader)


def test_lines_of_two_logs_in_one_pipe_do_not_run_into_each_other() -> None:
    reader, pipe = os.pipe()
    both = [AccessLog("json", pipe), AccessLog("combined", pipe)]
    for _ in range(3_000):
        for log in both:
            log.write(exchange_of())
    read = bytearray()
    while select.select([reader], [], [], 0.5)[0]:
        read += os.read(reader, 3000)
    lines = bytes(read).split(b"\n")[:-1]
    assert len(lines) == 6_000
    assert len({len(line) for line in lines}) == 2
    for log in both:
        assert log.close()
    os.close(pipe)
    os.close(reader)


def test_a_line_is_written_within_a_moment_and_not_only_at_the_end(output: Output) -> None:
    output.log.write(exchange_of())
    time.sleep(0.3)
    assert output.path.read_bytes().count(b"\n") == 1
    assert output.log.close()


def test_what_is_logged_after_the_close_is_counted_as_lost(output: Output) -> None:
    output.log.close()
    output.log.write(exchange_of())
    assert output.log.dropped == 1


def test_our_lines_and_mlflows_are_told_apart(application: Application) -> None:
    logging.getLogger("proxy.hold").warning("%d requests wait", 12, extra={"held": 12})
    logs.mlflow_line("2025/11/23 12:00:00 ERROR mlflow.server: no such table", 2)
    logs.mlflow_line('  File "x.py", line 3\r\n', 2)
    ours, theirs, stack = application.records()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", ours.pop("time"))
    assert ours == {
        "level": "warning",
        "source": "proxy",
        "logger": "proxy.hold",
        "message": "12 requests wait",
        "held": 12,
    }
    assert (theirs["source"], theirs["level"], theirs["generation"]) == ("mlflow", "error", 2)
    assert theirs["message"] == "2025/11/23 12:00:00 ERROR mlflow.server: no such table"
    assert (stack["level"], stack["message"]) == ("info", '  File "x.py", line 3')


def test_mlflows_lines_are_kept_at_every_level_of_ours(application: Application) -> None:
    application.configure("error")
    logging.getLogger("proxy.hold").warning("not this")
    logs.mlflow_line("DEBUG deep in MLflow", 1)
    logs.mlflow_line("psycopg.OperationalError: no route", 1)
    logging.getLogger("proxy.hold").error("this")
    assert [record["message"] for record in application.records()] == [
        "DEBUG deep in MLflow",
        "psycopg.OperationalError: no route",
        "this",
    ]


def test_nothing_in_a_message_breaks_the_application_log(application: Application) -> None:
    logger = logging.getLogger("proxy.test")
    for text in (NASTY, *NASTY):
        logger.warning("got %s", text, extra={"given": text, "thing": {"nested": object()}})
        logs.mlflow_line(text, 1)
    try:
        raise ValueError(NASTY)
    except ValueError:
        logger.exception("failed on %r", NASTY)
    for line in application.path.read_bytes().split(b"\n")[:-1]:
        assert line.decode().isprintable(), line
    records = application.records()
    assert len(records) == 2 * (len(NASTY) + 1) + 1
    assert "Traceback" in records[-1]["exception"]
    assert "ValueError" in records[-1]["exception"]


def test_uvicorn_speaks_through_our_log_and_its_access_log_is_shut(application: Application) -> None:
    logging.getLogger("uvicorn.access").handlers.append(logging.StreamHandler())
    application.configure()
    logging.getLogger("uvicorn.error").info("Started server", extra={"color_message": "\x1b[1mStarted"})
    logging.getLogger("uvicorn.access").info('%s - "GET /?token=hunter2"', "127.0.0.1")
    warnings.warn("an old thing", DeprecationWarning, stacklevel=1)
    records = application.records()
    assert [record["logger"] for record in records] == ["uvicorn.error", "py.warnings"]
    assert "color_message" not in records[0]


def test_a_person_at_a_terminal_gets_text() -> None:
    leader, follower = pty.openpty()
    root = logging.getLogger()
    level = root.level
    try:
        log = logs.configure(Level("info"), follower)
        logging.getLogger("proxy.edge").warning("look \x1b[31m here")
        logs.mlflow_line("INFO: started", 1)
        try:
            raise ValueError("two\nlines")
        except ValueError:
            logging.getLogger("proxy.edge").exception("it broke")
        assert log.finish()
        read = b""
        while select.select([leader], [], [], 0.3)[0]:
            read += os.read(leader, 65536)
        text = read.decode().replace("\r\n", "\n")
        assert re.search(r"^\d\d:\d\d:\d\d warning proxy\.edge: look \\u001b\[31m here$", text, re.M)
        assert re.search(r"^\d\d:\d\d:\d\d mlflow \| INFO: started$", text, re.M)
        assert re.search(r"^\d\d:\d\d:\d\d error   proxy\.edge: it broke\n    Traceback", text, re.M)
        assert "\n    ValueError: two\n    lines\n" in text
        root.removeHandler(log)
    finally:
        root.setLevel(level)
        logging.captureWarnings(False)
        logging.getLogger("uvicorn.access").disabled = False
        os.close(follower)
        os.close(leader)


def test_a_wrong_log_call_is_one_line_and_the_last_word_is_written_before_the_process_ends(
    tmp_path: Path,
) -> None:
    path = tmp_path / "err.log"
    script = (
        "import logging, types\n"
        "from proxy import logs\n"
        "logs.configure(types.SimpleNamespace(log_level='info', log_file=None))\n"
        "logging.getLogger('proxy').info('%d requests', 'not a number')\n"
        "logging.getLogger('proxy').info('the last word')\n"
    )
    with path.open("wb") as error:
        subprocess.run([sys.executable, "-c", script], stderr=error, check=True, timeout=60, cwd=PROJECT)
    wrong, last = (json.loads(line) for line in path.read_bytes().splitlines())
    assert wrong["message"].startswith("the log call at <string>:4 failed: TypeError")
    assert wrong["level"] == "error"
    assert last["message"] == "the last word"


def test_the_documentation_lists_the_fields_in_their_order(output: Output) -> None:
    output.log.write(exchange_of())
    (record,) = output.records()
    rows = re.findall(r"^\| `(\w+)` \|", (PROJECT / "docs/access-log.md").read_text(), re.M)
    assert rows == list(record) == FIELDS
