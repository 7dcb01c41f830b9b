"""The settings of what operators look at: the logs, and the probes."""

from __future__ import annotations

from typing import Annotated

from pydantic_settings import BaseSettings

from proxy.settings import values
from proxy.settings.kinds import FilePath, Flag, Pace, Size, setting
from proxy.settings.values import read


class OperatingFields(BaseSettings):
    """The part of Settings that those are."""

    probe_interval: Pace = setting(
        "PROXY_PROBE_INTERVAL",
        "Probes",
        60.0,
        "How often the database, the identity provider, certificates and the disk are looked at; 0: never. "
        "What is found is in /metrics and /readyz?verbose.",
    )
    probe_storage_interval: Pace = setting(
        "PROXY_PROBE_STORAGE_INTERVAL",
        "Probes",
        300.0,
        "How often a small file is put into the artifact storage, read and removed again; 0: never.",
    )
    probe_certificates: Annotated[tuple[tuple[str, int], ...], read(values.host_ports), "list"] = setting(
        "PROXY_PROBE_CERTIFICATES",
        "Probes",
        (),
        "Other servers whose certificates' ends are told, as host:port separated by commas: a load "
        "balancer's, the database's.",
        example="mlflow.example.com:443",
    )
    log_format: Annotated[str, read(values.choice("json", "combined"))] = setting(
        "PROXY_LOG_FORMAT",
        "Logs",
        "json",
        "The access log's format: json or combined (Apache's).",
    )
    log_level: Annotated[str, read(values.choice("debug", "info", "warning", "error"))] = setting(
        "PROXY_LOG_LEVEL",
        "Logs",
        "info",
        "The least severe messages of the application log that are written: debug, info, warning or error.",
    )
    access_log_file: FilePath | None = setting(
        "PROXY_ACCESS_LOG_FILE",
        "Logs",
        None,
        "A file for the access log, opened again at SIGUSR1.",
        default_note="standard output",
        example="/var/log/mlflow-proxy/access.log",
    )
    log_file: FilePath | None = setting(
        "PROXY_LOG_FILE",
        "Logs",
        None,
        "A file for the application log, opened again at SIGUSR1.",
        default_note="standard error",
        example="/var/log/mlflow-proxy/mlflow-proxy.log",
    )
    log_max_size: Size = setting(
        "PROXY_LOG_MAX_SIZE",
        "Logs",
        100 * 2**20,
        "The size at which such a file is renamed to NAME.1 and a new one begun; 0: never, something else "
        "rotates it. A size: 104857600, 100MiB.",
    )
    log_keep: Annotated[int, read(values.whole_number(0, 1000))] = setting(
        "PROXY_LOG_KEEP",
        "Logs",
        10,
        "How many such renamed files are kept.",
    )
    watch_secrets: Flag = setting(
        "PROXY_WATCH_SECRETS",
        "Sources",
        True,
        "Look every two seconds at the files that NAME_FILE names, and take up what was exchanged in them as "
        "`mlflow-proxy reload` does. Kubernetes and Vault exchange mounted secrets while the service runs.",
    )
