"""MLflow's UI in a real browser behind a slow line: directly, and through the proxy, in turns.

    python benchmarks/ui.py [--rounds N] [--json FILE] [--packs FOLDER]

A network namespace is the browser's machine, at the end of a slow line (20 Mbit/s, 40 ms there and back:
slow_line.py). Each visit is headless Chromium with a new profile, which opens a page and then comes back to
it; the pages are the home page and an experiment's runs. A page is there when its own content is (PAGES).
Bytes are those that came over the wire, heads of answers included, as Chromium counts them. The table goes to
standard error, the result as JSON to standard output. Needs root, iproute2, Chromium, chromedriver, certutil.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "tests"), str(ROOT / "tests" / "end_to_end")]

import service as services  # noqa: E402
from elsewhere import Elsewhere  # noqa: E402
from service import NO_JOBS, PASSWORD, USER, Service  # noqa: E402
from slow_line import at_the_end  # noqa: E402

RATE, DELAY = 20e6, 0.020
"""Of the line, each way: bits a second, and seconds."""
PATIENCE = 120
SETTLED = 1.5
"""Seconds without a request under way after which a page is taken to be at rest."""
RUN = "a run to look at"
PAGES = {"home": ("/#/", "Recent"), "experiment": ("/#/experiments/{id}/runs", RUN)}
"""Each page's address, and the text that it shows once it is there."""
TARGETS = {
    "home page, bytes": ("at most", 1_200_000),
    "experiment page, bytes": ("at most", 1_800_000),
    "home page, times faster": ("at least", 3.0),
    "experiment page, times faster": ("at least", 3.0),
    "second visit, files asked for": ("at most", 0),
}
FLAGS = (
    *("headless=new", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-sync"),
    *("disable-background-networking", "disable-component-update", "disable-dev-shm-usage"),
    *("disable-extensions", "window-size=1400,1000"),
)
WATCH = """
(() => {
  const wanted = %s;
  const look = () => {
    if (document.body && document.body.textContent.includes(wanted)) window.__there = performance.now();
    else requestAnimationFrame(look);
  };
  requestAnimationFrame(look);
})();
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the result there, too")
    parser.add_argument("--packs", type=Path, help="a data directory's `ui`, to save the time of compressing")
    parser.add_argument("--visit", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.visit:
        print(json.dumps(visit(**json.loads(options.visit))))
        return
    result = measure(options.rounds, options.packs)
    print(table(result), file=sys.stderr)
    text = json.dumps(result)
    if options.json:
        options.json.write_text(text + "\n")
    print(text)


# The visits, in the namespace.


def visit(
    url: str, page: str, text: str, authorization: str, folder: str, authority: str
) -> list[dict[str, Any]]:
    """Open a page in a new browser, and once more; what each time took."""
    with browser(Path(folder), authority) as chrome:
        chrome.execute_cdp_cmd("Page.enable", {})
        chrome.execute_cdp_cmd("Network.enable", {})
        if authorization:
            chrome.execute_cdp_cmd(
                "Network.setExtraHTTPHeaders", {"headers": {"Authorization": authorization}}
            )
        chrome.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": WATCH % json.dumps(text)})
        chrome.get_log("performance")
        return [one_load(chrome, url, page) for _ in range(2)]


def one_load(chrome: Any, url: str, page: str) -> dict[str, Any]:
    chrome.get("about:blank")
    chrome.get_log("performance")
    chrome.get(url + page)
    events: list[dict[str, Any]] = []
    deadline = time.monotonic() + PATIENCE
    there, quiet_since = None, time.monotonic()
    while there is None or time.monotonic() - quiet_since < SETTLED:
        new = [json.loads(entry["message"])["message"] for entry in chrome.get_log("performance")]
        if any(event["method"].startswith("Network.") for event in new):
            quiet_since = time.monotonic()
        events += new
        there = there or chrome.execute_script("return window.__there")
        if time.monotonic() > deadline:
            shown = chrome.execute_script("return document.body.innerText")
            sys.exit(f"{url}{page} did not show what it should:\n{shown}")
        time.sleep(0.1)
    load = chrome.execute_script("return performance.getEntriesByType('navigation')[0].loadEventEnd")
    return {"there_ms": round(there), "load_ms": round(load), **counted(events)}


def counted(events: list[dict[str, Any]]) -> dict[str, Any]:
    """Bytes and requests that went over the wire; `files` are those for the UI's own files."""
    urls: dict[str, str] = {}
    cached: set[str] = set()
    sent = 0
    for event in events:
        of = event["params"]
        if event["method"] == "Network.requestWillBeSent":
            urls[of["requestId"]] = of["request"]["url"]
        elif event["method"] == "Network.requestServedFromCache" or (
            event["method"] == "Network.responseReceived" and of["response"].get("fromDiskCache")
        ):
            cached.add(of["requestId"])
        elif event["method"] == "Network.loadingFinished" and of["requestId"] not in cached:
            sent += round(of["encodedDataLength"])
    asked = [url for request, url in urls.items() if request not in cached and url.startswith("http")]
    files = [url for url in asked if "/static-files/" in url]
    return {"bytes": sent, "requests": len(asked), "files": len(files), "asked": sorted(files)}


@contextlib.contextmanager
def browser(folder: Path, authority: str) -> Iterator[Any]:
    """One that trusts the authority: it would keep nothing of a site that it does not trust."""
    from selenium.webdriver import Chrome, ChromeOptions
    from selenium.webdriver.chrome.service import Service as Driver

    options = ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for flag in (*FLAGS, f"user-data-dir={folder / 'profile'}"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    store = folder / ".pki" / "nssdb"
    store.mkdir(parents=True)
    for told in (("-N", "--empty-password"), ("-A", "-t", "C,,", "-n", "mlflow-proxy", "-i", authority)):
        subprocess.run(["certutil", "-d", f"sql:{store}", *told], check=True)
    driver = Driver("/usr/bin/chromedriver", env={**os.environ, "HOME": str(folder)})
    chrome = Chrome(options=options, service=driver)
    try:
        chrome.set_page_load_timeout(PATIENCE)
        yield chrome
    finally:
        chrome.quit()


# What is visited.


def measure(rounds: int, packs: Path | None) -> dict[str, Any]:
    with (
        tempfile.TemporaryDirectory(prefix="ui-", ignore_cleanup_errors=True) as folder,
        at_the_end(RATE, DELAY) as machine,
        proxied(Path(folder) / "service", machine, packs) as service,
    ):
        experiment = with_runs(service)
        prepared(service)
        with direct(service, machine) as url:
            return compared(rounds, machine, service, url, experiment, Path(folder))


def compared(
    rounds: int, machine: Elsewhere, service: Service, direct_url: str, experiment: str, folder: Path
) -> dict[str, Any]:
    basic = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    ways = {"direct": (direct_url, ""), "proxied": (f"https://{machine.ours}:{service.port}", basic)}
    seen: dict[str, dict[str, list[dict[str, Any]]]] = {way: {} for way in ways}
    for number in range(rounds):
        for page, (address, text) in PAGES.items():
            for way, (url, authorization) in ways.items():
                told = {
                    "url": url,
                    "page": address.format(id=experiment),
                    "text": text,
                    "authorization": authorization,
                    "folder": str(folder / f"{way}-{page}-{number}"),
                    "authority": str(service.ca),
                }
                done = machine.run(
                    sys.executable,
                    __file__,
                    "--visit",
                    json.dumps(told),
                    env=dict(os.environ),
                    timeout=3 * PATIENCE,
                )
                if done.returncode:
                    sys.exit(f"{way}, {page}: {done.stdout}{done.stderr}")
                first, second = json.loads(done.stdout)
                seen[way].setdefault(page, []).append(first)
                seen[way].setdefault(f"{page}, second visit", []).append(second)
                print(
                    f"{number + 1}/{rounds} {way} {page}: {brief(first)}; then {brief(second)}",
                    file=sys.stderr,
                )
    medians = {
        way: {
            page: {
                key: round(statistics.median(load[key] for load in loads))
                for key in ("there_ms", "load_ms", "bytes", "requests", "files")
            }
            for page, loads in pages.items()
        }
        for way, pages in seen.items()
    }
    return judged(medians, seen)


def judged(medians: dict[str, Any], seen: dict[str, Any]) -> dict[str, Any]:
    found = {
        "home page, bytes": medians["proxied"]["home"]["bytes"],
        "experiment page, bytes": medians["proxied"]["experiment"]["bytes"],
        "home page, times faster": faster(medians, "home"),
        "experiment page, times faster": faster(medians, "experiment"),
        "second visit, files asked for": max(
            load["files"] for page in PAGES for load in seen["proxied"][f"{page}, second visit"]
        ),
    }
    targets = [
        {
            "what": what,
            "target": f"{how} {bound:,}",
            "found": found[what],
            "met": found[what] <= bound if how == "at most" else found[what] >= bound,
        }
        for what, (how, bound) in TARGETS.items()
    ]
    return {
        "line": f"{RATE / 1e6:g} Mbit/s and {2 * DELAY * 1000:g} ms there and back",
        "medians": medians,
        "targets": targets,
    }


def faster(medians: dict[str, Any], page: str) -> float:
    return round(medians["direct"][page]["there_ms"] / medians["proxied"][page]["there_ms"], 2)


def brief(load: dict[str, Any]) -> str:
    return f"{load['there_ms']} ms, {load['bytes']:,} bytes, {load['requests']} requests"


def table(result: dict[str, Any]) -> str:
    lines = [
        f"The UI in Chromium, over a line of {result['line']}; medians.",
        "",
        "| page | | until it is there | load event | bytes | requests | files |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for page in result["medians"]["direct"]:
        for way, pages in result["medians"].items():
            of = pages[page]
            lines.append(
                f"| {page} | {way} | {of['there_ms'] / 1000:.2f} s | {of['load_ms'] / 1000:.2f} s "
                f"| {of['bytes']:,} | {of['requests']} | {of['files']} |"
            )
    lines += ["", "| target | wanted | found | |", "| --- | --- | ---: | --- |"]
    for target in result["targets"]:
        found = f"{target['found']:,}"
        lines.append(
            f"| {target['what']} | {target['target']} | {found} | {'met' if target['met'] else 'missed'} |"
        )
    return "\n".join(lines)


@contextlib.contextmanager
def proxied(folder: Path, machine: Elsewhere, packs: Path | None) -> Iterator[Service]:
    if packs is not None:
        shutil.copytree(packs, folder / "mlflow-data" / "ui")
    port = services.free_port()
    with services.running(
        folder,
        MLFLOW_HOST="0.0.0.0",
        MLFLOW_PORT=str(port),
        PROXY_PUBLIC_URL=f"https://{machine.ours}:{port}",
    ) as service:
        yield service


def with_runs(service: Service) -> str:
    """An experiment with some runs; its id."""
    session = service.session()

    def post(path: str, **what: Any) -> Any:
        answer = session.post(f"{service.local}/api/2.0/mlflow/{path}", json=what, timeout=60)
        answer.raise_for_status()
        return answer.json()

    experiment = post("experiments/create", name=f"ui {time.time():.0f}")["experiment_id"]
    for number in range(50):
        run = post("runs/create", experiment_id=experiment, run_name=f"{RUN} {number}", start_time=1)
        post(
            "runs/log-batch",
            run_id=run["run"]["info"]["run_id"],
            metrics=[{"key": f"m{k}", "value": k / 7, "timestamp": 1, "step": 0} for k in range(10)],
            params=[{"key": f"p{k}", "value": f"value {k}"} for k in range(10)],
        )
    return str(experiment)


def prepared(service: Service) -> None:
    """Wait until the UI's files are compressed as well as they ever are."""
    deadline = time.monotonic() + 600
    while not list((service.data / "ui").glob("*.best")):
        if time.monotonic() > deadline:
            sys.exit(f"the UI's files were not compressed:\n{service.log()}")
        hurry(service.process.pid)
        time.sleep(1)


def hurry(parent: int) -> None:
    """Let its small process that compresses have the processor, which it leaves to all others."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    for child in children:
        with contextlib.suppress(OSError):
            if b"proxy.ui.prepare" in Path(f"/proc/{child}/cmdline").read_bytes():
                os.sched_setscheduler(int(child), os.SCHED_OTHER, os.sched_param(0))
                os.setpriority(os.PRIO_PROCESS, int(child), 0)


@contextlib.contextmanager
def direct(service: Service, machine: Elsewhere) -> Iterator[str]:
    """MLflow itself over the same data, without anything before it; where it is."""
    port = services.free_port()
    url = f"http://{machine.ours}:{port}"
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--host", machine.ours, "--port", str(port)),
        *("--workers", "1", "--backend-store-uri", f"sqlite:///{service.data / 'mlflow.db'}"),
        *("--allowed-hosts", f"{machine.ours}:*", "--cors-allowed-origins", url),
    ]
    environment = services.clean_environment(**NO_JOBS)
    log = service.folder / "direct.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=service.folder, env=environment, stdout=output, stderr=output, start_new_session=True
        )
    try:
        deadline = time.monotonic() + PATIENCE
        while True:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/health", timeout=5):
                break
            if time.monotonic() > deadline or process.poll() is not None:
                sys.exit(f"mlflow server did not start:\n{log.read_text()}")
            time.sleep(0.3)
        yield url
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 15)
        process.wait(30)


if __name__ == "__main__":
    main()
