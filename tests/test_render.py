"""`scripts/render`: an environment's manifests, and all that it refuses to render."""

from __future__ import annotations

import base64
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from kube import K8S, Document, environment, needs_kustomize, of

pytestmark = needs_kustomize
KEY = "0123456789abcdef" * 2
IMAGE = f"registry.corp.test/mlflow-proxy@sha256:{KEY * 2}"
SETTINGS = {
    "PROXY_PUBLIC_URL": "https://mlflow.corp.test/ml",
    "PROXY_TRUSTED_PROXIES": "10.42.0.0/16",
    "MLFLOW_DEFAULT_ARTIFACT_ROOT": "s3://team-mlflow/artifacts",
    "PROXY_BACKUP_DESTINATION": "s3://team-backups/mlflow",
    "PROXY_BACKUP_RECIPIENT": "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p",
}
DATABASE = "postgresql://mlflow:the-databases-word@db.corp.test:5432/mlflow"
SECRETS = {
    "MLFLOW_BACKEND_STORE_URI": DATABASE,
    "PROXY_DATABASE_URL": DATABASE,
    "AWS_ACCESS_KEY_ID": "key-of-the-bucket",
    "AWS_SECRET_ACCESS_KEY": "secret-of-the-bucket",
    "MLFLOW_TRACKING_PASSWORD": "correct-horse-battery",
    "PROXY_COOKIE_SECRET": f"{KEY}1",
    "PROXY_AUDIT_KEY": f"{KEY}2",
    "PROXY_METRICS_TOKEN": f"{KEY}3",
    "MLFLOW_CRYPTO_KEK_PASSPHRASE": f"{KEY}4",
    "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": base64.urlsafe_b64encode(KEY.encode()).decode(),
    "PROXY_BACKUP_ACCESS_KEY_ID": "key-of-the-backups",
    "PROXY_BACKUP_SECRET_ACCESS_KEY": "secret-of-the-backups",
    "PROXY_DRILL_SERVER_URL": "postgresql://drill:the-drills-word@scratch.corp.test:5432/postgres",
}
ADDRESSES = {"192.0.2.": "10.1.2.", "198.51.100.": "10.1.3.", "203.0.113.": "10.1.4."}


class Team:
    """A team's copy of k8s/, filled in, with an environment's two files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.k8s = folder / "k8s"
        shutil.copytree(K8S, self.k8s)
        for file in self.k8s.rglob("*networkpolicy.yaml"):
            text = file.read_text()
            for ours, theirs in ADDRESSES.items():
                text = text.replace(ours, theirs)
            file.write_text(text)
        self.settings, self.secrets = dict(SETTINGS), dict(SECRETS)
        # The drill's key is a file that no setting holds, so it is in no .env.
        self.options: tuple[str, ...] = ("--existing-secret", "mlflow-drill-secret", "--image", IMAGE)

    def change(self, file: str, change: Callable[[str], str]) -> None:
        path = self.k8s / file
        before = path.read_text()
        path.write_text(change(before))
        assert path.read_text() != before

    def run(self, name: str = "production", *options: str) -> subprocess.CompletedProcess[str]:
        (self.folder / "settings.yaml").write_text(yaml.safe_dump({"mlflow": self.settings}))
        (self.folder / "secrets.env").write_text("".join(f"{a}='{b}'\n" for a, b in self.secrets.items()))
        files = ("--settings", f"{self.folder}/settings.yaml", "--env-file", f"{self.folder}/secrets.env")
        command = [sys.executable, str(K8S / "render"), name, "--k8s", str(self.k8s), *files]
        return subprocess.run(
            [*command, *self.options, *options], capture_output=True, text=True, timeout=120
        )

    def rendered(self, name: str = "production", *options: str) -> list[Document]:
        done = self.run(name, *options)
        assert done.returncode == 0, done.stderr
        return list(yaml.safe_load_all(done.stdout))

    def refused(self, name: str = "production", *options: str) -> list[str]:
        """The lines, without `render: `."""
        done = self.run(name, *options)
        assert done.returncode == 1, done.stdout
        assert done.stdout == ""
        assert "Traceback" not in done.stderr
        for secret in SECRETS.values():
            assert secret not in done.stderr
        assert "the-databases-word" not in done.stderr
        return [line.removeprefix("render: ") for line in done.stderr.splitlines()]


@pytest.fixture
def team(tmp_path: Path) -> Team:
    return Team(tmp_path)


def test_an_environment_is_rendered_from_its_settings_and_secrets(team: Team) -> None:
    found = team.rendered()
    assert of(found, "Secret") == [], "which a repository of manifests must not have"
    (config,) = of(found, "ConfigMap", "mlflow-config")
    assert SETTINGS["MLFLOW_DEFAULT_ARTIFACT_ROOT"] == config["data"]["MLFLOW_DEFAULT_ARTIFACT_ROOT"]
    (backups,) = of(found, "ConfigMap", "mlflow-backup-config")
    assert backups["data"]["PROXY_BACKUP_DESTINATION"] == SETTINGS["PROXY_BACKUP_DESTINATION"]
    assert "PROXY_DRILL_SERVER_URL_FILE" not in backups["data"], "the backup's pod does not have it"
    (ingress,) = of(found, "Ingress")
    assert ingress["spec"]["rules"][0]["host"] == "mlflow.corp.test"
    assert ingress["spec"]["tls"][0]["hosts"] == ["mlflow.corp.test"]
    (server,) = of(found, "StatefulSet")
    pod = server["spec"]["template"]["spec"]
    assert {one["image"] for one in (*pod["initContainers"], *pod["containers"])} == {IMAGE}
    mark = server["spec"]["template"]["metadata"]["annotations"]["mlflow-proxy/config"]
    team.settings["PROXY_HOLD_SECONDS"] = "7"
    (other,) = of(team.rendered(), "StatefulSet")
    assert other["spec"]["template"]["metadata"]["annotations"]["mlflow-proxy/config"] != mark
    for secret in SECRETS.values():
        assert secret not in yaml.safe_dump_all(found)


def test_its_secrets_are_rendered_where_they_are_asked_for(team: Team) -> None:
    # One that the overlay does not name: the file is named for it.
    team.settings |= {
        "MLFLOW_UI_OAUTH_ISSUER_URL": "https://login.corp.test",
        "MLFLOW_UI_OAUTH_CLIENT_ID": "x",
    }
    team.settings["PROXY_ALLOWED_GROUPS"] = "ml-team"
    team.secrets["MLFLOW_UI_OAUTH_CLIENT_SECRET"] = "secret-of-the-client"
    found = team.rendered("production", "--with-secrets")
    (secret,) = of(found, "Secret", "mlflow-secret")
    assert secret["metadata"]["namespace"] == "mlflow"
    assert secret["stringData"] == {
        name: value
        for name, value in team.secrets.items()
        if not name.startswith(("PROXY_BACKUP_", "PROXY_DRILL_"))
    }
    (backups,) = of(found, "Secret", "mlflow-backup-secret")
    assert set(backups["stringData"]) == {"PROXY_BACKUP_ACCESS_KEY_ID", "PROXY_BACKUP_SECRET_ACCESS_KEY"}
    (server,) = of(found, "StatefulSet")
    given = environment(found, server["spec"]["template"]["spec"]["containers"][0])
    assert given["MLFLOW_UI_OAUTH_CLIENT_SECRET_FILE"] == "/run/secrets/mlflow/MLFLOW_UI_OAUTH_CLIENT_SECRET"
    kinds = [one["kind"] for one in found]
    assert kinds.index("Namespace") < kinds.index("Secret") < kinds.index("StatefulSet")


def test_what_is_no_other_places_business_is_left_out(team: Team) -> None:
    team.settings |= {"MLFLOW_HOST": "127.0.0.1", "MLFLOW_PORT": "8443", "PROXY_TLS": "on"}
    team.settings |= {"PROXY_DATA_DIR": "/srv/mlflow", "PROXY_RUNTIME_DIR": "/srv/run"}
    (config,) = of(team.rendered(), "ConfigMap", "mlflow-config")
    there = {
        name: config["data"].get(name)
        for name in ("MLFLOW_HOST", "MLFLOW_PORT", "PROXY_TLS", "PROXY_DATA_DIR")
    }
    assert there == {
        "MLFLOW_HOST": "0.0.0.0",
        "MLFLOW_PORT": "8080",
        "PROXY_TLS": "off",
        "PROXY_DATA_DIR": None,
    }


def test_a_missing_secret_is_refused(team: Team) -> None:
    del team.secrets["PROXY_COOKIE_SECRET"]
    team.secrets["PROXY_METRICS_TOKEN"] = ""
    team.options = ()
    lines = team.refused()
    wanted = [re.match(r"Secret/(\S+) has no (\S+), which", line) for line in lines]
    assert {match.groups() for match in wanted if match} == {
        ("mlflow-secret", "PROXY_COOKIE_SECRET"),
        ("mlflow-secret", "PROXY_METRICS_TOKEN"),
        ("mlflow-drill-secret", "identity"),
    }


@pytest.mark.parametrize("store", ["external-secrets", "vault"])
def test_what_a_store_makes_need_not_be_in_the_env_file(team: Team, store: str) -> None:
    others = {
        name: value for name, value in SECRETS.items() if name.startswith(("PROXY_BACKUP", "PROXY_DRILL"))
    }
    team.secrets = others
    wanted = f"  - ../../components/{store}"
    team.change(
        "overlays/production/kustomization.yaml", lambda text: text.replace(f"  # -{wanted[3:]}", wanted)
    )
    for file in (team.k8s / "components" / "external-secrets").glob("*.yaml"):
        file.write_text(file.read_text().replace("CHANGE-ME", "eu-north-1"))
    assert of(team.rendered(), "ExternalSecret" if store == "external-secrets" else "VaultStaticSecret")


def test_a_key_that_the_store_does_not_have_is_refused(team: Team) -> None:
    team.secrets = {name: value for name, value in SECRETS.items() if name.startswith(("PROXY_B", "PROXY_D"))}
    del team.secrets["PROXY_DATABASE_URL"]
    file = "components/external-secrets/mlflow-externalsecret.yaml"
    team.change(file, lambda text: text.replace("secretKey: PROXY_AUDIT_KEY", "secretKey: PROXY_AUDIT_KEYS"))
    team.change(
        "components/external-secrets/mlflow-secretstore.yaml", lambda text: text.replace("CHANGE-ME", "x")
    )
    team.change(
        "overlays/production/kustomization.yaml",
        lambda text: text.replace("  # - ../../components/external", "  - ../../components/external"),
    )
    (line,) = team.refused()
    assert line.startswith("Secret/mlflow-secret has no PROXY_AUDIT_KEY, which")


def test_placeholders_are_refused_wherever_they_are_left(team: Team) -> None:
    team.secrets["PROXY_AUDIT_KEY"] = "CHANGE-ME"
    team.settings["MLFLOW_S3_ENDPOINT_URL"] = "https://s3.example.com"
    del team.settings["PROXY_TRUSTED_PROXIES"]
    shutil.copy(
        K8S / "components" / "backup" / "mlflow-backup-networkpolicy.yaml", team.k8s / "components" / "backup"
    )
    left = [line.partition(": ") for line in team.refused() if line.endswith("is still a placeholder")]
    assert [(where, what.removesuffix("is still a placeholder").strip()) for where, _, what in left] == [
        ("PROXY_AUDIT_KEY (secrets.env)", ""),
        ("ConfigMap/mlflow-config, data.PROXY_TRUSTED_PROXIES", "'192.0.2.0/24'"),
        ("ConfigMap/mlflow-config, data.MLFLOW_S3_ENDPOINT_URL", "'https://s3.example.com'"),
        ("NetworkPolicy/mlflow-backup, spec.egress.0.to.0.ipBlock.cidr", "'198.51.100.128/25'"),
        ("NetworkPolicy/mlflow-drill, spec.egress.0.to.0.ipBlock.cidr", "'192.0.2.20/32'"),
    ]


def test_nothing_that_is_one_pods_own_is_rendered_for_several(team: Team) -> None:
    for name in ("MLFLOW_BACKEND_STORE_URI", "PROXY_DATABASE_URL"):
        team.secrets[name] = f"sqlite:////data/{name}.db"
    team.settings["MLFLOW_DEFAULT_ARTIFACT_ROOT"] = "/data/artifacts"
    team.settings["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "true"
    team.settings["PROXY_MIGRATE"] = "auto"
    lines = team.refused()
    assert [line.partition(":")[0] for line in lines] == [
        "MLFLOW_BACKEND_STORE_URI",
        "PROXY_DATABASE_URL",
        "MLFLOW_DEFAULT_ARTIFACT_ROOT",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION",
        "PROXY_MIGRATE",
    ]
    assert all("there are up to 6 replicas" in line for line in lines)


def test_a_second_replica_of_the_local_overlay_is_refused(team: Team) -> None:
    team.settings, team.secrets = {}, {"MLFLOW_TRACKING_PASSWORD": "correct-horse-battery"}
    assert of(team.rendered("local"), "StatefulSet")
    file = "overlays/local/mlflow-statefulset.yaml"
    team.change(file, lambda text: text.replace("replicas: 1", "replicas: 2"))
    lines = team.refused("local")
    assert any(line.startswith("MLFLOW_BACKEND_STORE_URI: is SQLite") for line in lines)
    assert any(line.startswith("PROXY_COOKIE_SECRET: is not set, and there are up to 2") for line in lines)


def test_a_mistake_is_told_as_at_a_start(team: Team) -> None:
    team.settings["PROXY_HOLD_SECOND"] = "7"
    team.settings["PROXY_GRACE_SECONDS"] = "soon"
    team.secrets["PROXY_COOKIE_SECRET"] = "short"
    lines = [line for line in team.refused() if line.startswith("StatefulSet/mlflow, mlflow:")]
    text = "\n".join(lines)
    assert (
        "PROXY_HOLD_SECOND (environment): there is no such setting; did you mean PROXY_HOLD_SECONDS?" in text
    )
    assert "PROXY_GRACE_SECONDS (environment)" in text
    assert "/run/secrets/mlflow/PROXY_COOKIE_SECRET" in text
    assert "/tmp/" not in text.replace("/tmp/data", "")


def test_a_password_that_everybody_knows_is_refused(team: Team) -> None:
    team.secrets["MLFLOW_TRACKING_PASSWORD"] = "password123"
    lines = team.refused()
    assert any("MLFLOW_TRACKING_PASSWORD" in line for line in lines)
    assert "password123" not in "".join(lines)


def test_a_secret_in_the_settings_file_is_refused(team: Team) -> None:
    team.settings["PROXY_METRICS_TOKEN"] = team.secrets.pop("PROXY_METRICS_TOKEN")
    team.settings["MLFLOW_SOMEBODYS_API_KEY"] = "the-key"
    key, token = team.refused()
    assert token == "PROXY_METRICS_TOKEN (settings.yaml): is a secret: it belongs into secrets.env"
    assert key.startswith("MLFLOW_SOMEBODYS_API_KEY (settings.yaml): looks like a secret and can be no file")


def test_what_is_refused_leaves_the_file_as_it_was(team: Team, tmp_path: Path) -> None:
    output = tmp_path / "mlflow.yaml"
    team.run("production", "--output", str(output))
    before = output.read_text()
    assert "kind: StatefulSet" in before
    del team.secrets["PROXY_AUDIT_KEY"]
    assert team.refused("production", "--output", str(output))
    assert output.read_text() == before


def test_an_image_has_a_version(team: Team) -> None:
    for image in ("registry.corp.test:5000/mlflow-proxy", "registry.corp.test/mlflow-proxy:latest"):
        team.options = ("--existing-secret", "mlflow-drill-secret", "--image", image)
        (line,) = team.refused()
        assert line.startswith(f"--image {image}: name a version")


def test_an_environment_without_an_overlay_or_files_is_refused(team: Team, tmp_path: Path) -> None:
    (line,) = team.refused("staging")
    assert "there is: local, production" in line
    nothing = ("--settings", str(tmp_path / "a"), "--env-file", str(tmp_path / "b"))
    (line,) = team.refused("production", *nothing)
    assert line.startswith("there is neither")
