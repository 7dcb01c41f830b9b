"""The manifests that kustomize made, as this program reads and changes them."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from given import Given

from proxy.errors import UserError

Document = dict[str, Any]

CONFIG, SECRET = "mlflow-config", "mlflow-secret"
BACKUP_CONFIG, BACKUP_SECRET = "mlflow-backup-config", "mlflow-backup-secret"
DRILL_SECRET = "mlflow-drill-secret"  # noqa: S105 - its name
IMAGE = re.compile(
    r"[a-z0-9][a-z0-9._:/-]*?(:(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]*))?(?P<digest>@sha256:[0-9a-f]{64})?"
)
_DRILLS = (
    *("MLFLOW_S3_", "MLFLOW_BOTO_", "MLFLOW_GCS_", "MLFLOW_ENABLE_WORKSPACES"),
    *("AWS_DEFAULT_REGION", "AWS_REGION", "AWS_ENDPOINT_URL", "AWS_CA_BUNDLE"),
)
MARK = "mlflow-proxy/config"
"""The annotation by which pods are started anew when what they are configured with has changed."""


@dataclass(frozen=True)
class Container:
    """One of ours, with what its environment will be."""

    where: str
    spec: Document
    environment: dict[str, str]
    mounts: dict[str, tuple[str, bool]]
    """The Secret behind each folder, and whether it may be missing."""

    def key_of(self, path: str) -> tuple[str, str] | None:
        """The Secret and the key that are mounted as that file."""
        file = PurePosixPath(path)
        found = self.mounts.get(str(file.parent))
        return None if found is None else (found[0], file.name)


class Manifests:
    """All of them. `take` puts what was given where it belongs."""

    def __init__(self, documents: list[Document]) -> None:
        self.documents = documents
        self._made: list[Document] = []

    def of(self, kind: str, name: str | None = None) -> list[Document]:
        return [
            one for one in self.documents if one["kind"] == kind and name in (None, one["metadata"]["name"])
        ]

    def take(self, given: Given) -> list[str]:
        """Put the settings into the ConfigMaps and the secrets into Secrets; what has no place is said."""
        problems = []
        values: dict[str, dict[str, str]] = {}
        for name in (*given.settings, *given.secrets):
            config, secret = CONFIG, SECRET
            if backup := name.startswith(("PROXY_BACKUP_", "PROXY_DRILL_")):
                config = BACKUP_CONFIG
                secret = DRILL_SECRET if name.startswith("PROXY_DRILL_") else BACKUP_SECRET
            maps = self.of("ConfigMap", config)
            if not maps:
                problems.append(
                    f"{name} ({given.origin[name]}): this overlay has no ConfigMap {config}"
                    + (": add components/backup" if backup else "")
                )
                continue
            data = maps[0].setdefault("data", {})
            # What the overlay has in a file stays in one, though it be no secret.
            if name in given.settings and f"{name}_FILE" not in data:
                data[name] = given.settings[name]
            else:
                data.pop(name, None)
                if not any(
                    (one.key_of(one.environment.get(f"{name}_FILE", "")) or ("",))[0] == secret
                    for one in self.containers()
                ):
                    data[f"{name}_FILE"] = f"{self._folder_of(secret)}/{name}"
                values.setdefault(secret, {})[name] = given.secrets.get(name) or given.settings[name]
        for secret, texts in values.items():
            for old in self.of("Secret", secret):
                self.documents.remove(old)
            self._made.append(
                {
                    "apiVersion": "v1",
                    "kind": "Secret",
                    "metadata": {"name": secret, **self._namespace()},
                    "type": "Opaque",
                    "stringData": texts,
                }
            )
        self._set_host()
        self._tell_the_drill()
        return problems

    def values_of(self, secret: str) -> dict[str, str] | None:
        """What is known to be in it, by key; None where nothing here makes it. Raises UserError."""
        for one in (*self._made, *self.of("Secret", secret)):
            if one["metadata"]["name"] == secret:
                coded = one.get("data") or {}
                return {key: _decoded(secret, key, coded[key]) for key in coded} | (
                    one.get("stringData") or {}
                )
        return None

    def set_image(self, image: str) -> list[str]:
        """Have all of our containers run that one."""
        if (parts := IMAGE.fullmatch(image)) is None:
            return [f"--image {image!r}: is no image: write NAME:VERSION or NAME@sha256:…"]
        if parts["digest"] is None and parts["tag"] in (None, "latest"):
            return [f"--image {image}: name a version or, better, a digest (NAME@sha256:…); `latest` is any"]
        for container in self.containers():
            container.spec["image"] = image
        return []

    def containers(self) -> Iterator[Container]:
        """Those that run our image."""
        for one in self.documents:
            where = f"{one['kind']}/{one['metadata']['name']}"
            pod = pod_of(one)
            if pod is None:
                continue
            secrets = {
                volume["name"]: (volume["secret"]["secretName"], bool(volume["secret"].get("optional")))
                for volume in pod.get("volumes", ())
                if "secret" in volume
            }
            for spec in (*pod.get("initContainers", ()), *pod["containers"]):
                if spec["image"].rpartition("/")[2].partition("@")[0].partition(":")[0] != "mlflow-proxy":
                    continue
                mounts = {
                    mount["mountPath"].rstrip("/"): secrets[mount["name"]]
                    for mount in spec.get("volumeMounts", ())
                    if mount["name"] in secrets
                }
                yield Container(f"{where}, {spec['name']}", spec, self._environment(spec), mounts)

    def replicas(self) -> int:
        """The most that there may be at once."""
        numbers = [one["spec"].get("replicas", 1) for one in self.of("StatefulSet")]
        for one in self.of("HorizontalPodAutoscaler"):
            numbers += [one["spec"].get("minReplicas", 1), one["spec"]["maxReplicas"]]
        return max(numbers, default=1)

    def finish(self, *, with_secrets: bool, existing: set[str]) -> None:
        """Mark the pods with what they are configured with, and add the Secrets where they are wanted, but
        not those that are there."""
        for one in self.of("StatefulSet"):
            template = one["spec"]["template"]
            data = [found.get("data") for found in self.of("ConfigMap", CONFIG)]
            digest = hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()
            template["metadata"].setdefault("annotations", {})[MARK] = digest[:16]
        if with_secrets:
            # A namespace comes first.
            place = max(
                (n + 1 for n, one in enumerate(self.documents) if one["kind"] == "Namespace"), default=0
            )
            self.documents[place:place] = [
                one for one in self._made if one["metadata"]["name"] not in existing
            ]
        else:
            self.documents = [one for one in self.documents if one["kind"] != "Secret"]

    def _environment(self, container: Document) -> dict[str, str]:
        found: dict[str, str] = {}
        for source in container.get("envFrom", ()):
            for one in self.of("ConfigMap", source.get("configMapRef", {}).get("name", "")):
                found |= one.get("data") or {}
        return found | {one["name"]: one["value"] for one in container.get("env", ()) if "value" in one}

    def _folder_of(self, secret: str) -> str:
        for container in self.containers():
            for folder, (name, _) in container.mounts.items():
                if name == secret:
                    return folder
        return f"/run/secrets/{secret}"

    def _namespace(self) -> dict[str, str]:
        for one in self.of("ConfigMap"):
            if "namespace" in one["metadata"]:
                return {"namespace": one["metadata"]["namespace"]}
        return {}

    def host(self) -> str | None:
        """PROXY_PUBLIC_URL's."""
        for config in self.of("ConfigMap", CONFIG):
            return urlsplit(str((config.get("data") or {}).get("PROXY_PUBLIC_URL", ""))).hostname
        return None

    def _tell_the_drill(self) -> None:
        """How the storage is reached: the drill's pod has its ConfigMap alone, and not the service's."""
        for config in self.of("ConfigMap", BACKUP_CONFIG):
            for service in self.of("ConfigMap", CONFIG):
                for name, value in (service.get("data") or {}).items():
                    if name.startswith(_DRILLS) and not name.endswith("_FILE"):
                        config.setdefault("data", {}).setdefault(name, value)

    def _set_host(self) -> None:
        """The public URL's into the Ingress, as the overlay's replacement does before it is known here."""
        host = self.host()
        for ingress in self.of("Ingress") if host else ():
            ingress["spec"]["rules"][0]["host"] = host
            for tls in ingress["spec"].get("tls", ())[:1]:
                tls["hosts"] = [host]


def _decoded(secret: str, key: str, text: str) -> str:
    try:
        return base64.b64decode(text, validate=True).decode()
    except ValueError:
        raise UserError(
            f"Secret/{secret}, data.{key}: is no base64 of text; stringData takes it as it is"
        ) from None


def pod_of(document: Document) -> Document | None:
    """The pod's spec of whatever makes pods."""
    spec = document.get("spec", {})
    if document["kind"] == "CronJob":
        spec = spec["jobTemplate"]["spec"]
    if document["kind"] in ("StatefulSet", "Deployment", "DaemonSet", "Job", "CronJob"):
        return spec["template"]["spec"]  # type: ignore[no-any-return]
    return None
