"""The settings of backups: where they are kept, to whom they are encrypted, how many stay."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import SecretStr
from pydantic_settings import BaseSettings

from proxy.settings import values
from proxy.settings.kinds import FilePath, Flag, Text, setting
from proxy.settings.values import quoted, read, read_secret


def recipients(text: str) -> tuple[str, ...]:
    """Public keys as `mlflow-proxy backup keygen`, `age-keygen` or `ssh-keygen` print them."""
    found = tuple(part.strip() for part in text.split(",") if part.strip())
    for one in found:
        if one.upper().startswith("AGE-SECRET-KEY-"):
            # Not quoted: it must not be in a log too.
            raise ValueError("that is a secret key: set the public one, which begins with age1")
        if not re.fullmatch(r"age1[0-9a-z]+|ssh-(ed25519|rsa) [A-Za-z0-9+/=]+( .*)?", one):
            raise ValueError(
                f"{quoted(one)} is no public key: it begins with age1, ssh-ed25519 or ssh-rsa; "
                "`mlflow-proxy backup keygen` makes one"
            )
    return found


class BackupFields(BaseSettings):
    """The part of Settings that those are."""

    backup_destination: Text | None = setting(
        "PROXY_BACKUP_DESTINATION",
        "Backup",
        None,
        "Where `mlflow-proxy backup` keeps its sets: a directory, s3://bucket/path, gs://bucket/path or "
        "wasbs://container@account.blob.core.windows.net/path. Another place than the data's own.",
        example="s3://backups/mlflow",
    )
    backup_recipient: Annotated[tuple[str, ...], read(recipients), "list"] = setting(
        "PROXY_BACKUP_RECIPIENT",
        "Backup",
        (),
        "Public keys, separated by commas, to which backups are encrypted (age; `mlflow-proxy backup "
        "keygen` makes a pair). The secret key is not needed for making backups: keep it elsewhere.",
        example="age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p",
        default_note="backups are not encrypted",
    )
    backup_identity_file: FilePath | None = setting(
        "PROXY_BACKUP_IDENTITY_FILE",
        "Backup",
        None,
        "The file with the secret key that opens encrypted backups; for `restore` and `drill` alone.",
        example="/media/usb/mlflow-backup.key",
    )
    backup_artifacts: Flag = setting(
        "PROXY_BACKUP_ARTIFACTS",
        "Backup",
        False,
        "Copy the artifacts too, those that were not copied before; else they are only listed, and the "
        "bucket's versions and replication have to bring them back (docs/disaster-recovery.md).",
    )
    backup_keep_daily: Annotated[int, read(values.whole_number(0, 10_000))] = setting(
        "PROXY_BACKUP_KEEP_DAILY",
        "Backup",
        7,
        "The newest backup of each of that many days (of UTC, of those that have one) is kept, and all of "
        "the last 24 hours; what no rule keeps is removed after the next good one. The newest is always "
        "kept.",
    )
    backup_keep_weekly: Annotated[int, read(values.whole_number(0, 10_000))] = setting(
        "PROXY_BACKUP_KEEP_WEEKLY",
        "Backup",
        5,
        "The same of that many weeks.",
    )
    backup_keep_monthly: Annotated[int, read(values.whole_number(0, 10_000))] = setting(
        "PROXY_BACKUP_KEEP_MONTHLY",
        "Backup",
        12,
        "The same of that many months.",
    )
    backup_s3_endpoint: Text | None = setting(
        "PROXY_BACKUP_S3_ENDPOINT_URL",
        "Backup",
        None,
        "The address of the S3 that the backups go to, where it is not the artifacts' or Amazon's.",
        example="https://minio.elsewhere.example.com:9000",
        default_note="MLFLOW_S3_ENDPOINT_URL",
    )
    backup_access_key: Text | None = setting(
        "PROXY_BACKUP_ACCESS_KEY_ID",
        "Backup",
        None,
        "The name of the S3 key for the backups.",
        default_note="AWS_ACCESS_KEY_ID",
    )
    backup_secret_key: Annotated[SecretStr | None, read_secret(values.text_value)] = setting(
        "PROXY_BACKUP_SECRET_ACCESS_KEY",
        "Backup",
        None,
        "The S3 key for the backups.",
        default_note="AWS_SECRET_ACCESS_KEY",
    )
    backup_connection_string: Annotated[SecretStr | None, read_secret(values.text_value)] = setting(
        "PROXY_BACKUP_AZURE_CONNECTION_STRING",
        "Backup",
        None,
        "The connection string for the Azure storage account of the backups.",
        default_note="AZURE_STORAGE_CONNECTION_STRING",
    )
    backup_google_credentials: FilePath | None = setting(
        "PROXY_BACKUP_GOOGLE_CREDENTIALS",
        "Backup",
        None,
        "The file with the Google service account's key for the backups.",
        default_note="GOOGLE_APPLICATION_CREDENTIALS",
    )
    drill_server_url: Annotated[SecretStr | None, read_secret(values.text_value)] = setting(
        "PROXY_DRILL_SERVER_URL",
        "Backup",
        None,
        "A login on a PostgreSQL or MySQL server that may create databases: `drill` makes its scratch "
        "databases there and drops them. Best another server than the service's own. SQLite needs none.",
        example="postgresql://drill:PASSWORD@scratch.example.com/postgres",
    )
    drill_artifacts: Annotated[str, read(values.choice("all", "sample"))] = setting(
        "PROXY_DRILL_ARTIFACTS",
        "Backup",
        "all",
        "Which of the artifacts that a backup has copied `drill` restores: all, or those alone that it reads "
        "through MLflow's client (of the others it looks whether their copies are there).",
    )
    drill_sample: Annotated[int, read(values.whole_number(0, 100_000))] = setting(
        "PROXY_DRILL_SAMPLE",
        "Backup",
        20,
        "How many artifacts, chosen by chance, `drill` reads through MLflow's client and compares.",
    )
    backup_metrics_file: FilePath | None = setting(
        "PROXY_BACKUP_METRICS_FILE",
        "Backup",
        None,
        "Where `backup` and `drill` write their figures for node exporter's textfile collector. `/metrics` "
        "has them too, where the service runs on the same data directory.",
        example="/var/lib/node_exporter/textfile/mlflow-proxy-backup.prom",
    )
