"""What the tests of k8s/ have in common: the overlays as kustomize puts them together, and what a pod may do.

They read what is kept in tests/rendered/, as neither Debian nor PyPI nor npm has kustomize. It is made anew,
where one is installed, by `python tests/kube.py`; that it is of k8s/ as it stands is known by a digest."""

from __future__ import annotations

import copy
import functools
import hashlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

K8S = Path(__file__).parents[1] / "k8s"
KEPT = Path(__file__).parent / "rendered"
OVERLAYS = ("local", "production")
VERSIONS = ("1.30", "1.34", "1.37")
"""Of Kubernetes, as docs/kubernetes.md has them: the oldest, one between, the newest."""
MADE = "mlflow-prometheusrule.yaml"
"""A copy of monitoring/'s rules, which changes with those alone: it is not kept, and not in the digest."""

Document = dict[str, Any]


def _program() -> list[str] | None:
    if shutil.which("kustomize"):
        return ["kustomize", "build"]
    if shutil.which("kubectl"):
        said = subprocess.run(["kubectl", "version", "--client"], capture_output=True, text=True).stdout
        if "Kustomize Version: v5" in said:
            return ["kubectl", "kustomize"]
    return None


PROGRAM = _program()
needs_kustomize = pytest.mark.skipif(
    PROGRAM is None, reason="not installed: kubectl 1.27 or newer, or kustomize 5"
)


def kustomized(folder: Path) -> list[str]:
    """What is applied by `kubectl apply -k`, a text a document."""
    assert PROGRAM is not None, "neither kustomize 5 nor kubectl 1.27 or newer is installed"
    done = subprocess.run([*PROGRAM, str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "deprecated" not in done.stderr
    return done.stdout.split("\n---\n")


def is_made(document: Document) -> bool:
    return (document["kind"], document["metadata"]["name"]) == ("PrometheusRule", "mlflow-proxy")


def digest() -> str:
    """Of all that kustomize reads."""
    found = hashlib.sha256()
    for file in sorted(K8S.rglob("*.yaml")):
        if file.name != MADE:
            found.update(f"{file.relative_to(K8S)}\0{file.read_text()}\0".encode())
    return found.hexdigest()


def _keep() -> None:
    for name in OVERLAYS:
        texts = [
            one.strip() for one in kustomized(K8S / "overlays" / name) if not is_made(yaml.safe_load(one))
        ]
        head = (
            f"# k8s/overlays/{name} as kustomize puts it together, without {MADE}.\n"
            f"# Made by `python tests/kube.py` of files with the digest {digest()}: change those.\n"
        )
        (KEPT / f"{name}.yaml").write_text(head + "\n---\n".join(texts) + "\n")


def kept(name: str) -> str:
    """An overlay's manifests. Fails where they are not those of the files as they stand."""
    text = (KEPT / f"{name}.yaml").read_text()
    assert digest() in text.partition("\napiVersion:")[0], (
        "k8s/ was changed after tests/rendered/ was made of it: run `python tests/kube.py`, for which "
        "kustomize 5 or kubectl 1.27 or newer is needed"
    )
    return text


@functools.cache
def _overlay(name: str) -> list[Document]:
    return list(yaml.safe_load_all(kept(name)))


def overlay(name: str) -> list[Document]:
    return copy.deepcopy(_overlay(name))


def written(file: str) -> list[Document]:
    """The documents of a file of k8s/ as they stand there."""
    return list(yaml.safe_load_all((K8S / file).read_text()))


def of(found: list[Document], kind: str, name: str | None = None) -> list[Document]:
    return [one for one in found if one["kind"] == kind and name in (None, one["metadata"]["name"])]


def templates(found: list[Document]) -> Iterator[tuple[str, Document]]:
    """Each pod's template, by what makes it."""
    for one in found:
        spec = one.get("spec", {})
        if one["kind"] == "CronJob":
            spec = spec["jobTemplate"]["spec"]
        if one["kind"] in ("StatefulSet", "Job", "CronJob", "Deployment", "DaemonSet"):
            yield f"{one['kind']}/{one['metadata']['name']}", spec["template"]


def containers(pod: Document) -> list[Document]:
    return [*pod.get("initContainers", ()), *pod["containers"]]


def selects(selector: Document, labels: dict[str, str]) -> bool:
    """Whether a label selector (matchLabels, matchExpressions with In) takes these labels."""
    if not set(selector) <= {"matchLabels", "matchExpressions"}:
        raise AssertionError(f"not understood: {selector}")
    if any(labels.get(name) != value for name, value in selector.get("matchLabels", {}).items()):
        return False
    for one in selector.get("matchExpressions", ()):
        assert one["operator"] == "In", one
        if labels.get(one["key"]) not in one["values"]:
            return False
    return True


def environment(found: list[Document], container: Document) -> dict[str, str]:
    """What a container's will be, but for what only the cluster knows."""
    result: dict[str, str] = {}
    for source in container.get("envFrom", ()):
        (config,) = of(found, "ConfigMap", source["configMapRef"]["name"])
        result |= config["data"]
    return result | {one["name"]: one["value"] for one in container.get("env", ()) if "value" in one}


def mounted_secrets(pod: Document, container: Document) -> dict[str, str]:
    """The Secret behind each folder."""
    secrets = {one["name"]: one["secret"]["secretName"] for one in pod["volumes"] if "secret" in one}
    return {
        mount["mountPath"]: secrets[mount["name"]]
        for mount in container.get("volumeMounts", ())
        if mount["name"] in secrets
    }


def violations(pod: Document) -> list[str]:
    """Of the restricted Pod Security Standard, version 1.30 (kubernetes.io: Pod Security Standards)."""
    wrong = [name for name in ("hostNetwork", "hostPID", "hostIPC") if pod.get(name)]
    whole = pod.get("securityContext", {})
    allowed = {
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "persistentVolumeClaim",
        "projected",
    }
    for volume in pod.get("volumes", ()):
        wrong += [f"volume {kind}" for kind in set(volume) - allowed - {"name", "secret"}]
    if whole.get("sysctls"):
        wrong.append("sysctls")
    for container in [*containers(pod), *pod.get("ephemeralContainers", ())]:
        own = container.get("securityContext", {})
        both = {**whole, **own}
        wrong += [
            f"{container['name']}: {what}"
            for what, bad in {
                "privileged": own.get("privileged"),
                "escalation": own.get("allowPrivilegeEscalation") is not False,
                "root": both.get("runAsNonRoot") is not True,
                "user 0": both.get("runAsUser") == 0,
                "seccomp": both.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"),
                "capabilities": "ALL" not in own.get("capabilities", {}).get("drop", ()),
                "more capabilities": set(own.get("capabilities", {}).get("add", ())) - {"NET_BIND_SERVICE"},
                "procMount": own.get("procMount", "Default") != "Default",
                "host port": any(port.get("hostPort") for port in container.get("ports", ())),
                "AppArmor": both.get("appArmorProfile", {}).get("type") == "Unconfined",
                "SELinux": {"user", "role"} & set(both.get("seLinuxOptions", {})),
            }.items()
            if bad
        ]
    return wrong


if __name__ == "__main__":
    _keep()
