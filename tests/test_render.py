"""`scripts/render`: an environment's manifests, and all that it refuses to render.

For kustomize stands a program that puts out what kustomize made of the overlays before (tests/kube.py), as
not everybody has the real one; the last tests show that it is the same with that."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from kube import K8S, OVERLAYS, Document, environment, is_made, kept, kustomized, needs_kustomize, of, written

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
KEYS_OF_THE_DRILL = (
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
    *("PROXY_BACKUP_ACCESS_KEY_ID", "PROXY_BACKUP_SECRET_ACCESS_KEY"),
)
ADDRESSES = {"192.0.2.": "10.1.2.", "198.51.100.": "10.1.3.", "203.0.113.": "10.1.4."}


KUSTOMIZE = """#!/bin/sh
# As `kustomize build .../overlays/NAME`.
exec cat "${0%/*}/${2##*/}.yaml"
"""


def filled_in(text: str) -> str:
    for ours, theirs in ADDRESSES.items():
        text = text.replace(ours, theirs)
    return text


class Team:
    """A team's copy of k8s/, filled in, with an environment's two files."""

    def __init__(self, folder: Path, *, real: bool = False) -> None:
        self.folder = folder
        self.k8s = folder / "k8s"
        shutil.copytree(K8S, self.k8s)
        for file in self.k8s.rglob("*networkpolicy.yaml"):
            file.write_text(filled_in(file.read_text()))
        self.bin = folder / "bin"
        self.path = os.environ["PATH"]
        if not real:
            self.bin.mkdir()
            for name in OVERLAYS:
                policies: list[Document] = []
                others: list[Document] = []
                for one in yaml.safe_load_all(kept(name)):
                    (policies if one["kind"] == "NetworkPolicy" else others).append(one)
                self.put(name, [*others, *yaml.safe_load_all(filled_in(yaml.safe_dump_all(policies)))])
            (self.bin / "kustomize").write_text(KUSTOMIZE)
            (self.bin / "kustomize").chmod(0o755)
            self.path = f"{self.bin}:{self.path}"
        self.settings, self.secrets = dict(SETTINGS), dict(SECRETS)
        # The drill's key is a file that no setting holds, so it is in no .env.
        self.options: tuple[str, ...] = ("--existing-secret", "mlflow-drill-secret", "--image", IMAGE)

    def put(self, name: str, found: list[Document]) -> None:
        """Have that be what kustomize makes of the overlay."""
        (self.bin / f"{name}.yaml").write_text(yaml.safe_dump_all(found))

    def of(self, name: str) -> list[Document]:
        return list(yaml.safe_load_all((self.bin / f"{name}.yaml").read_text()))

    def add(self, store: str) -> None:
        """A component that makes the Secret, as if it stood in the overlay."""
        found = self.of("production")
        for file in sorted((K8S / "components" / store).glob("mlflow-*.yaml")):
            for one in written(str(file.relative_to(K8S))):
                one["metadata"]["namespace"] = "mlflow"
                found.append(one)
        self.put("production", found)

    def run(self, name: str = "production", *options: str) -> subprocess.CompletedProcess[str]:
        (self.folder / "settings.yaml").write_text(yaml.safe_dump({"mlflow": self.settings}))
        (self.folder / "secrets.env").write_text("".join(f"{a}='{b}'\n" for a, b in self.secrets.items()))
        files = ("--settings", f"{self.folder}/settings.yaml", "--env-file", f"{self.folder}/secrets.env")
        command = [sys.executable, str(K8S / "render"), name, "--k8s", str(self.k8s), *files]
        return subprocess.run(
            [*command, *self.options, *options],
            capture_output=True,
            text=True,
            timeout=120,
            env={**os.environ, "PATH": self.path},
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


def test_the_drill_is_told_how_the_storage_is_reached_and_nothing_else_of_the_service(team: Team) -> None:
    team.settings |= {"MLFLOW_S3_ENDPOINT_URL": "https://s3.corp.test", "AWS_DEFAULT_REGION": "there"}
    team.settings["PROXY_BACKUP_S3_ENDPOINT_URL"] = "https://s3.elsewhere.test"
    found = team.rendered("production", "--with-secrets")
    (config,) = of(found, "ConfigMap", "mlflow-backup-config")
    assert config["data"]["MLFLOW_S3_ENDPOINT_URL"] == "https://s3.corp.test"
    assert config["data"]["AWS_DEFAULT_REGION"] == "there"
    assert config["data"]["PROXY_BACKUP_S3_ENDPOINT_URL"] == "https://s3.elsewhere.test"
    assert {name for name in config["data"] if not name.startswith("PROXY_BACKUP_")} == {
        "MLFLOW_S3_ENDPOINT_URL",
        "AWS_DEFAULT_REGION",
    }


def test_a_key_that_the_drill_alone_has_a_file_for_is_put_where_the_service_reads_it(team: Team) -> None:
    found = team.of("production")
    for config in of(found, "ConfigMap", "mlflow-config"):
        del config["data"]["AWS_ACCESS_KEY_ID_FILE"]
    team.put("production", found)
    (config,) = of(team.rendered(), "ConfigMap", "mlflow-config")
    assert config["data"]["AWS_ACCESS_KEY_ID_FILE"] == "/run/secrets/mlflow/AWS_ACCESS_KEY_ID"


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
    assert of(found, "Secret", "mlflow-drill-secret") == [], "it is there, with more in it than is known here"
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
        *(("mlflow-drill-secret", key) for key in ("identity", *KEYS_OF_THE_DRILL)),
    }


def without_those_of_a_store() -> dict[str, str]:
    return {
        name: value for name, value in SECRETS.items() if name.startswith(("PROXY_BACKUP", "PROXY_DRILL"))
    }


@pytest.mark.parametrize("store", ["external-secrets", "vault"])
def test_what_a_store_makes_need_not_be_in_the_env_file(team: Team, store: str) -> None:
    team.secrets = without_those_of_a_store()
    team.add(store)
    team.put("production", yaml.safe_load(json.dumps(team.of("production")).replace("CHANGE-ME", "x")))
    assert of(team.rendered(), "ExternalSecret" if store == "external-secrets" else "VaultStaticSecret")


def test_a_key_that_the_store_does_not_have_is_refused(team: Team) -> None:
    team.secrets = without_those_of_a_store()
    team.add("external-secrets")
    text = json.dumps(team.of("production")).replace("CHANGE-ME", "x")
    team.put(
        "production", json.loads(text.replace('"secretKey": "PROXY_AUDIT_KEY"', '"secretKey": "PROXY_AUDIT"'))
    )
    (line,) = team.refused()
    assert line.startswith("Secret/mlflow-secret has no PROXY_AUDIT_KEY, which")


def test_placeholders_are_refused_wherever_they_are_left(team: Team) -> None:
    team.secrets["PROXY_AUDIT_KEY"] = "CHANGE-ME"
    team.settings["MLFLOW_S3_ENDPOINT_URL"] = "https://s3.example.com"
    del team.settings["PROXY_TRUSTED_PROXIES"]
    del team.settings["PROXY_PUBLIC_URL"]  # of which the Ingress has its host
    as_it_came = {
        one["metadata"]["name"]: one["spec"]
        for one in written("components/backup/mlflow-backup-networkpolicy.yaml")
    }
    found = team.of("production")
    for policy in of(found, "NetworkPolicy"):
        policy["spec"] = as_it_came.get(policy["metadata"]["name"], policy["spec"])
    team.put("production", found)
    left = [line.partition(": ") for line in team.refused() if line.endswith("is still a placeholder")]
    assert [(where, what.removesuffix("is still a placeholder").strip()) for where, _, what in left] == [
        ("PROXY_AUDIT_KEY (secrets.env)", ""),
        ("ConfigMap/mlflow-backup-config, data.MLFLOW_S3_ENDPOINT_URL", "'https://s3.example.com'"),
        ("ConfigMap/mlflow-config, data.PROXY_PUBLIC_URL", "'https://mlflow.example.com'"),
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
    found = team.of("local")
    of(found, "StatefulSet")[0]["spec"]["replicas"] = 2
    team.put("local", found)
    lines = team.refused("local")
    assert any(line.startswith("MLFLOW_BACKEND_STORE_URI: is SQLite") for line in lines)
    assert any(line.startswith("PROXY_COOKIE_SECRET: is not set, and there are up to 2") for line in lines)


def test_a_mistake_is_told_as_at_a_start(team: Team) -> None:
    team.settings["PROXY_HOLD_SECOND"] = "7"
    team.settings["PROXY_GRACE_SECONDS"] = "soon"
    team.secrets["PROXY_COOKIE_SECRET"] = "short"
    lines = team.refused()
    assert len(lines) == 3, "each once, though five containers have them"
    assert all(line.startswith("StatefulSet/mlflow, mlflow: ") for line in lines)
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


def test_the_file_is_for_nobody_else_whatever_lies_beside_it(team: Team, tmp_path: Path) -> None:
    folder = tmp_path / "shared"
    folder.mkdir()
    output, precious = folder / "mlflow.yaml", tmp_path / "precious"
    precious.write_text("kept")
    left = folder / "mlflow.yaml.new"
    left.touch(mode=0o666)
    left.chmod(0o666)
    assert team.run("production", "--with-secrets", "--output", str(output)).returncode == 0
    assert stat.S_IMODE(output.stat().st_mode) == 0o600
    for trap in (left, output):
        trap.unlink(missing_ok=True)
        trap.symlink_to(precious)
        assert team.run("production", "--with-secrets", "--output", str(output)).returncode == 0
        assert precious.read_text() == "kept"
        assert not output.is_symlink()
        assert "the-databases-word" in output.read_text()
        assert stat.S_IMODE(output.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("image", "words"),
    [
        ("registry.corp.test:5000/mlflow-proxy", "name a version"),
        ("registry.corp.test/mlflow-proxy:latest", "name a version"),
        # What a CI gives whose push printed nothing.
        ("", "is no image"),
        ("registry.corp.test/mlflow-proxy@sha256:0123", "is no image"),
    ],
)
def test_an_image_has_a_version(team: Team, image: str, words: str) -> None:
    team.options = ("--existing-secret", "mlflow-drill-secret", "--image", image)
    (line,) = team.refused()
    assert line.startswith("--image ")
    assert words in line


def test_an_environment_without_an_overlay_or_files_is_refused(team: Team, tmp_path: Path) -> None:
    for name in ("staging", "../base"):
        (line,) = team.refused(name)
        assert "there is: local, production" in line
    for option in ("--settings", "--env-file"):
        (line,) = team.refused("production", option, str(tmp_path / "nothing"))
        assert line == f"{option} {tmp_path}/nothing: there is no such file"
    shutil.copytree(team.k8s / "overlays" / "local", team.k8s / "overlays" / "nobodys")
    command = [sys.executable, str(K8S / "render"), "nobodys", "--k8s", str(team.k8s)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert re.fullmatch(
        r"render: there is neither \S+/config/settings.nobodys.yaml nor \S+/config/nobodys.env: .*\n",
        done.stderr,
    )


def test_of_a_damaged_file_nothing_else_is_said(team: Team, tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    bad.write_text("mlflow:\n  PROXY_PUBLIC_URL: [a, b\n")
    (line,) = team.refused("production", "--settings", str(bad))
    assert line.startswith("bad: line 3 is not YAML")
    bad.write_text("no name and no value\n")
    (line,) = team.refused("production", "--env-file", str(bad))
    assert line.startswith("bad: line 1 is not NAME=value")


def test_a_folder_that_is_not_there_is_told_in_a_line(team: Team, tmp_path: Path) -> None:
    (line,) = team.refused("production", "--output", str(tmp_path / "nothing" / "mlflow.yaml"))
    assert line == f"--output {tmp_path}/nothing/mlflow.yaml: can't be written: No such file or directory"


def test_a_secret_that_stands_in_the_overlay_is_read(team: Team) -> None:
    """As kustomize's secretGenerator makes it."""
    coded = {name: base64.b64encode(value.encode()).decode() for name, value in team.secrets.items()}
    team.secrets = without_those_of_a_store()
    found = team.of("production")
    secret: Document = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "mlflow-secret"},
        "data": coded,
    }
    team.put("production", [*found, secret])
    assert of(team.rendered(), "Secret") == []
    coded["PROXY_COOKIE_SECRET"] = base64.b64encode(b"short").decode()
    team.put("production", [*found, secret])
    assert "/run/secrets/mlflow/PROXY_COOKIE_SECRET" in "".join(team.refused())
    coded["PROXY_COOKIE_SECRET"] = coded["PROXY_AUDIT_KEY"][:8] + "*" + coded["PROXY_AUDIT_KEY"][8:]
    team.put("production", [*found, secret])
    (line,) = team.refused()
    assert line.startswith("Secret/mlflow-secret, data.PROXY_COOKIE_SECRET: is no base64")


def test_what_kustomize_can_not_put_together_is_told_in_a_line(team: Team) -> None:
    # As kubectl 1.32 says it.
    said = """E1124 02:40:24.328890 15735 run.go:72] "command failed" err=<
    \ttrouble configuring builtin PatchTransformer
     >"""
    script = "#!/bin/sh\n[ $1 != version ] || exec echo {}\ncat >&2 <<'END'\n{}\nEND\nexit 1\n"
    (team.bin / "kustomize").write_text(script.format("v4.5.7", said))
    (line,) = team.refused()
    assert line.startswith(f"{team.bin}/kustomize is too old for {team.k8s}/overlays/production: ")
    (team.bin / "kustomize").write_text(script.format("v5.5.0", said))
    (line,) = team.refused()
    assert line == f"{team.k8s}/overlays/production: trouble configuring builtin PatchTransformer"
    broken = team.k8s / "overlays" / "production" / "mlflow-config.yaml"
    broken.write_text("data: [x\n")
    (line,) = team.refused()
    assert line.startswith(f"{broken}: line 2 is not YAML")


def test_without_a_kustomize_it_says_what_is_missing(team: Team) -> None:
    (team.bin / "kustomize").unlink()
    team.path = str(team.bin)
    (line,) = team.refused()
    assert line.startswith("neither kustomize nor kubectl is installed")


@needs_kustomize
def test_with_kustomize_itself_it_is_the_same(tmp_path: Path) -> None:
    folders = tmp_path / "stand-in", tmp_path / "real"
    for folder in folders:
        folder.mkdir()
    ours, theirs = (Team(folder, real=folder.name == "real").rendered() for folder in folders)
    assert ordered(ours) == ordered([one for one in theirs if not is_made(one)])
    assert len(ours) < len(theirs)


@needs_kustomize
@pytest.mark.parametrize("store", ["external-secrets", "vault"])
def test_a_store_that_stands_in_the_overlay_is_added_by_kustomize(team: Team, store: str) -> None:
    file = team.k8s / "overlays" / "production" / "kustomization.yaml"
    before = file.read_text()
    file.write_text(before.replace(f"  # - ../../components/{store}", f"  - ../../components/{store}"))
    assert file.read_text() != before
    team.add(store)
    made = [yaml.safe_load(one) for one in kustomized(file.parent)]
    assert ordered(team.of("production")) == ordered([one for one in made if not is_made(one)])


def ordered(found: list[Document]) -> list[str]:
    return sorted(yaml.safe_dump(one) for one in found)
