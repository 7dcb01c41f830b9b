"""Names: which variables are refused, which never reach MLflow, which options of MLflow open a way round
us."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

_PUBLIC = "the proxy decides which hosts and origins are served: set PROXY_PUBLIC_URL and PROXY_ALLOWED_HOSTS"
_LISTENS = "the proxy alone decides how MLflow listens, so that nobody can go round it"
_STORAGE = "set MLFLOW_DEFAULT_ARTIFACT_ROOT: the proxy makes MLflow serve what is there"
_METRICS = "MLflow's own exporter is not protected: use the proxy's /metrics"
_PREFIX = "MLflow would leave some routes outside the prefix: give PROXY_PUBLIC_URL a path"

REFUSED_OPTIONS: dict[str, str] = {
    "--host": f"{_LISTENS}; MLFLOW_HOST says where the proxy listens",
    "-h": f"{_LISTENS}; MLFLOW_HOST says where the proxy listens",
    "--port": f"{_LISTENS}; MLFLOW_PORT says where the proxy listens",
    "-p": f"{_LISTENS}; MLFLOW_PORT says where the proxy listens",
    "--uvicorn-opts": _LISTENS,
    "--gunicorn-opts": _LISTENS,
    "--waitress-opts": _LISTENS,
    "--dev": "MLflow's development mode takes another server's options: it can't run behind the proxy",
    "--app-name": "the proxy authenticates: MLflow's own login would ask a second time",
    "--disable-security-middleware": "MLflow would believe any Host and Origin",
    "--allowed-hosts": _PUBLIC,
    "--cors-allowed-origins": _PUBLIC,
    "--static-prefix": _PREFIX,
    "--artifacts-only": "MLflow would serve artifacts and nothing else",
    "--serve-artifacts": "the proxy sets it",
    "--no-serve-artifacts": "clients would be sent to the storage directly, past authentication and log",
    "--artifacts-destination": _STORAGE,
    "--default-artifact-root": _STORAGE,
    "--expose-prometheus": _METRICS,
    "--backend-store-uri": "any local user can read an argument: set MLFLOW_BACKEND_STORE_URI",
    "--registry-store-uri": "any local user can read an argument: set MLFLOW_REGISTRY_STORE_URI",
    "--read-replica-backend-store-uri": "any local user can read an argument: "
    "set MLFLOW_READ_REPLICA_BACKEND_STORE_URI",
    "--workspace-store-uri": "any local user can read an argument: set MLFLOW_WORKSPACE_STORE_URI",
    "--workers": "set PROXY_MLFLOW_WORKERS",
    "-w": "set PROXY_MLFLOW_WORKERS",
    "--env-file": "put what it holds into mlflow.env",
    "--help": "MLflow would print its help and end",
    "--version": "MLflow would print its version and end",
}
"""Options of ``mlflow server`` (mlflow/cli/__init__.py, utils/cli_args.py) that PROXY_MLFLOW_ARGS may not
hold, and why. MLflow's own database options are among them because what stands in argv can be read by anybody
on the host."""

REFUSED_VARIABLES: dict[str, str] = {
    "MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE": REFUSED_OPTIONS["--disable-security-middleware"],
    "MLFLOW_UVICORN_OPTS": _LISTENS,
    "MLFLOW_GUNICORN_OPTS": _LISTENS,
    "MLFLOW_STATIC_PREFIX": _PREFIX,
    "MLFLOW_ARTIFACTS_ONLY": REFUSED_OPTIONS["--artifacts-only"],
    "MLFLOW_SERVE_ARTIFACTS": REFUSED_OPTIONS["--no-serve-artifacts"],
    "MLFLOW_ARTIFACTS_DESTINATION": _STORAGE,
    "MLFLOW_EXPOSE_PROMETHEUS": _METRICS,
    "MLFLOW_SERVER_ALLOWED_HOSTS": _PUBLIC,
    "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": _PUBLIC,
    "MLFLOW_WORKERS": REFUSED_OPTIONS["--workers"],
}
"""The environment twins of those options, refused wherever they are set."""

_FALSE = frozenset({"0", "false", "no", "off"})
_TRUE = frozenset({"1", "true", "yes", "on"})
# What is harmless with these values is not worth stopping a start for; it is dropped, as all the twins are.
_HARMLESS: dict[str, frozenset[str]] = {
    "MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE": _FALSE,
    "MLFLOW_ARTIFACTS_ONLY": _FALSE,
    "MLFLOW_SERVE_ARTIFACTS": _TRUE,
}

_NEVER_MLFLOWS = re.compile(
    r"PROXY_.*|_MLFLOW_.*|MLFLOW_TRACKING_.*|MLFLOW_UI_OAUTH_.*|MLFLOW_WORKSPACE"
    # Ours: MLflow is told by its command line, and gets the database from the proxy, with the driver's name
    # in it.
    r"|MLFLOW_(HOST|PORT|BACKEND_STORE_URI|DEFAULT_ARTIFACT_ROOT)(_FILE)?"
    # uvicorn and gunicorn read these by themselves (uvicorn/main.py: auto_envvar_prefix; config.py).
    r"|UVICORN_.*|GUNICORN_CMD_ARGS|FORWARDED_ALLOW_IPS|WEB_CONCURRENCY"
    # prometheus_client in MLflow would write into files of ours.
    r"|(?i:prometheus_multiproc_dir)"
)

_LINK = re.compile(r"SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?")

FILE_PASSTHROUGH = frozenset(
    {
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "AZURE_STORAGE_CONNECTION_STRING",
        "AZURE_STORAGE_ACCESS_KEY",
        "AZURE_CLIENT_SECRET",
        "MLFLOW_S3_ENDPOINT_URL",
        "MLFLOW_REGISTRY_STORE_URI",
        "MLFLOW_READ_REPLICA_BACKEND_STORE_URI",
        "MLFLOW_WORKSPACE_STORE_URI",
        "MLFLOW_CRYPTO_KEK_PASSPHRASE",
        "MLFLOW_FLASK_SERVER_SECRET_KEY",
        "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY",
        "MLFLOW_GATEWAY_BUDGET_REDIS_URL",
        "MLFLOW_SERVER_JOB_HUEY_REDIS_URL",
        "OPENAI_API_KEY",
        "ANTHROPIC_API_KEY",
        "GEMINI_API_KEY",
    }
)
"""Variables that go to MLflow and that NAME_FILE may give. A closed list: many programs have real variables
that end in _FILE (AWS_WEB_IDENTITY_TOKEN_FILE, AZURE_FEDERATED_TOKEN_FILE), which must arrive as they are."""

OUR_PREFIXES = ("PROXY_", "MLFLOW_UI_OAUTH_")
"""What begins like this is a setting of ours or a mistake."""

YAML_PREFIXES = ("MLFLOW_", "AWS_", "AZURE_", "GOOGLE_")
"""What the ``mlflow`` section may hold for MLflow, besides FILE_PASSTHROUGH."""


def refused_mlflow_option(arguments: Iterable[str]) -> str | None:
    """The first option that may not be given to ``mlflow server``, with the reason; None where all may.

    As click (8.5, parser.py) reads them: a long option in full, ``--x y`` or ``--x=y``; no abbreviations,
    case counts; a short one with its value glued on (``-p5000``), also behind a single dash of a longer word
    (``-host`` is ``-h ost``). Every argument is looked at, those that would be another option's value
    included. The answer names the option and never its value.
    """
    for argument in arguments:
        if argument.startswith("--"):
            option = argument.partition("=")[0]
        elif argument.startswith("-"):
            option = argument[:2]
        else:
            continue
        if option in REFUSED_OPTIONS:
            return f"{option} can't be given to MLflow: {REFUSED_OPTIONS[option]}"
    return None


def refused_variable(name: str, value: str) -> str | None:
    """Why the variable may not be set to that, or None. An empty value means unset."""
    if name not in REFUSED_VARIABLES or not value.strip() or value.strip().lower() in _HARMLESS.get(name, ()):
        return None
    return REFUSED_VARIABLES[name]


def may_reach_mlflow(name: str) -> bool:
    """Whether MLflow may have that variable: one that is not ours, not a client's, not a server's."""
    if _NEVER_MLFLOWS.fullmatch(name) or name in REFUSED_VARIABLES:
        return False
    return not (name.endswith("_FILE") and name.removesuffix("_FILE") in FILE_PASSTHROUGH)


def looks_secret(name: str) -> bool:
    """Whether a variable's value is to be masked, going by its name alone."""
    return (
        re.search(r"SECRET|PASSWORD|PASSPHRASE|TOKEN|KEY|CREDENTIAL|CONNECTION_STRING|SAS", name) is not None
    )


def service_links(environ: Mapping[str, str]) -> frozenset[str]:
    """The variables that Kubernetes set because a Service has a name such as ``mlflow`` or ``proxy``.

    Kubernetes puts NAME_SERVICE_HOST, NAME_SERVICE_PORT, NAME_PORT=tcp://... and more into every pod of a
    Service's namespace ("Docker links", kubernetes.io: Service, environment variables). Nobody set them: they
    are no settings. What the pod's own spec sets wins over them, and is then no ``tcp://``.
    """
    services = {
        name.removesuffix("_SERVICE_HOST")
        for name in environ
        if name.endswith("_SERVICE_HOST") and name.removesuffix("HOST") + "PORT" in environ
    }
    return frozenset(
        name
        for name, value in environ.items()
        for service in services
        if name.startswith(f"{service}_")
        and (
            _LINK.fullmatch(name.removeprefix(f"{service}_"))
            or (name == f"{service}_PORT" and re.match(r"(tcp|udp|sctp)://", value))
        )
    )
