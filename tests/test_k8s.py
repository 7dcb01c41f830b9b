"""The Kubernetes manifests: what schemas say of them, and what schemas don't see (pods by themselves:
test_k8s_pods.py)."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from click.testing import CliRunner
from kube import (
    K8S,
    MADE,
    OVERLAYS,
    PROGRAM,
    VERSIONS,
    containers,
    environment,
    is_made,
    kept,
    kustomized,
    mounted_secrets,
    needs_kustomize,
    of,
    overlay,
    selects,
    templates,
    written,
)
from programs import needs

from proxy.cli import main
from proxy.settings import load
from proxy.settings.names import FILE_PASSTHROUGH
from proxy.settings.variables import FILE_NAMES, KNOWN

CUSTOM = {
    "ServiceMonitor",
    "PrometheusRule",
    "ExternalSecret",
    "SecretStore",
    "VaultAuth",
    "VaultStaticSecret",
}
"""Kinds of operators, of which the validator has no schema."""
EXAMPLES = {
    one["metadata"]["name"]: one["stringData"]
    for file in ("base/mlflow-secret.example.yaml", "components/backup/mlflow-backup-secret.example.yaml")
    for one in written(file)
}
HEX = "0123456789abcdef" * 4


@needs_kustomize
@pytest.mark.parametrize("name", OVERLAYS)
def test_kustomize_makes_of_an_overlay_what_is_kept(name: str) -> None:
    made = [yaml.safe_load(text) for text in kustomized(K8S / "overlays" / name)]
    assert [one for one in made if not is_made(one)] == list(yaml.safe_load_all(kept(name)))
    assert len(made) == len(overlay(name)) + (name == "production")


def mlflow_variables() -> set[str]:
    """Those that MLflow itself reads, from its source."""
    found = importlib.util.find_spec("mlflow")
    assert found is not None
    assert found.origin is not None
    return set(
        re.findall(r'"(MLFLOW_\w+)"', Path(found.origin).with_name("environment_variables.py").read_text())
    )


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", OVERLAYS)
def test_an_overlay_is_valid_for_each_stated_version(name: str, version: str) -> None:
    for one in overlay(name):
        if one["kind"] not in CUSTOM:
            kubernetes_validate.validate(one, version, strict=True)


def test_the_stated_versions_are_those_of_the_documentation() -> None:
    text = (K8S.parent / "docs" / "kubernetes.md").read_text()
    assert f"Kubernetes {VERSIONS[0]} to {VERSIONS[-1]}" in text


def test_there_is_one_kind_a_file() -> None:
    for file in K8S.rglob("*.yaml"):
        kinds = {one["kind"] for one in yaml.safe_load_all(file.read_text())}
        assert len(kinds) == 1, file
    listed = {file for folder in ("base", "components") for file in (K8S / folder).rglob("mlflow-*.yaml")}
    taken = {
        file.parent / name
        for file in K8S.rglob("kustomization.yaml")
        for name in yaml.safe_load(file.read_text())["resources"]
    }
    assert {file.name for file in listed - taken} == {
        "mlflow-secret.example.yaml",
        "mlflow-backup-secret.example.yaml",
    }


@pytest.mark.parametrize("name", OVERLAYS)
def test_every_name_that_is_referred_to_is_there(name: str) -> None:
    found = overlay(name)
    (server,) = of(found, "StatefulSet")
    headless = of(found, "Service", server["spec"]["serviceName"])
    assert [one["spec"]["clusterIP"] for one in headless] == ["None"]
    claims = {one["metadata"]["name"] for one in server["spec"]["volumeClaimTemplates"]}
    for where, template in templates(found):
        pod = template["spec"]
        assert of(found, "ServiceAccount", pod["serviceAccountName"]), where
        volumes = {one["name"] for one in pod["volumes"]} | (claims if "StatefulSet" in where else set())
        mounted = {mount["name"] for one in containers(pod) for mount in one.get("volumeMounts", ())}
        assert mounted == volumes, where
        for one in containers(pod):
            for source in one.get("envFrom", ()):
                assert of(found, "ConfigMap", source["configMapRef"]["name"]), where
    for scaler in of(found, "HorizontalPodAutoscaler"):
        target = scaler["spec"]["scaleTargetRef"]
        assert of(found, target["kind"], target["name"])
    for ingress in of(found, "Ingress"):
        backend = ingress["spec"]["rules"][0]["http"]["paths"][0]["backend"]["service"]
        (service,) = of(found, "Service", backend["name"])
        assert backend["port"]["name"] in {port["name"] for port in service["spec"]["ports"]}
        assert ingress["spec"]["tls"][0]["hosts"] == [ingress["spec"]["rules"][0]["host"]]
    names = [(one["kind"], one["metadata"]["name"]) for one in found]
    assert len(names) == len(set(names))
    spaces = {one["metadata"].get("namespace") for one in found if one["kind"] != "Namespace"}
    (space,) = of(found, "Namespace")
    assert spaces == {space["metadata"]["name"]}
    assert space["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


@pytest.mark.parametrize("name", OVERLAYS)
def test_selectors_match_the_servers_pods_and_no_others(name: str) -> None:
    found = overlay(name)
    labels = {where: template["metadata"]["labels"] for where, template in templates(found)}
    (server,) = of(found, "StatefulSet")
    selectors = [server["spec"]["selector"]]
    selectors += [{"matchLabels": one["spec"]["selector"]} for one in of(found, "Service")]
    selectors += [one["spec"]["selector"] for one in of(found, "PodDisruptionBudget")]
    spread = server["spec"]["template"]["spec"].get("topologySpreadConstraints", ())
    selectors += [one["labelSelector"] for one in spread]
    assert len(selectors) == (6 if name == "production" else 4)
    for selector in selectors:
        assert [where for where in labels if selects(selector, labels[where])] == ["StatefulSet/mlflow"]
    for monitor in of(found, "ServiceMonitor"):
        services = [
            one
            for one in of(found, "Service")
            if selects(monitor["spec"]["selector"], one["metadata"]["labels"])
        ]
        assert [one["metadata"]["name"] for one in services] == ["mlflow-pods"], "each pod once"
        (endpoint,) = monitor["spec"]["endpoints"]
        assert endpoint["port"] in {port["name"] for port in services[0]["spec"]["ports"]}
        assert services[0]["metadata"]["labels"][monitor["spec"]["jobLabel"]] == "mlflow-proxy"
        assert services[0]["spec"]["publishNotReadyAddresses"] is True


@pytest.mark.parametrize("name", OVERLAYS)
def test_every_variable_is_a_setting_or_mlflows(name: str) -> None:
    known = KNOWN.keys() | FILE_NAMES.keys() | mlflow_variables()
    found = overlay(name)
    for config in of(found, "ConfigMap"):
        assert set(config["data"]) <= known, config["metadata"]["name"]
    for where, template in templates(found):
        for container in containers(template["spec"]):
            ours = {name for name in environment(found, container) if name.startswith(("PROXY_", "MLFLOW_"))}
            assert ours <= known, where


@pytest.mark.parametrize("name", OVERLAYS)
def test_each_containers_command_is_one_of_the_programs(name: str) -> None:
    """An option that it does not know is told before `--help` is."""
    found = overlay(name)
    asked = {}
    for where, template in templates(found):
        for container in containers(template["spec"]):
            if "args" in container:
                done = CliRunner().invoke(main, [*container["args"], "--help"])
                assert done.exit_code == 0, f"{where}: {done.output}"
                asked[where, container["name"]] = container["args"][0]
    assert set(asked.values()) == ({"serve"} if name == "local" else {"serve", "migrate", "backup", "drill"})


@pytest.mark.parametrize("name", OVERLAYS)
def test_the_program_accepts_what_each_container_is_given(name: str, tmp_path: Path) -> None:
    found = overlay(name)
    for where, template in templates(found):
        for container in template["spec"]["containers"]:
            given = environment(found, container)
            secrets = mounted_secrets(template["spec"], container)
            for variable, value in given.items():
                secret = secrets.get(str(Path(value).parent)) if variable.endswith("_FILE") else None
                if secret is not None:
                    file = tmp_path / secret / Path(value).name
                    file.parent.mkdir(exist_ok=True)
                    example = EXAMPLES[secret][file.name]
                    file.write_text(example if "://" in example else HEX)
                    given[variable] = str(file)
            if "PROXY_BACKUP_RECIPIENT" in given:
                given["PROXY_BACKUP_RECIPIENT"] = (
                    "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"
                )
            loaded = load({}, given, tmp_path)
            # Behind nothing but `kubectl port-forward` the warning is right.
            warned = [line for line in loaded.warnings if name == "production" or "PROXY_TLS" not in line]
            assert warned == [], where
            # The drill's own MLflow has none, whatever is set.
            several = name == "production" and container["args"] != ["drill"]
            jobs = loaded.passthrough.get("MLFLOW_SERVER_ENABLE_JOB_EXECUTION")
            assert jobs == ("false" if several else None)


@pytest.mark.parametrize("name", OVERLAYS)
def test_secrets_are_files_with_a_key_and_stand_in_no_environment(name: str) -> None:
    found = overlay(name)
    assert of(found, "Secret") == []
    wanted: dict[str, set[str]] = {}
    for where, template in templates(found):
        pod = template["spec"]
        for container in containers(pod):
            assert all(set(source) == {"configMapRef"} for source in container.get("envFrom", ())), where
            assert not any("secretKeyRef" in str(one) for one in container.get("env", ())), where
            # By subPath kubelet never exchanges a file.
            assert not any("subPath" in str(mount) for mount in container.get("volumeMounts", ())), where
            secrets = mounted_secrets(pod, container)
            for variable, value in environment(found, container).items():
                real = FILE_NAMES.get(variable, variable)
                if (real in KNOWN and KNOWN[real].secret) or real in FILE_PASSTHROUGH - {
                    "MLFLOW_S3_ENDPOINT_URL"
                }:
                    assert variable in FILE_NAMES, f"{where}: {variable} is a secret in clear"
                if variable.endswith("_FILE"):
                    folder, _, key = value.rpartition("/")
                    assert key in EXAMPLES[secrets[folder]], f"{where}: {variable}"
                    wanted.setdefault(secrets[folder], set()).add(key)
        for volume in pod["volumes"]:
            if "secret" in volume:
                assert volume["secret"]["secretName"] in EXAMPLES
                assert volume["secret"].get("optional", False) is (name == "local")
                assert volume["secret"]["defaultMode"] == 0o440
    for monitor in of(found, "ServiceMonitor"):
        credentials = monitor["spec"]["endpoints"][0]["authorization"]["credentials"]
        assert credentials["key"] in EXAMPLES[credentials["name"]]
    assert wanted == ({} if name == "local" else {secret: set(keys) for secret, keys in EXAMPLES.items()})


def test_the_stores_make_the_same_secret() -> None:
    (external,) = written("components/external-secrets/mlflow-externalsecret.yaml")
    assert external["spec"]["target"]["name"] == "mlflow-secret"
    keys = [one["secretKey"] for one in external["spec"]["data"]]
    assert (
        keys
        == list(EXAMPLES["mlflow-secret"])
        == [one["remoteRef"]["property"] for one in external["spec"]["data"]]
    )
    (store,) = written("components/external-secrets/mlflow-secretstore.yaml")
    assert external["spec"]["secretStoreRef"] == {"kind": store["kind"], "name": store["metadata"]["name"]}
    (vault,) = written("components/vault/mlflow-vaultstaticsecret.yaml")
    (login,) = written("components/vault/mlflow-vaultauth.yaml")
    assert vault["spec"]["destination"]["name"] == "mlflow-secret"
    assert vault["spec"]["vaultAuthRef"] == login["metadata"]["name"]
    assert login["spec"]["kubernetes"]["serviceAccount"] == "mlflow"


def test_several_replicas_share_a_server_and_no_pod_migrates() -> None:
    found = overlay("production")
    (server,) = of(found, "StatefulSet")
    (scaler,) = of(found, "HorizontalPodAutoscaler")
    assert "replicas" not in server["spec"], "the autoscaler's number would be set back at each deployment"
    assert scaler["spec"]["minReplicas"] >= 2
    (config,) = of(found, "ConfigMap", "mlflow-config")
    assert config["data"]["PROXY_MIGRATE"] == "never"
    assert EXAMPLES["mlflow-secret"]["MLFLOW_BACKEND_STORE_URI"].startswith("postgresql://")
    assert EXAMPLES["mlflow-secret"]["PROXY_DATABASE_URL"].startswith("postgresql://")
    pod = server["spec"]["template"]["spec"]
    assert [one["args"] for one in pod["initContainers"]] == [["migrate", "--wait"]]
    (job,) = of(found, "Job")
    assert job["spec"]["template"]["spec"]["containers"][0]["args"] == ["migrate", "--create", "--yes"]
    hosts = {one["topologyKey"]: one["whenUnsatisfiable"] for one in pod["topologySpreadConstraints"]}
    assert hosts["kubernetes.io/hostname"] == "DoNotSchedule"
    (alone,) = of(overlay("local"), "StatefulSet")
    assert alone["spec"]["replicas"] == 1
    assert of(overlay("local"), "HorizontalPodAutoscaler") == []


@needs_kustomize
@pytest.mark.parametrize("name", ["MLFLOW_BACKEND_STORE_URI_FILE", "PROXY_DATABASE_URL_FILE"])
def test_kustomize_itself_refuses_several_replicas_without_a_databases_server(
    tmp_path: Path, name: str
) -> None:
    copied = tmp_path / "k8s"
    shutil.copytree(K8S, copied)
    config = copied / "overlays" / "production" / "mlflow-config.yaml"
    config.write_text("".join(line for line in config.open() if name not in line))
    assert PROGRAM is not None
    folder = str(copied / "overlays" / "production")
    done = subprocess.run([*PROGRAM, folder], capture_output=True, text=True)
    assert done.returncode != 0
    assert f"data.{name}" in done.stderr


@needs("checkov")
@pytest.mark.parametrize("name", OVERLAYS)
def test_checkov_finds_nothing_that_is_not_explained_in_place(name: str, tmp_path: Path) -> None:
    (tmp_path / "manifests.yaml").write_text(yaml.safe_dump_all(overlay(name)))
    command = [
        "checkov",
        "--file",
        "manifests.yaml",
        "--framework",
        "kubernetes",
        "--compact",
        "--skip-download",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stdout
    assert "Failed checks: 0, Skipped checks: " in done.stdout


@needs("promtool")
def test_prometheus_takes_the_rules(tmp_path: Path) -> None:
    folder = "components/monitoring"
    for rule in (*written(f"{folder}/{MADE}"), *written(f"{folder}/mlflow-jobs-prometheusrule.yaml")):
        path = tmp_path / f"{rule['metadata']['name']}.yml"
        path.write_text(yaml.safe_dump(rule["spec"]))
        done = subprocess.run(["promtool", "check", "rules", path], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    (jobs,) = of(overlay("production"), "PrometheusRule", "mlflow-proxy-jobs")
    named = {one["metadata"]["name"] for one in overlay("production") if one["kind"] in ("CronJob", "Job")}
    for rule in jobs["spec"]["groups"][0]["rules"]:
        assert set(re.findall(r'"(mlflow-\w+)"', rule["expr"])) <= named
        assert (K8S.parent / rule["annotations"]["runbook_url"]).is_file()


def test_the_prometheus_rule_is_made_from_the_rules() -> None:
    spec = importlib.util.spec_from_file_location("build", K8S / "components" / "monitoring" / "build.py")
    assert spec is not None
    assert spec.loader is not None
    build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)
    assert build.TARGET.read_text() == build.made(), "run `python k8s/components/monitoring/build.py`"
    groups = [group for path in build.RULES for group in yaml.safe_load(path.read_text())["groups"]]
    assert yaml.safe_load(build.made())["spec"]["groups"] == groups
    assert len(groups) > 3
