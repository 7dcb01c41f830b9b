"""Kubernetes' pods: their probes, sizes and rights, what they write to, and who talks to whom."""

from __future__ import annotations

import copy
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from kube import OVERLAYS, containers, environment, of, overlay, selects, templates, violations

from proxy.operations import OWN
from proxy.runtime_dir import LONGEST_NAME, PREFIX, SOCKET_LIMIT
from proxy.serve import LEAST_GRACE, THREAD_SECONDS


@pytest.mark.parametrize("name", OVERLAYS)
def test_ports_and_probes_are_those_of_the_program(name: str) -> None:
    found = overlay(name)
    (server,) = of(found, "StatefulSet")
    (container,) = server["spec"]["template"]["spec"]["containers"]
    (port,) = container["ports"]
    assert environment(found, container)["MLFLOW_PORT"] == str(port["containerPort"])
    for service in of(found, "Service"):
        assert [one["targetPort"] for one in service["spec"]["ports"]] == [port["name"]]
    asked = {what: container[f"{what}Probe"]["httpGet"] for what in ("startup", "liveness", "readiness")}
    assert {one["port"] for one in asked.values()} == {port["name"]}
    paths = {what: one["path"] for what, one in asked.items()}
    assert paths == {"startup": "/livez", "liveness": "/livez", "readiness": "/readyz"}
    assert {"livez", "readyz", "metrics"} <= set(OWN)
    assert {one["spec"]["endpoints"][0]["path"] for one in of(found, "ServiceMonitor")} <= {"/metrics"}
    assert not any("scheme" in one for one in asked.values()), "PROXY_TLS is off there"
    assert environment(found, container)["PROXY_TLS"] == "off"


@pytest.mark.parametrize("name", OVERLAYS)
def test_a_pod_is_given_longer_than_its_drain(name: str) -> None:
    found = overlay(name)
    (server,) = of(found, "StatefulSet")
    pod = server["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    before = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    drain = float(environment(found, container)["PROXY_GRACE_SECONDS"])
    assert pod["terminationGracePeriodSeconds"] >= before + drain + LEAST_GRACE + THREAD_SECONDS + 10
    assert before >= 5


def quantity(text: Any) -> Decimal:
    """Kubernetes' own format (apimachinery, pkg/api/resource: Quantity)."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(m|k|M|G|T|Ki|Mi|Gi|Ti)?", str(text))
    assert match is not None, text
    powers = {"m": Decimal("0.001"), "": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
    powers |= {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
    return Decimal(match[1]) * powers[match[2] or ""]


@pytest.mark.parametrize("name", OVERLAYS)
def test_quantities_are_numbers_and_what_is_asked_for_is_within_the_limit(name: str) -> None:
    found = overlay(name)
    for where, template in templates(found):
        pod = template["spec"]
        scratch = sum(quantity(one["emptyDir"]["sizeLimit"]) for one in pod["volumes"] if "emptyDir" in one)
        for container in containers(pod):
            asked, most = container["resources"]["requests"], container["resources"]["limits"]
            assert set(asked) == set(most) == {"cpu", "memory", "ephemeral-storage"}, where
            assert all(quantity(asked[one]) <= quantity(most[one]) for one in asked), where
        # Or a pod would be evicted before its volumes are full.
        assert scratch <= max(
            quantity(one["resources"]["limits"]["ephemeral-storage"]) for one in pod["containers"]
        )
    for claim in of(found, "StatefulSet")[0]["spec"]["volumeClaimTemplates"]:
        assert quantity(claim["spec"]["resources"]["requests"]["storage"]) > 0


@pytest.mark.parametrize("name", OVERLAYS)
def test_pods_keep_to_the_restricted_standard_and_to_less(name: str) -> None:
    found = overlay(name)
    accounts = of(found, "ServiceAccount")
    assert accounts
    assert not any(one["automountServiceAccountToken"] for one in accounts)
    assert not [one["kind"] for one in found if "Role" in one["kind"]]
    for where, template in templates(found):
        pod = template["spec"]
        assert violations(pod) == [], where
        assert pod["automountServiceAccountToken"] is False, where
        assert pod["enableServiceLinks"] is False, where
        assert pod["securityContext"]["runAsUser"] == pod["securityContext"]["fsGroup"] == 1001, where
        for container in containers(pod):
            assert container["securityContext"]["readOnlyRootFilesystem"] is True, where
            assert re.search(r":\d+\.\d+\.\d+$|@sha256:", container["image"]), where


def test_the_check_of_the_standard_finds_what_breaks_it() -> None:
    (server,) = of(overlay("production"), "StatefulSet")
    good = server["spec"]["template"]["spec"]

    def broken(change: str) -> list[str]:
        pod = copy.deepcopy(good)
        exec(change, {"pod": pod, "one": pod["containers"][0]})
        return violations(pod)

    for change in (
        "pod['hostNetwork'] = True",
        "pod['volumes'].append({'name': 'x', 'hostPath': {'path': '/'}})",
        "pod['securityContext'].pop('runAsNonRoot')",
        "pod['securityContext'].pop('seccompProfile')",
        "pod['securityContext']['runAsUser'] = 0",
        "one['securityContext']['allowPrivilegeEscalation'] = True",
        "one['securityContext'].pop('capabilities')",
        "one['securityContext']['capabilities']['add'] = ['SYS_ADMIN']",
        "one['securityContext']['privileged'] = True",
        "one['ports'][0]['hostPort'] = 80",
        "pod['initContainers'][0].pop('securityContext')",
    ):
        assert broken(change) != [], change
    assert broken("pass") == []


@pytest.mark.parametrize("name", OVERLAYS)
def test_what_is_written_to_is_a_volume(name: str) -> None:
    found = overlay(name)
    for where, template in templates(found):
        pod = template["spec"]
        for container in pod["containers"]:
            written_to = {
                mount["mountPath"]
                for mount in container["volumeMounts"]
                if not mount.get("readOnly") and mount["name"] != "secrets"
            }
            given = environment(found, container)
            for variable in ("PROXY_DATA_DIR", "PROXY_RUNTIME_DIR", "HOME"):
                path = Path(given[variable])
                assert any(path.is_relative_to(one) for one in written_to), f"{where}: {variable}"
            assert "/tmp" in written_to, where
    (server,) = of(found, "StatefulSet")
    runtime = environment(found, server["spec"]["template"]["spec"]["containers"][0])["PROXY_RUNTIME_DIR"]
    assert len(f"{runtime}/{PREFIX}12345678/{LONGEST_NAME}") <= SOCKET_LIMIT


def flows(found: list[dict[str, Any]], labels: dict[str, str], way: str) -> set[tuple[str, str, Any]] | None:
    """Who may, as the policies that select such a pod add up; None: anybody, as none does."""
    result: set[tuple[str, str, Any]] | None = None
    for policy in of(found, "NetworkPolicy"):
        spec = policy["spec"]
        if way.capitalize() not in spec["policyTypes"] or not selects(spec["podSelector"], labels):
            continue
        result = result or set()
        for rule in spec.get(way) or ():
            peers, ports = rule["from" if way == "ingress" else "to"], rule["ports"]
            assert peers, "an empty list is everybody"
            assert ports, "an empty list is every port"
            for peer in peers:
                if "ipBlock" in peer:
                    who = peer["ipBlock"]["cidr"]
                else:
                    namespace, pods = (
                        peer[key]["matchLabels"] for key in ("namespaceSelector", "podSelector")
                    )
                    who = f"{namespace['kubernetes.io/metadata.name']}/{','.join(pods.values())}"
                result |= {(who, port["protocol"], port["port"]) for port in ports}
    return result


DNS = {("kube-system/kube-dns", "UDP", 53), ("kube-system/kube-dns", "TCP", 53)}
DATABASE, STORAGE = ("192.0.2.10/32", "TCP", 5432), ("198.51.100.0/25", "TCP", 443)
PROVIDER, BACKUPS = ("203.0.113.0/24", "TCP", 443), ("198.51.100.128/25", "TCP", 443)
SCRATCH = ("192.0.2.20/32", "TCP", 5432)
INGRESS, PROMETHEUS = ("ingress-nginx/ingress-nginx", "TCP", "http"), ("monitoring/prometheus", "TCP", "http")


def test_the_network_policies_admit_exactly_these_flows() -> None:
    expected = {
        "local": {"StatefulSet/mlflow": ({INGRESS}, DNS)},
        "production": {
            "StatefulSet/mlflow": ({INGRESS, PROMETHEUS}, {*DNS, DATABASE, STORAGE, PROVIDER}),
            "Job/mlflow-migrate": (set(), {*DNS, DATABASE, STORAGE}),
            "CronJob/mlflow-backup": (set(), {*DNS, DATABASE, STORAGE, BACKUPS}),
            # Not the service's database: whoever writes where backups are kept writes what is restored.
            "CronJob/mlflow-drill": (set(), {*DNS, STORAGE, BACKUPS, SCRATCH}),
        },
    }
    for name, wanted in expected.items():
        found = overlay(name)
        labels = {where: template["metadata"]["labels"] for where, template in templates(found)}
        assert {
            where: (flows(found, one, "ingress"), flows(found, one, "egress"))
            for where, one in labels.items()
        } == wanted
        ports = {
            port["name"]
            for _, template in templates(found)
            for container in template["spec"]["containers"]
            for port in container.get("ports", ())
        }
        assert ports == {"http"}


def test_the_drill_s_pod_holds_nothing_of_the_service_s_and_has_room() -> None:
    pods = {where: template["spec"] for where, template in templates(overlay("production"))}
    pod = pods["CronJob/mlflow-drill"]
    secrets = {one["secret"]["secretName"] for one in pod["volumes"] if "secret" in one}
    assert secrets == {"mlflow-drill-secret"}
    assert [where for where, one in pods.items() if one["serviceAccountName"] == "mlflow-drill"] == [
        "CronJob/mlflow-drill"
    ]
    (container,) = pod["containers"]
    # mlflow-config names the files of mlflow-secret, and who reads it asks for them.
    assert [one["configMapRef"]["name"] for one in container["envFrom"]] == ["mlflow-backup-config"]
    assert {"MLFLOW_BACKEND_STORE_URI_FILE", "PROXY_DATABASE_URL_FILE"}.isdisjoint(
        environment(overlay("production"), container)
    )
    # Its MLflow has an artifact there on its way, as the service's has.
    room = {
        where: quantity(one["emptyDir"]["sizeLimit"])
        for where in ("CronJob/mlflow-drill", "StatefulSet/mlflow")
        for one in pods[where]["volumes"]
        if one["name"] == "tmp"
    }
    assert room["CronJob/mlflow-drill"] >= room["StatefulSet/mlflow"]
