"""ops/ci_cd: the examples are what GitHub and GitLab take, and what they call does what it says."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from kube import K8S
from test_render import IMAGE, Team

ROOT = K8S.parent
CI = ROOT / "ops" / "ci_cd"
AUTHOR = ("-c", "user.name=t", "-c", "user.email=t@localhost")


def read(name: str) -> dict[str, Any]:
    # YAML 1.1 takes `on` for true.
    return yaml.load((CI / name).read_text(), yaml.BaseLoader)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("github-actions.yml", ["--builtin-schema", "vendor.github-workflows"]),
        ("gitlab-ci.yml", ["--builtin-schema", "vendor.gitlab-ci", "--data-transform", "gitlab-ci"]),
    ],
)
def test_an_example_is_valid(name: str, options: list[str]) -> None:
    command = [sys.executable, "-m", "check_jsonschema", *options, str(CI / name)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_actions_are_pinned_and_may_do_no_more_than_they_need() -> None:
    workflow = read("github-actions.yml")
    used = [step["uses"] for job in workflow["jobs"].values() for step in job["steps"] if "uses" in step]
    assert used
    for one in used:
        assert re.fullmatch(r"actions/[\w-]+@[0-9a-f]{40}", one), one
    assert workflow["permissions"] == {"contents": "read"}
    widened = {name: job["permissions"] for name, job in workflow["jobs"].items() if "permissions" in job}
    assert widened == {"publish": {"contents": "read", "id-token": "write"}}
    # Whose token signs: never what a pull request can change, nor a job that builds or scans.
    publish = workflow["jobs"]["publish"]
    assert publish["if"] == "github.event_name != 'pull_request'"
    runs = " ".join(step.get("run", "") for step in publish["steps"])
    assert set(re.findall(r"ops/ci_cd/image (\w+)", runs)) == {"push", "sign"}
    # What a branch or a title says is never put into a script as text.
    for job in workflow["jobs"].values():
        for step in job["steps"]:
            assert "${{" not in step.get("run", "")
            if step.get("uses", "").startswith("actions/checkout@"):
                assert step["with"]["persist-credentials"] == "false"


def test_every_step_is_there_in_both_and_in_order() -> None:
    called = {}
    for name in ("github-actions.yml", "gitlab-ci.yml"):
        text = "\n".join(
            line for line in (CI / name).read_text().splitlines() if not line.lstrip().startswith("#")
        )
        found = re.findall(r"(scripts/\w+|ops/ci_cd/(?:image|deploy) \w+)", text)
        called[name] = found
        for program in {one.partition(" ")[0] for one in found}:
            path = ROOT / program
            assert path.is_file(), program
            assert path.stat().st_mode & 0o111, program
            assert subprocess.run(["sh", "-n", path], capture_output=True).returncode == 0
    steps = [f"ops/ci_cd/image {one}" for one in ("build", "scan", "sbom", "push", "sign")]
    wanted = ["scripts/lint", "scripts/test", *steps, "ops/ci_cd/deploy production"]
    assert called == {"github-actions.yml": wanted, "gitlab-ci.yml": wanted}
    assert read("github-actions.yml")["on"]["schedule"][0]["cron"].split()[2:] == ["1", "*", "*"]


def test_the_image_is_built_with_the_arguments_that_its_file_has(tmp_path: Path) -> None:
    text = (CI / "image").read_text()
    given = set(re.findall(r'--build-arg "(\w+)=', text))
    assert given == {"VERSION", "REVISION", "CREATED", "SOURCE", "PYTHON_DIGEST", "REGISTRY"}
    assert given <= set(re.findall(r"^ARG (\w+)", (ROOT / "docker" / "Dockerfile").read_text(), re.MULTILINE))
    done = subprocess.run(
        [CI / "image", "build"], env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True
    )
    assert done.returncode != 0
    assert "set it to the name of the image" in done.stderr


def git(folder: Path, *command: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *command], capture_output=True, text=True, check=True)
    return done.stdout


DOCKER = """#!/bin/sh
# No engine: it notes what it was asked for, and has pushed what it was asked to push.
echo "$@" >>"$0.asked"
[ "$1" != inspect ] || printf '%s\\n' "elsewhere/mlflow-proxy@sha256:0" $PUSHED
"""


class Image:
    """ops/ci_cd/image in a project of its own, with nothing but that docker."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.docker = folder / "bin" / "docker"
        self.docker.parent.mkdir()
        self.docker.write_text(DOCKER)
        self.docker.chmod(0o755)
        (folder / "ops" / "ci_cd").mkdir(parents=True)
        shutil.copy(CI / "image", folder / "ops" / "ci_cd")
        git(folder, "init", "--quiet")
        git(folder, *AUTHOR, "commit", "--quiet", "--allow-empty", "--message", "empty")

    def run(self, step: str, **given: str) -> subprocess.CompletedProcess[str]:
        environment = {
            "PATH": f"{self.docker.parent}:/usr/bin:/bin",
            "HOME": str(self.folder),
            "IMAGE": IMAGE.partition("@")[0],
            "VERSION": "1.2.3",
            "COSIGN_IMAGE": "cosign:1",
            "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "s",
            "PUSHED": IMAGE,
        }
        return subprocess.run(
            [self.folder / "ops" / "ci_cd" / "image", step],
            env=environment | given,
            capture_output=True,
            text=True,
        )

    def asked(self) -> list[str]:
        return self.docker.with_name("docker.asked").read_text().splitlines()


def test_what_was_pushed_is_signed_by_its_digest_and_only_that_sees_login_and_identity(
    tmp_path: Path,
) -> None:
    image = Image(tmp_path)
    for step in ("build", "scan", "sbom", "push", "sign"):
        done = image.run(step)
        assert done.returncode == 0, done.stderr
    name = f"{IMAGE.partition('@')[0]}:1.2.3"
    build, save, scan, sbom, push, inspect, sign, attest = image.asked()
    revision = git(tmp_path, "rev-parse", "HEAD").strip()
    assert f"--tag {name} --build-arg VERSION=1.2.3 --build-arg REVISION={revision} " in build
    assert save == f"save --output {tmp_path}/build/image/image.tar {name}"
    assert " aquasec/trivy:0.67.2 image " in scan
    assert " anchore/syft:v1.33.0 scan " in sbom
    assert push == f"push {name}"
    assert inspect.endswith(name)
    assert sign.endswith(f" cosign:1 sign --yes {IMAGE}")
    assert attest.endswith(f"/build/image/sbom.spdx.json {IMAGE}")
    trusted = [any(one in line for one in ("/auth", "ID_TOKEN")) for line in (scan, sbom, sign, attest)]
    assert trusted == [False, False, True, True]
    assert all(f" --user {os.getuid()}:{os.getgid()} " in line for line in (scan, sbom, sign, attest))


def test_what_has_no_digest_after_the_push_is_neither_signed_nor_deployed(tmp_path: Path) -> None:
    image = Image(tmp_path)
    done = image.run("push", PUSHED="")
    assert done.returncode == 1
    assert "has no digest after the push" in done.stderr
    done = image.run("sign")
    assert done.returncode != 0
    assert "nothing was pushed" in done.stderr
    assert [line for line in image.asked() if "cosign" in line] == []
    shutil.copy(CI / "deploy", tmp_path / "ops" / "ci_cd")
    done = subprocess.run(
        [tmp_path / "ops" / "ci_cd" / "deploy", "production"],
        env={"PATH": "/usr/bin:/bin", "GITOPS_REPOSITORY": str(tmp_path / "nothing")},
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert "nothing was pushed" in done.stderr


def test_a_deployment_is_a_commit_to_the_repository_of_manifests(tmp_path: Path) -> None:
    team = Team(tmp_path)
    # A project whose environment is made already: scripts/setup would install it.
    (tmp_path / "scripts").mkdir()
    render = tmp_path / "scripts" / "render"
    files = "--settings settings.yaml --env-file secrets.env --k8s k8s"
    render.write_text(f'#!/bin/sh\nexec {sys.executable} {K8S}/render "$@" {files}\n')
    render.chmod(0o755)
    (tmp_path / "ops" / "ci_cd").mkdir(parents=True)
    shutil.copy(CI / "deploy", tmp_path / "ops" / "ci_cd")
    (tmp_path / "build" / "image").mkdir(parents=True)
    (tmp_path / "build" / "image" / "reference").write_text(f"{IMAGE}\n")
    assert team.run().returncode == 0, "its two files are written by that"

    manifests = tmp_path / "manifests.git"
    git(tmp_path, "init", "--quiet", "--bare", "--initial-branch", "main", str(manifests))
    first = tmp_path / "first"
    git(tmp_path, "clone", "--quiet", str(manifests), str(first))
    git(first, *AUTHOR, "commit", "--quiet", "--allow-empty", "--message", "empty")
    git(first, "push", "--quiet", "origin", "HEAD:main")

    def deploy() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [tmp_path / "ops" / "ci_cd" / "deploy", "production"],
            env={
                "PATH": f"{team.bin}:/usr/local/bin:/usr/bin:/bin",
                "HOME": str(tmp_path),
                "GITOPS_REPOSITORY": str(manifests),
                "EXISTING_SECRETS": "mlflow-drill-secret",
            },
            capture_output=True,
            text=True,
            timeout=120,
        )

    done = deploy()
    assert done.returncode == 0, done.stderr
    text = git(manifests, "show", "main:production/mlflow.yaml")
    assert f"image: {IMAGE}" in text
    assert "kind: Secret\n" not in text
    assert "sha256:" in git(manifests, "log", "-1", "--format=%s", "main")
    again = deploy()
    assert "has that already" in again.stdout
    (tmp_path / "secrets.env").write_text("")
    refused = deploy()
    assert refused.returncode == 1
    assert "Secret/mlflow-secret has no" in refused.stderr
    assert git(manifests, "rev-list", "--count", "main").strip() == "2"
