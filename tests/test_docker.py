"""The Dockerfile's rules, as nobody but us would hold it against them, and what reaches a build."""

from __future__ import annotations

import fnmatch
import json
import re
import shlex
import stat
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from compose import DOCKER, ROOT

from proxy import __version__
from proxy.cli import main

TEXT = (DOCKER / "Dockerfile").read_text()


class Instruction(NamedTuple):
    word: str
    rest: str


def instructions() -> list[Instruction]:
    """One an instruction, its continued lines in one, comments left out."""
    lines = [line for line in TEXT.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [Instruction(*line.split(None, 1)) for line in joined.splitlines() if line.strip()]


def stages() -> list[list[Instruction]]:
    """What each FROM begins; what stands before the first one is left out."""
    found: list[list[Instruction]] = []
    for one in instructions():
        if one.word == "FROM":
            found.append([])
        if found:
            found[-1].append(one)
    return found


BUILD, FINAL = stages()


def only(word: str, stage: list[Instruction] = FINAL) -> str:
    (one,) = (one.rest for one in stage if one.word == word)
    return one


def all_of(word: str, stage: list[Instruction]) -> list[str]:
    return [one.rest for one in stage if one.word == word]


def test_every_stage_begins_with_the_same_base_pinned_by_its_digest() -> None:
    given = dict(one.rest.split("=", 1) for one in instructions() if one.word == "ARG" and "=" in one.rest)
    assert re.fullmatch("sha256:[0-9a-f]{64}", given["PYTHON_DIGEST"])
    assert given["REGISTRY"] == ""
    for stage in (BUILD, FINAL):
        base = stage[0].rest.removesuffix(" AS build")
        assert base == "${REGISTRY}python:${PYTHON_TAG}@${PYTHON_DIGEST}"


def test_its_python_is_the_one_that_the_tests_run_with_and_the_lock_was_made_for() -> None:
    tag = re.search("^ARG PYTHON_TAG=(.*)", TEXT, re.M)
    assert tag is not None
    assert tag[1].startswith(f"{sys.version_info.major}.{sys.version_info.minor}-slim-"), tag[1]


def test_what_is_installed_is_locked_and_held_against_its_hashes() -> None:
    installs = [part for run in all_of("RUN", BUILD) for part in run.split("&&") if "pip install" in part]
    locked, ours = installs
    for option in ("--require-hashes", "--no-deps", "--only-binary=:all:", "-r requirements/serve.lock"):
        assert option in locked
    for option in ("--no-deps", "--no-index", "--no-build-isolation"):
        assert option in ours
    assert any("pip check" in run for run in all_of("RUN", BUILD))
    assert not any("pip" in run for run in all_of("RUN", FINAL))
    lock = (ROOT / "requirements" / "serve.lock").read_text()
    wanted = ("psycopg-binary", "pymysql", "boto3", "azure-storage-blob", "azure-identity")
    for driver in (*wanted, "google-cloud-storage"):
        assert re.search(f"^{driver}==", lock, re.M), driver


def test_it_runs_as_a_user_without_rights_behind_an_init_process() -> None:
    assert only("USER") == "1001:1001"
    assert json.loads(only("ENTRYPOINT")) == ["tini", "--", "mlflow-proxy"]
    assert json.loads(only("CMD")) == ["serve"]
    assert only("STOPSIGNAL") == "SIGTERM"
    assert json.loads(only("VOLUME")) == ["/data"]
    # Nothing after USER is run as root, and nothing before it is left to be.
    words = [one.word for one in FINAL]
    assert "RUN" not in words[words.index("USER") :]


def test_no_program_of_it_runs_as_another_than_its_caller() -> None:
    (run,) = all_of("RUN", FINAL)
    # After the last package, and before anything is copied that could bring one.
    last = run.split("&&")[-1].strip()
    assert last == "find / -xdev -type f -perm /6000 -exec chmod a-s {} +"
    assert "USER" not in [one.word for one in FINAL[: [one.word for one in FINAL].index("RUN")]]
    copied = [one.rest for one in FINAL if one.word in ("COPY", "ADD")]
    assert all("--chmod" not in one for one in copied)


def test_what_it_takes_the_right_from_is_what_has_it(tmp_path: Path) -> None:
    for name, mode in (("su", 0o4755), ("wall", 0o2755), ("both", 0o6711), ("plain", 0o755)):
        (tmp_path / name).touch()
        (tmp_path / name).chmod(mode)
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o2775)
    (command,) = [part for run in all_of("RUN", FINAL) for part in run.split("&&") if " -perm " in part]
    subprocess.run(shlex.split(command.replace("find / ", f"find {tmp_path} ")), check=True)
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {
        "su": 0o755,
        "wall": 0o755,
        "both": 0o711,
        "plain": 0o755,
        "shared": 0o2775,
    }


def test_its_health_check_is_a_command_that_is_there() -> None:
    options, _, command = only("HEALTHCHECK").partition("CMD ")
    name, *words = json.loads(command)
    assert name == "mlflow-proxy"
    with main.make_context("mlflow-proxy", list(words), resilient_parsing=False) as context:
        # click takes the options or raises.
        found = main.get_command(context, words[0])
        assert found is not None
        given = found.make_context(words[0], words[1:], parent=context).params
    limit = re.search(r"--timeout=(\d+)s", options)
    assert limit is not None
    assert given["timeout"] < int(limit[1])
    assert given["ready"] is False


def test_the_final_stage_takes_the_environment_alone_from_the_first() -> None:
    assert all_of("COPY", FINAL) == ["--from=build /opt/mlflow-proxy /opt/mlflow-proxy"]
    for stage in (BUILD, FINAL):
        assert not all_of("ADD", stage)


def test_debian_s_packages_leave_no_lists_behind() -> None:
    runs = [run for stage in (BUILD, FINAL) for run in all_of("RUN", stage) if "apt-get" in run]
    assert runs
    for run in runs:
        assert "apt-get update" in run
        assert "install --yes --no-install-recommends" in run
        assert "rm -rf /var/lib/apt/lists/*" in run
        assert "upgrade" not in run


def test_no_secret_and_no_registry_is_in_it() -> None:
    for one in instructions():
        if one.word in ("ARG", "ENV"):
            assert not re.search("PASSWORD|SECRET|TOKEN|CREDENTIAL|_KEY", one.rest, re.I), one
        assert "--mount=type=secret" not in one.rest
    for file in (*DOCKER.rglob("*"), *ROOT.glob("mlflow-*.env.example"), ROOT / "scripts/test-containers"):
        if file.is_file() and "secrets" not in file.parts and file.name != ".env":
            found = re.findall(r"\b(?:[\w-]+\.)+(?:io|com|dev|org)/", file.read_text())
            assert not found, f"{file}: {found}"


def test_it_is_labelled_as_the_open_container_initiative_has_it() -> None:
    labels = dict(re.findall(r'org\.opencontainers\.image\.([\w.]+)="([^"]*)"', only("LABEL")))
    assert {"title", "description", "licenses", "version", "revision", "created", "source"} <= labels.keys()
    assert labels["base.digest"] == "${PYTHON_DIGEST}"
    assert f"VERSION={__version__}" in all_of("ARG", FINAL)
    assert labels["licenses"] == "Apache-2.0"


def lets_in(path: str) -> bool:
    """Whether .dockerignore does; as Docker has it, the last line that matches counts."""
    taken = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!").removeprefix("**/")
        if not line or line.startswith("#"):
            continue
        parts = path.split("/")
        heads = ["/".join(parts[: depth + 1]) for depth in range(len(parts))]
        names = parts if "**/" in line else heads
        if any(fnmatch.fnmatchcase(name, pattern) for name in names):
            taken = line.startswith("!")
    return taken


def test_a_build_is_given_what_it_copies() -> None:
    for copied in all_of("COPY", BUILD):
        *sources, _ = copied.split()
        for source in sources:
            assert (ROOT / source).exists(), source
            assert lets_in(source), source
    for path in ("proxy/cli/__init__.py", "proxy/operations.tsv", "client/pyproject.toml"):
        assert lets_in(path), path


@pytest.mark.parametrize(
    "path",
    [
        "mlflow.env",
        "mlflow-minio.env",
        "docker/.env",
        "docker/secrets/tls.key",
        "config/settings.production.yaml",
        "mlflow-data/password",
        ".git/config",
        ".venv/bin/python",
        "node_modules/a.js",
        "tests/service.py",
        "proxy/__pycache__/app.pyc",
        "client/mlflow_proxy_client.egg-info/PKG-INFO",
    ],
)
def test_a_build_is_given_no_secret_and_nothing_that_it_has_no_use_for(path: str) -> None:
    assert not lets_in(path)
