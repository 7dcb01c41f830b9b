"""Mounted secrets that are exchanged while the service runs, as kubelet and Vault do it, over a stand-in for
MLflow."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_reload import OTHER, PASSWORD, Place, living, until

from proxy.secret_watch import FIRST_WAIT, SecretWatch
from proxy.settings import load

TOKEN = "a-token-for-the-scraper"
BUCKET = {"AWS_ACCESS_KEY_ID": "first-id", "AWS_SECRET_ACCESS_KEY": "first-secret"}
FIRST = {"MLFLOW_TRACKING_PASSWORD": PASSWORD, "PROXY_METRICS_TOKEN": TOKEN, **BUCKET}


class Mounted:
    """A volume as kubelet writes it (kubernetes, pkg/volume/util/atomic_writer.go): the files lie in a folder
    with a time in its name, `..data` leads there, and each key is a link through it."""

    def __init__(self, folder: Path, **values: str) -> None:
        self.folder = folder
        self.number = 0
        self.values: dict[str, str] = {}
        folder.mkdir()
        self.exchange(**values)
        for name in values:
            (folder / name).symlink_to(f"..data/{name}")

    def exchange(self, **values: str) -> None:
        """All of it at once, by one rename; the old folder is removed after it."""
        self.values |= values
        self.number += 1
        old, new = (self.folder / f"..2026_11_23_{number:09}" for number in (self.number - 1, self.number))
        new.mkdir()
        for name, value in self.values.items():
            (new / name).write_text(value)
        (self.folder / "..data_tmp").symlink_to(new.name)
        (self.folder / "..data_tmp").rename(self.folder / "..data")
        if old.exists():
            for file in old.iterdir():
                file.unlink()
            old.rmdir()


class Pod(Place):
    """What `living` gives, and its secrets."""

    secrets: Mounted


@pytest.fixture
def pod(tmp_path: Path) -> Iterator[Pod]:
    secrets = Mounted(tmp_path / "secrets", **FIRST)
    named = {f"{name}_FILE": f"secrets/{name}" for name in FIRST}
    with living(tmp_path, MLFLOW_TRACKING_PASSWORD="", **named) as place:
        place.__class__ = Pod
        assert isinstance(place, Pod)
        place.secrets = secrets
        yield place


def reloads(pod: Pod) -> list[dict[str, Any]]:
    """What the audit log has of them."""
    file = pod.folder / "mlflow-data" / "audit" / "audit.jsonl"
    found = [json.loads(line) for line in file.read_text().splitlines()]
    return [line for line in found if line["event"] == "settings_reloaded"]


def scrape(pod: Pod, token: str) -> int:
    return (
        pod.service.anonymous()
        .get(pod.service.url + "/metrics", headers={"Authorization": f"Bearer {token}"}, timeout=30)
        .status_code
    )


def test_an_exchanged_secret_is_taken_up_by_itself_and_no_request_fails(pod: Pod) -> None:
    pod.plan(graceful=True, slow=0.05)
    before = pod.mlflow()
    assert before["environ"]["AWS_SECRET_ACCESS_KEY"] == "first-secret"
    with pod.busy() as failed:
        pod.secrets.exchange(
            PROXY_METRICS_TOKEN="another-token-for-the-scraper",
            AWS_ACCESS_KEY_ID="new-id",
            AWS_SECRET_ACCESS_KEY="new-secret\n",
        )
        until(lambda: len(reloads(pod)) == 1, pod)
    assert failed == []
    after = pod.mlflow()
    assert after["pid"] != before["pid"]
    assert (after["environ"]["AWS_ACCESS_KEY_ID"], after["environ"]["AWS_SECRET_ACCESS_KEY"]) == (
        "new-id",
        "new-secret",
    )
    assert scrape(pod, "another-token-for-the-scraper") == 200
    assert scrape(pod, TOKEN) == 401
    (told,) = reloads(pod)
    assert (told["user"], told["auth"], told["outcome"]) == (None, None, "success")
    assert told["details"] == {
        "way": "file",
        "changed": "PROXY_METRICS_TOKEN, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY",
        "restarted": True,
    }
    assert "new-secret" not in pod.service.log()


def test_a_bad_value_changes_nothing_is_said_and_the_next_good_one_is_taken_up(pod: Pod) -> None:
    pid = pod.mlflow()["pid"]
    began = time.monotonic()
    pod.secrets.exchange(PROXY_METRICS_TOKEN="short", MLFLOW_TRACKING_PASSWORD=OTHER)
    with pod.busy() as failed:
        until(lambda: len(reloads(pod)) == 1, pod)
        (told,) = reloads(pod)
        assert (told["outcome"], told["details"]) == ("failed", {"way": "file", "reason": "mistake"})
        assert "PROXY_METRICS_TOKEN (file" in pod.service.log()
        assert "nothing was changed" in pod.service.log()
        assert "short" not in pod.service.log().replace("too short", "")
        checks = pod.service.anonymous().get(pod.service.url + "/readyz?verbose", timeout=30)
        assert checks.status_code == 200
        assert "[-]secret-files failed: " in checks.text
        assert scrape(pod, TOKEN) == 200
    assert failed == []
    time.sleep(9)  # it looks every two seconds, and tries what failed again after thirty
    assert len(reloads(pod)) <= 1 + (time.monotonic() - began) // FIRST_WAIT
    pod.secrets.exchange(PROXY_METRICS_TOKEN="another-token-for-the-scraper")
    until(lambda: reloads(pod)[-1]["outcome"] == "success", pod)
    assert pod.ask().status_code == 401
    assert pod.ask(password=OTHER).json()["pid"] == pid
    checks = pod.service.anonymous().get(pod.service.url + "/readyz?verbose", timeout=30)
    assert "[+]secret-files ok" in checks.text


def test_the_same_values_written_anew_are_no_change(pod: Pod) -> None:
    pod.secrets.exchange()
    # What comes after it would be the second line, not the first.
    time.sleep(5)
    pod.secrets.exchange(PROXY_METRICS_TOKEN="another-token-for-the-scraper")
    until(lambda: len(reloads(pod)) >= 1, pod)
    assert [line["details"]["changed"] for line in reloads(pod)] == ["PROXY_METRICS_TOKEN"]


def test_a_file_that_is_gone_is_told_and_what_is_written_in_its_place_is_taken_up(pod: Pod) -> None:
    path = pod.folder / "secrets" / "MLFLOW_TRACKING_PASSWORD"
    path.unlink()
    until(lambda: reloads(pod) != [], pod)
    assert reloads(pod)[0]["details"] == {"way": "file", "reason": "mistake"}
    assert pod.ask().status_code == 200
    path.write_text(OTHER)
    until(lambda: reloads(pod)[-1]["outcome"] == "success", pod)
    assert pod.ask(password=OTHER).status_code == 200
    assert reloads(pod)[-1]["details"]["changed"] == "MLFLOW_TRACKING_PASSWORD"


def test_it_can_be_switched_off_and_on_again_while_the_service_runs(pod: Pod) -> None:
    pod.write(PROXY_WATCH_SECRETS="off")
    assert pod.reload().returncode == 0
    pod.secrets.exchange(MLFLOW_TRACKING_PASSWORD=OTHER)
    time.sleep(7)  # it looks every two seconds
    assert pod.ask().status_code == 200
    assert len(reloads(pod)) == 1
    pod.write(PROXY_WATCH_SECRETS="on")
    assert pod.reload().returncode == 0
    assert pod.ask(password=OTHER).status_code == 200
    assert [line["details"]["way"] for line in reloads(pod)] == ["command", "command"]


def test_a_file_that_is_being_written_is_let_alone_until_it_is_whole(pod: Pod) -> None:
    path = pod.folder / "secrets" / "PROXY_METRICS_TOKEN"
    path.unlink()
    longest, last = 0.0, time.monotonic()
    for number in range(20):
        path.write_text(f"part {number}")  # too short for a token
        time.sleep(0.4)
        longest, last = max(longest, time.monotonic() - last), time.monotonic()
    path.write_text("another-token-for-the-scraper")
    # Not asked for by its token: who sends a wrong one again and again is locked out.
    until(lambda: any(line["outcome"] == "success" for line in reloads(pod)), pod)
    assert scrape(pod, "another-token-for-the-scraper") == 200
    # On a machine that stood still one of them was there for long enough to be meant.
    if longest < 1.9:
        assert [line["outcome"] for line in reloads(pod)] == ["success"]


def test_a_defect_of_a_reload_ends_no_watch_and_is_said(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN)
    loaded = load({}, {"PROXY_METRICS_TOKEN_FILE": str(file)}, tmp_path)

    async def run() -> None:
        asked = asyncio.Event()

        async def reload() -> bool:
            asked.set()
            raise RuntimeError("a defect")

        watch = SecretWatch(lambda: loaded, reload)
        assert watch.checks() == {"secret-files": None}
        watching = asyncio.create_task(watch.run())
        file.write_text("another-token-for-the-scraper")
        await asyncio.wait_for(asked.wait(), 60)
        assert not watching.done()
        assert "could not be taken up" in str(watch.checks()["secret-files"])
        watching.cancel()

    asyncio.run(run())
