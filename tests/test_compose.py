"""The Compose file: valid, as confined as it promises, and in its programs' own words."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import re
import shutil
import signal
import socket
import ssl
import stat
import subprocess
import threading
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import compose
import jsonschema
import pytest
import yaml
from compose import DOCKER, ROOT
from programs import needs, program

from proxy import __version__
from proxy.cli import main
from proxy.servers import KEEP_ALIVE_SECONDS
from proxy.settings import Settings, load
from proxy.settings.variables import FILE_NAMES, KNOWN

STACK = compose.stack()
SERVICES: dict[str, dict[str, Any]] = STACK["services"]
OF_OURS = [name for name, service in SERVICES.items() if "../mlflow.env" in service.get("env_file", [])]
DEFAULTS = Settings()
# What a job of the stack does ends, so there is nothing to ask it.
JOBS = {"minio-bucket"}
# What these do, their metrics tell of.
AGAIN_AND_AGAIN = {"backup", "drill"}


def seconds(text: str) -> float:
    number, unit = re.fullmatch(r"([0-9.]+)(ms|s|m|h)", text).groups()  # type: ignore[union-attr]
    return float(number) * {"ms": 0.001, "s": 1, "m": 60, "h": 3600}[unit]


def size(text: str) -> int:
    number, unit = re.fullmatch(r"([0-9]+)([kmg])b?", text.lower()).groups()  # type: ignore[union-attr]
    return int(number) * {"k": 2**10, "m": 2**20, "g": 2**30}[unit]


def networks(service: dict[str, Any]) -> set[str]:
    return set(service.get("networks", {"default": None}))


# ---- the file itself ----


def test_it_is_valid_against_the_specification_s_schema() -> None:
    # Of the Compose specification (Apache-2.0), as check-jsonschema brings it.
    schemas = resources.files("check_jsonschema") / "builtin_schemas" / "vendor"
    schema = json.loads((schemas / "compose-spec.json").read_text())
    jsonschema.validators.validator_for(schema)(schema).validate(compose.as_written())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"services": {"a": {"imag": "b"}}}, schema)


def test_every_variable_is_in_the_example_with_the_same_default() -> None:
    found = {}
    for name, default in compose.VARIABLE.findall(compose.FILE.read_text()):
        assert found.setdefault(name, default) == default, f"{name} has two defaults"
    lines = (DOCKER / "compose.env.example").read_text().splitlines()
    shown = dict(line[1:].split("=", 1) for line in lines if re.match("#[A-Z_]+=", line))
    del found["REGISTRY"]  # stands in the comment on how to pin as well
    assert shown.pop("REGISTRY") == ""
    assert found == shown


def test_every_file_that_it_names_is_there_or_is_made() -> None:
    made = {"../mlflow.env", "../mlflow-postgres.env", "../mlflow-minio.env", "../mlflow-oidc.env"}
    for name, service in SERVICES.items():
        for path in service.get("env_file", []):
            assert path in made, name
            assert (DOCKER / f"{path}.example").is_file(), path
        for mount in service.get("volumes", []):
            source, target, *mode = mount.split(":")
            if source.startswith("."):
                assert (DOCKER / source).exists(), f"{name}: {source}"
                assert mode == ["ro"], f"{name}: {source}"
            else:
                assert source in STACK["volumes"], f"{name}: {source}"
            assert target.startswith("/"), f"{name}: {source}"
    used = {mount.split(":")[0] for one in SERVICES.values() for mount in one.get("volumes", [])}
    assert set(STACK["volumes"]) <= used
    secrets = {secret for one in SERVICES.values() for secret in one.get("secrets", [])}
    assert secrets == set(STACK["secrets"])


def test_what_scripts_and_the_realm_read_is_set() -> None:
    def example(name: str | None) -> set[str]:
        return set() if name is None else set(compose.env_file(ROOT / name))

    for service, path, given in (
        ("postgres", "postgres/10-mlflow.sh", "mlflow-postgres.env.example"),
        ("drill-database", "postgres/10-drill.sh", None),
        ("minio-bucket", "minio/make-bucket.sh", "mlflow-minio.env.example"),
        ("keycloak", "keycloak/realm.json", "mlflow-oidc.env.example"),
    ):
        text = (DOCKER / path).read_text()
        read = set(re.findall(r"\$\{?([A-Z][A-Z0-9_]+)", text)) | set(re.findall(r"getenv \w+ (\w+)", text))
        # The image's own default is said where it is read.
        known = example(given) | set(compose.environment_of(service))
        assert read - {"POSTGRES_USER", "DRILL_PASSWORD"} <= known, path
    assert example("mlflow-minio.env.example") == set(
        re.findall(r"\$\{?([A-Z]+_[A-Z_]+)", (DOCKER / "minio/make-bucket.sh").read_text())
    )


def test_images_are_pinned_by_version_and_come_from_no_registry_of_their_own() -> None:
    for name, service in compose.as_written()["services"].items():
        image = service["image"]
        assert image.startswith("${REGISTRY:-}"), name
        image = compose.filled_in(image)
        repository, _, tag = image.partition(":")
        assert re.search("[0-9]", tag), f"{name}: {image}"
        assert "latest" not in tag, f"{name}: {image}"
        assert "." not in repository, f"{name}: {image}"
    assert SERVICES["mlflow"]["image"] == f"mlflow-proxy:{__version__}"


# ---- what it promises ----


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_confined_limited_and_started_again(name: str) -> None:
    service = SERVICES[name]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["read_only"] is (name != "keycloak")
    assert not {"privileged", "network_mode", "pid", "ipc", "cap_add", "devices"} & set(service)
    assert "docker.sock" not in str(service)
    assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory", "pids"}
    assert service["logging"]["options"]["max-size"]
    assert service["restart"] == ("no" if name in JOBS else "unless-stopped")
    if name not in JOBS | AGAIN_AND_AGAIN:
        assert service["healthcheck"]["test"][0] == "CMD"


def test_traefik_alone_is_reached_from_outside() -> None:
    for name, service in SERVICES.items():
        assert ("ports" in service) == (name == "traefik")
        assert ("public" in networks(service)) == (name == "traefik")
        assert "default" not in networks(service)
    inside = {name for name, network in STACK["networks"].items() if (network or {}).get("internal")}
    assert set(STACK["networks"]) - inside == {"public", "outward"}
    ports = [port.rsplit(":", 1) for port in SERVICES["traefik"]["ports"]]
    assert ports == [["8443", "8443"], ["8080", "8080"]]


def test_database_and_storage_are_reached_by_the_proxy_alone() -> None:
    on = {
        network: {name for name, service in SERVICES.items() if network in networks(service)}
        for network in STACK["networks"]
    }
    assert on["database"] == {"postgres", "mlflow", "backup"}
    # The drill reads what the backup has only listed.
    assert on["storage"] == {"minio", "minio-bucket", "mlflow", "backup", "drill"}
    assert on["drill"] == {"drill", "drill-database"}
    assert on["edge"] == {"traefik", "mlflow", "keycloak"}
    assert on["public"] == {"traefik"}
    assert on["monitoring"] == {"traefik", "mlflow", "prometheus", "alertmanager", "grafana"}
    assert networks(SERVICES["postgres"]) == {"database"}
    assert networks(SERVICES["minio"]) == {"storage"}


def test_the_proxy_trusts_traefik_s_address_which_nobody_else_can_be_given() -> None:
    (config,) = STACK["networks"]["edge"]["ipam"]["config"]
    address = ipaddress.ip_address(SERVICES["traefik"]["networks"]["edge"]["ipv4_address"])
    subnet, others = (ipaddress.ip_network(config[key]) for key in ("subnet", "ip_range"))
    assert address in subnet
    assert others.subnet_of(subnet)
    assert address not in others
    assert compose.environment_of("mlflow")["PROXY_TRUSTED_PROXIES"] == str(address)


def test_the_stack_itself_says_how_the_proxy_is_reached() -> None:
    for name in OF_OURS:
        given = compose.environment_of(name)
        assert {
            "MLFLOW_HOST": "0.0.0.0",
            "MLFLOW_PORT": "8080",
            "PROXY_TLS": "off",
            "PROXY_PUBLIC_URL": "https://localhost:8443",
        }.items() <= given.items()
        for variable in given:
            assert variable in KNOWN or variable in FILE_NAMES, variable


def test_starting_waits_for_what_is_needed() -> None:
    needed = SERVICES["mlflow"]["depends_on"]
    assert needed["postgres"]["condition"] == "service_healthy"
    assert needed["minio-bucket"]["condition"] == "service_completed_successfully"
    assert SERVICES["minio-bucket"]["depends_on"]["minio"]["condition"] == "service_healthy"
    for name, service in SERVICES.items():
        for other, how in service.get("depends_on", {}).items():
            if how["condition"] == "service_healthy":
                assert "healthcheck" in SERVICES[other], f"{name} waits for {other}"
            # What is started always does not wait for what is started on demand.
            assert "profiles" in service or "profiles" not in SERVICES[other], f"{name}: {other}"


def test_ending_leaves_time_for_what_is_under_way() -> None:
    assert seconds(SERVICES["mlflow"]["stop_grace_period"]) > DEFAULTS.grace_seconds + 15
    assert seconds(SERVICES["traefik"]["stop_grace_period"]) > DEFAULTS.grace_seconds


def test_there_is_room_for_what_is_written() -> None:
    (runtime,) = SERVICES["mlflow"]["tmpfs"]
    path, options = runtime.split(":")
    given = dict(option.split("=") for option in options.split(","))
    assert path == compose.environment_of("mlflow")["PROXY_RUNTIME_DIR"]
    assert size(given["size"]) > DEFAULTS.resend_spool_bytes
    # No option that only one engine knows: the mode is 1777, or that of the folder in the image.
    assert set(given) == {"size"}
    assert "--mode 1777 /run/mlflow-proxy" in (DOCKER / "Dockerfile").read_text()
    # On a disk, as whole artifacts pass through it.
    assert "scratch:/tmp" in SERVICES["mlflow"]["volumes"]


# ---- Traefik ----


@pytest.fixture(scope="module")
def traefik() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((DOCKER / "traefik" / "traefik.yml").read_text())
    return document


def test_traefik_believes_no_client_and_cuts_no_upload_off(traefik: dict[str, Any]) -> None:
    secure = traefik["entryPoints"]["websecure"]
    assert "forwardedHeaders" not in secure
    assert secure["http"]["encodeQuerySemicolons"] is True
    assert secure["http"]["aliasHeadersStrategy"] == "delete"
    limits = secure["transport"]["respondingTimeouts"]
    assert (limits["readTimeout"], limits["writeTimeout"]) == ("0s", "0s")
    behind = traefik["serversTransport"]["forwardingTimeouts"]
    assert behind["responseHeaderTimeout"] == "0s"
    assert seconds(behind["idleConnTimeout"]) < KEEP_ALIVE_SECONDS
    assert "api" not in traefik
    assert set(traefik["providers"]) == {"file"}


def test_traefik_listens_where_ports_lead_and_leads_where_services_listen(traefik: dict[str, Any]) -> None:
    inside = {port.rsplit(":", 1)[1] for port in SERVICES["traefik"]["ports"]}
    entries = traefik["entryPoints"]
    assert {entries[name]["address"] for name in ("web", "websecure")} == {f":{port}" for port in inside}
    assert entries["web"]["http"]["redirections"]["entryPoint"]["to"] == "websecure"
    assert entries["ping"]["address"].startswith("127.0.0.1:")
    routes = yaml.safe_load((DOCKER / "traefik/dynamic/mlflow.yml").read_text())
    ports = {
        "mlflow": compose.environment_of("mlflow")["MLFLOW_PORT"],
        "keycloak": compose.environment_of("keycloak")["KC_HTTP_PORT"],
        "grafana": "3000",
    }
    for name, service in routes["http"]["services"].items():
        (server,) = service["loadBalancer"]["servers"]
        common = networks(SERVICES[name]) & networks(SERVICES["traefik"])
        host = name
        if len(common) > 1:
            # Its own name is known in each of its networks, and nobody says which is taken; Traefik is
            # believed in one.
            (host,) = SERVICES[name]["networks"]["edge"]["aliases"]
            assert host not in SERVICES
        assert server["url"] == f"http://{host}:{ports[name]}"
        assert common
    for router in routes["http"]["routers"].values():
        assert router["entryPoints"] == ["websecure"]
        assert router["service"] in routes["http"]["services"]
    certificate = routes["tls"]["stores"]["default"]["defaultCertificate"]
    mounted = {f"/run/secrets/{secret}" for secret in SERVICES["traefik"]["secrets"]}
    assert set(certificate.values()) == mounted
    aliases = SERVICES["traefik"]["networks"]["edge"]["aliases"]
    assert "Host(`login.localhost`)" in {router["rule"] for router in routes["http"]["routers"].values()}
    assert aliases == ["login.localhost"]


# ---- what is made once ----


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where docker/make-env has been run."""
    folder = tmp_path_factory.mktemp("made")
    done = compose.make_env(folder, "--host", "mlflow.example.com", "--oidc")
    assert done.returncode == 0, done.stderr
    return folder


def test_its_secrets_are_new_and_agree_with_each_other(made: Path, tmp_path: Path) -> None:
    def read(folder: Path) -> dict[str, dict[str, str]]:
        names = ("mlflow", "mlflow-postgres", "mlflow-minio", "mlflow-oidc")
        return {name: compose.env_file(folder / f"{name}.env") for name in names}

    one = read(made)
    password = one["mlflow-postgres"]["MLFLOW_DATABASE_PASSWORD"]
    uri = f"postgresql://mlflow:{password}@postgres/mlflow"
    assert one["mlflow"]["MLFLOW_BACKEND_STORE_URI"] == one["mlflow"]["PROXY_DATABASE_URL"] == uri
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        assert one["mlflow"][name] == one["mlflow-minio"][name]
    client = one["mlflow-oidc"]["MLFLOW_CLIENT_SECRET"]
    assert one["mlflow"]["MLFLOW_UI_OAUTH_CLIENT_SECRET"] == client
    assert "CHANGE-ME" not in str(one)
    assert "MINIO_ROOT_PASSWORD" not in one["mlflow"]

    assert compose.make_env(tmp_path).returncode == 0
    other = read(tmp_path)
    assert "MLFLOW_UI_OAUTH_ISSUER_URL" not in other["mlflow"]
    for file, given in other.items():
        for name, value in given.items():
            if re.search("PASSWORD|SECRET|KEY$|PASSPHRASE|ROOT_USER", name):
                assert len(value) >= 12, name
                assert value != one[file][name], name


def test_nobody_else_may_read_them_and_nothing_is_overwritten(made: Path) -> None:
    for name in ("mlflow.env", "mlflow-postgres.env", "mlflow-minio.env", "mlflow-oidc.env", "docker/.env"):
        assert stat.S_IMODE((made / name).stat().st_mode) == 0o600, name
    folder = made / "docker" / "secrets"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    # The containers' own users read these, each mounted by itself.
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == dict.fromkeys(
        (Path(secret["file"]).name for secret in STACK["secrets"].values()), 0o644
    )
    before = (made / "mlflow.env").read_text()
    again = compose.make_env(made)
    assert again.returncode == 1
    assert "there already, so nothing was written" in again.stderr
    assert (made / "mlflow.env").read_text() == before
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert {"mlflow.env", "mlflow-*.env", "docker/.env", "docker/secrets/"} <= set(ignored)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--host", "a b"), "'a b' is no host name"),
        (("--host",), "--host wants a name"),
        (("--nonsense",), "unknown: --nonsense"),
    ],
)
def test_a_mistake_is_said_and_writes_nothing(options: tuple[str, ...], said: str, tmp_path: Path) -> None:
    done = compose.make_env(tmp_path, *options)
    assert (done.returncode, said in done.stderr) == (1, True), done.stderr
    assert not (tmp_path / "mlflow.env").exists()


def test_files_that_containers_could_not_read_are_told_of_first(tmp_path: Path) -> None:
    """As a repository is checked out under umask 077."""
    rules = tmp_path / "monitoring" / "rules.yml"
    rules.parent.mkdir()
    rules.touch(0o640)
    done = compose.make_env(tmp_path)
    assert (done.returncode, "chmod -R a+rX docker monitoring" in done.stderr) == (1, True), done.stderr
    rules.chmod(0o644)
    assert compose.make_env(tmp_path).returncode == 0


def test_its_certificate_is_believed_for_the_names_that_are_used(made: Path) -> None:
    secrets = made / "docker" / "secrets"
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(secrets / "tls.crt", secrets / "tls.key")
    client = ssl.create_default_context(cafile=secrets / "ca.pem")
    for name in ("localhost", "127.0.0.1", "login.localhost", "grafana.localhost", "mlflow.example.com"):
        assert handshake(server, client, name), name
    assert not handshake(server, client, "evil.example.com")


def handshake(server: ssl.SSLContext, client: ssl.SSLContext, name: str) -> bool:
    """Whether a client that asks for `name` believes that server."""
    ends = [ssl.MemoryBIO() for _ in range(4)]
    one = client.wrap_bio(ends[0], ends[1], server_hostname=name)
    other = server.wrap_bio(ends[2], ends[3], server_side=True)
    finished: set[ssl.SSLObject] = set()
    for _ in range(10):
        for end in (one, other):
            try:
                end.do_handshake()
                finished.add(end)
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLCertVerificationError:
                return False
            ends[2].write(ends[1].read())
            ends[0].write(ends[3].read())
        if len(finished) == 2:
            return True
    raise AssertionError("no end of it")


def test_the_proxy_takes_what_the_stack_gives_it(made: Path, tmp_path: Path) -> None:
    """As the container starts: mlflow.env in its environment, and over it what the Compose file says."""
    environ = compose.env_file(made / "mlflow.env") | compose.environment_of("mlflow")
    token = environ.pop("PROXY_METRICS_TOKEN_FILE")
    assert token == "/run/secrets/metrics-token"
    environ["PROXY_METRICS_TOKEN_FILE"] = str(made / "docker" / "secrets" / "metrics-token")
    loaded = load({}, environ, tmp_path)
    assert loaded.warnings == ()
    settings = loaded.settings
    assert (settings.host, settings.port, settings.tls) == ("0.0.0.0", 8080, False)
    assert settings.public_url == "https://localhost:8443"
    assert settings.artifact_root == "s3://mlflow/artifacts"
    assert settings.database_url is not None
    assert loaded.passthrough["MLFLOW_S3_ENDPOINT_URL"] == "http://minio:9000"
    assert loaded.passthrough["MLFLOW_CRYPTO_KEK_PASSPHRASE"]
    assert settings.metrics_token is not None
    assert settings.oauth_issuer_url == "https://login.localhost:8443/realms/mlflow"
    assert compose.env_file(made / "docker" / ".env") == {
        "PROXY_PUBLIC_URL": "https://mlflow.example.com:8443"
    }


def test_whatever_mlflow_env_says_the_stack_is_reached_as_it_says_itself(made: Path, tmp_path: Path) -> None:
    said = {"MLFLOW_HOST": "127.0.0.1", "MLFLOW_PORT": "8443", "PROXY_TLS": "on", "PROXY_TRUSTED_PROXIES": ""}
    said |= {
        "PROXY_PUBLIC_URL": "https://elsewhere.example.com",
        "PROXY_METRICS_TOKEN": "not-what-Prometheus-has",
    }
    environ = compose.env_file(made / "mlflow.env") | said | compose.environment_of("mlflow")
    token = made / "docker" / "secrets" / "metrics-token"
    environ["PROXY_METRICS_TOKEN_FILE"] = str(token)
    settings = load({}, environ, tmp_path).settings
    assert settings.public_url == "https://localhost:8443"
    assert settings.metrics_token is not None
    assert settings.metrics_token.get_secret_value() == token.read_text().strip()
    assert (settings.host, settings.port, settings.tls) == ("0.0.0.0", 8080, False)
    assert [str(network) for network in settings.trusted_proxies] == ["172.31.250.2/32"]


# ---- the programs' own words ----


@contextlib.contextmanager
def started(*command: str, cwd: Path, port: int, **more: Any) -> Iterator[None]:
    """A program that is to listen on that port of loopback, until the end."""
    log = cwd / "started.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=cwd, stdout=output, stderr=output, **more)
    try:
        for _ in range(600):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.1)
            assert process.poll() is None, log.read_text()
        else:
            raise AssertionError(log.read_text())
        yield
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@needs("prometheus", "promtool")
def test_prometheus_takes_its_command_and_its_configuration(tmp_path: Path, made: Path) -> None:
    config = yaml.safe_load((DOCKER / "prometheus" / "prometheus.yml").read_text())
    (scrape,) = config["scrape_configs"]
    assert scrape["static_configs"] == [{"targets": ["mlflow:8080"]}]
    assert scrape["authorization"]["credentials_file"] == "/run/secrets/metrics-token"
    scrape["authorization"]["credentials_file"] = str(made / "docker" / "secrets" / "metrics-token")
    for mount in SERVICES["prometheus"]["volumes"]:
        source, target, *_ = mount.split(":")
        if source.endswith(".rules.yml"):
            shutil.copy(DOCKER / source, tmp_path / Path(target).name)
    file = tmp_path / "prometheus.yml"
    file.write_text(yaml.safe_dump(config))
    checked = subprocess.run([path("promtool"), "check", "config", file], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "rules found" in checked.stdout

    port = free_port()
    places = {"/etc/prometheus": str(tmp_path), "/prometheus": str(tmp_path / "data")}
    words = [moved(word, places) for word in compose.options_of("prometheus")]
    with started(
        path("prometheus"), *words, f"--web.listen-address=127.0.0.1:{port}", cwd=tmp_path, port=port
    ):
        pass


@needs("prometheus-alertmanager")
def test_alertmanager_takes_its_command_and_its_configuration(tmp_path: Path) -> None:
    (mounted,) = (one for one in SERVICES["alertmanager"]["volumes"] if one.endswith(":ro"))
    shutil.copy(DOCKER / mounted.split(":")[0], tmp_path)
    port = free_port()
    places = {"/etc/alertmanager": str(tmp_path), "/alertmanager": str(tmp_path / "data")}
    words = [moved(word, places) for word in compose.options_of("alertmanager")]
    with started(
        *(path("prometheus-alertmanager"), *words, f"--web.listen-address=127.0.0.1:{port}"),
        cwd=tmp_path,
        port=port,
    ):
        pass


def moved(word: str, places: dict[str, str]) -> str:
    """An option, with the container's folder replaced by ours."""
    for inside, outside in places.items():
        if f"={inside}" in word:
            return word.replace(f"={inside}", f"={outside}", 1)
    return word


def path(name: str) -> str:
    found = program(name)
    assert found is not None
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_what_the_containers_scripts_say_is_shell() -> None:
    for name in (
        "make-env",
        "checked.sh",
        "postgres/10-mlflow.sh",
        "postgres/10-drill.sh",
        "minio/make-bucket.sh",
        "backup/every.sh",
    ):
        file = DOCKER / name
        assert subprocess.run(["sh", "-n", file]).returncode == 0
        assert file.read_text().startswith("#!/bin/sh\n")
    assert os.access(DOCKER / "make-env", os.X_OK)
    # PostgreSQL's image runs what may be run, and else reads it into its own shell.
    assert os.access(DOCKER / "postgres" / "10-mlflow.sh", os.X_OK)


def examples(service: dict[str, Any]) -> list[Path]:
    return [DOCKER / f"{file}.example" for file in service.get("env_file", [])]


@pytest.mark.parametrize(
    "name",
    [name for name in SERVICES if any("=CHANGE-ME" in one.read_text() for one in examples(SERVICES[name]))],
)
def test_what_is_still_as_in_the_example_starts_nothing(name: str) -> None:
    """Before anything is made with it: PostgreSQL would keep such a password for good."""
    script = DOCKER / "checked.sh"
    assert SERVICES[name]["entrypoint"][:2] == ["/bin/sh", "/checked.sh"]
    assert "./checked.sh:/checked.sh:ro" in SERVICES[name]["volumes"]
    (example,) = examples(SERVICES[name])
    given = compose.env_file(example)
    left = {variable for variable, value in given.items() if value == "CHANGE-ME"}

    def run(environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
        # No PATH: images have little beside a shell.
        command = ["/bin/sh", script, "/bin/sh", "-c", "echo started $0 $1", "a b", "c"]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)

    done = run(given)
    assert (done.returncode, done.stdout) == (1, "")
    said = re.search("still CHANGE-ME:(.*);", done.stderr)
    assert said is not None
    assert set(said[1].split()) == left
    done = run(given | dict.fromkeys(left, "set $HOME"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "started a b c\n", "")


def test_the_bucket_s_job_wants_a_shell_and_mc_alone_and_may_be_run_again(tmp_path: Path) -> None:
    """With an mc that writes down what it is told, and says what it was told of the user."""
    told = tmp_path / "told"
    mc = tmp_path / "mc"
    mc.write_text(
        f"""#!/bin/sh
echo "$@" >>{told}
[ "$3" != info ] ||
    while read -r line; do
        case $line in *attach*) echo "PolicyName: mlflow-artifacts" ;; esac
    done <{told}
"""
    )
    mc.chmod(0o755)
    given = compose.env_file(ROOT / "mlflow-minio.env.example")
    for _ in range(2):
        done = subprocess.run(
            ["/bin/sh", DOCKER / "minio" / "make-bucket.sh"],
            env={**given, "PATH": str(tmp_path)}, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")
    words = [line.split() for line in told.read_text().splitlines()]
    assert words.count(["mb", "--ignore-existing", "store/mlflow"]) == 2
    attached = ["admin", "policy", "attach", "store", "mlflow-artifacts", "--user", "mlflow-proxy"]
    assert words.count(attached) == 1


@pytest.mark.parametrize(("answer", "code"), [("200 OK", 0), ("503 Service Unavailable", 1), ("", 1)])
def test_keycloak_s_health_check_wants_bash_alone(answer: str, code: int) -> None:
    bash = shutil.which("bash")
    assert bash is not None
    kind, program_name, *words = SERVICES["keycloak"]["healthcheck"]["test"]
    assert (kind, program_name) == ("CMD", "bash")

    def serve(listening: socket.socket) -> None:
        connection, _ = listening.accept()
        with connection:
            request = b""
            while not request.endswith(b"\r\n\r\n"):
                request += connection.recv(1000)
            assert request.startswith(b"GET /health/ready HTTP/1.0\r\n")
            if answer:
                # Down it says UP as well: of its parts.
                connection.sendall(f'HTTP/1.0 {answer}\r\n\r\n{{"checks": [{{"status": "UP"}}]}}'.encode())

    with socket.create_server(("127.0.0.1", 0)) as listening:
        words = [word.replace("/9000", f"/{listening.getsockname()[1]}") for word in words]
        thread = threading.Thread(target=serve, args=(listening,))
        thread.start()
        done = subprocess.run([bash, *words], env={"PATH": "/nowhere"}, capture_output=True, timeout=60)
        thread.join(60)
    assert (done.returncode, done.stdout, done.stderr) == (code, b"", b"")


@pytest.mark.parametrize("name", sorted(AGAIN_AND_AGAIN))
def test_what_is_done_again_and_again_is_a_command_that_is_there(name: str, made: Path) -> None:
    seconds_between, program_name, word = SERVICES[name]["command"]
    assert int(seconds_between) >= 86400
    assert program_name == "mlflow-proxy"
    with main.make_context("mlflow-proxy", [word]) as context:
        assert main.get_command(context, word) is not None
    given = compose.env_file(made / "mlflow.env")
    assert f"backups:{given['PROXY_BACKUP_DESTINATION']}" in SERVICES[name]["volumes"]
    passwords = [
        (made / "docker" / "secrets" / file).read_text().strip()
        for file in ("drill-password", "drill-postgres-password")
    ]
    assert given["PROXY_DRILL_SERVER_URL"] == f"postgresql://drill:{passwords[0]}@drill-database/postgres"
    assert passwords[1] not in ("", passwords[0], str(given))


def test_the_drill_has_no_superuser_s_password() -> None:
    """Whoever can write where backups are kept writes SQL that the drill runs."""
    server = SERVICES["drill-database"]
    given = compose.environment_of("drill-database")
    assert given["POSTGRES_PASSWORD_FILE"] == "/run/secrets/drill-postgres-password"
    assert given["DRILL_PASSWORD_FILE"] == "/run/secrets/drill-password"
    assert set(server["secrets"]) == {"drill-password", "drill-postgres-password"}
    holders = [name for name, one in SERVICES.items() if "drill-postgres-password" in one.get("secrets", [])]
    assert holders == ["drill-database"]
    # `trust`, the image's default on loopback, would make a superuser of whatever runs in the container.
    assert given["POSTGRES_INITDB_ARGS"] == "--auth-local=peer --auth-host=scram-sha-256"
    script = "./postgres/10-drill.sh:/docker-entrypoint-initdb.d/10-drill.sh:ro"
    assert script in server["volumes"]
    assert os.access(DOCKER / "postgres" / "10-drill.sh", os.X_OK)


def test_a_failure_is_said_and_it_goes_on_until_it_is_ended(tmp_path: Path) -> None:
    script = DOCKER / "backup" / "every.sh"
    process = subprocess.Popen(
        ["sh", script, "1", "sh", "-c", "echo begun; exit 3"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        assert [process.stdout.readline() for _ in range(2)] == ["begun\n"] * 2
    finally:
        os.killpg(process.pid, signal.SIGTERM)  # as `tini -g` does
    _, error = process.communicate(timeout=60)
    assert "'sh -c echo begun; exit 3' has failed with exit code 3" in error


def test_the_realm_knows_the_roles_groups_and_asks_for_s256(made: Path) -> None:
    realm = json.loads((DOCKER / "keycloak" / "realm.json").read_text())
    given = compose.env_file(made / "mlflow.env")
    groups = {group["name"] for group in realm["groups"]}
    assert groups == {given[f"PROXY_ROLE_{role}_GROUPS"] for role in ("VIEWER", "EDITOR", "ADMIN")}
    assert {group for user in realm["users"] for group in user["groups"]} == groups
    (client,) = realm["clients"]
    assert client["clientId"] == given["MLFLOW_UI_OAUTH_CLIENT_ID"]
    assert client["attributes"]["pkce.code.challenge.method"] == "S256"
    assert given["MLFLOW_UI_OAUTH_ISSUER_URL"].endswith(f"/realms/{realm['realm']}")
