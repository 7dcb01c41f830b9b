"""A person starts the service with nothing set, pastes the printed lines, and runs MLflow's quickstart."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from service import Service, clean_environment, running

MEGABYTE = 1 << 20
QUICKSTART = Path(__file__).with_name("quickstart.py")
RUN = 'eval "$1"; exec "$2" "$3" "$4" "$5"'


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The service of somebody who has set nothing, but for the port."""
    with running(tmp_path_factory.mktemp("it's fresh"), own_password=False, jobs=True) as service:
        yield service
    shutil.rmtree(service.data / "artifacts")  # pytest keeps the rest for a look


def printed_lines(service: Service) -> str:
    """The lines to paste, as they are on the screen."""
    deadline = time.monotonic() + 60
    while "MLflow is ready at" not in service.log():
        assert time.monotonic() < deadline, service.log()
        time.sleep(0.1)
    _, _, after = service.log().partition("For MLflow's client, paste:\n\n")
    return after.partition("\n\n")[0]


def quickstart(service: Service, folder: Path, size: int) -> dict[str, Any]:
    """Paste the lines into a shell that has none of our settings, and run the client there."""
    result = folder / "result.json"
    arguments = [sys.executable, str(QUICKSTART), str(result), str(size)]
    done = subprocess.run(
        ["sh", "-c", RUN, "sh", printed_lines(service), *arguments],
        env=clean_environment(TMPDIR=str(folder)),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(result.read_text())  # type: ignore[no-any-return]


def peak(service: Service) -> int:
    """The most memory that the proxy's process has had since `forget_peak`, in bytes."""
    status = Path(f"/proc/{service.process.pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) * 1024


def forget_peak(service: Service) -> None:
    Path(f"/proc/{service.process.pid}/clear_refs").write_text("5")


def test_the_printed_lines_are_all_that_a_client_needs(fresh: Service) -> None:
    names = [line.split("=")[0].split() for line in printed_lines(fresh).splitlines()]
    assert names == [
        ["export", "MLFLOW_TRACKING_URI"],
        ["export", "MLFLOW_TRACKING_USERNAME"],
        ["export", "MLFLOW_TRACKING_PASSWORD"],
        ["export", "MLFLOW_TRACKING_SERVER_CERT_PATH"],
    ]


@pytest.mark.parametrize(
    "size",
    [
        pytest.param(32 * MEGABYTE, id="32MiB"),
        pytest.param(1024 * MEGABYTE, id="1GiB", marks=pytest.mark.slow),
    ],
)
def test_the_quickstart_works_and_is_measured_and_logged(fresh: Service, tmp_path: Path, size: int) -> None:
    fresh.session().get(fresh.url, timeout=10)  # a password's first check takes 64 MiB by argon2's own design
    lines_before = len(fresh.access_log())
    forget_peak(fresh)
    memory = peak(fresh)
    done = quickstart(fresh, tmp_path, size)
    grown = peak(fresh) - memory
    print(json.dumps(done, indent=1), f"memory {memory}, grown by {grown}")

    assert done["metrics"] == [100, 900]
    assert done["params"] == {"learning_rate": "0.01", "epochs": "500"}
    (artifact,) = done["artifacts"]
    assert artifact["sent"] == artifact["got"]
    assert {"data", "notes.txt"} <= set(done["listed"])
    assert done["model_version"] == "READY"
    assert ["greet"] in done["traces"]
    assert grown < 64 * MEGABYTE

    lines = fresh.access_log()[lines_before:]
    assert {line["user"] for line in lines if line["operation"] != "version"} == {"admin"}
    assert not [line for line in lines if line["error"] or line["refusal"] or line["status"] >= 500]
    upload = next(line for line in lines if line["bytes_in"] == size)
    download = next(line for line in lines if line["bytes_out"] == size)
    assert (upload["method"], download["method"]) == ("PUT", "GET")
    for line in (upload, download):
        name, status = line["operation"], str(line["status"])
        assert fresh.metric("mlflow_proxy_requests_total", operation=name, status=status) >= 1
    assert fresh.metric("mlflow_proxy_request_bytes_total", operation=upload["operation"]) >= size
    assert fresh.metric("mlflow_proxy_response_bytes_total", operation=download["operation"]) >= size
    logged = [line["operation"] for line in lines]
    assert logged.count("log-metric") == 100
    assert {"create-run", "log-batch", "create-registered-model", "create-model-version"} <= set(logged)
    assert fresh.metric("mlflow_proxy_requests_total", operation="log-metric", status="200") >= 100
