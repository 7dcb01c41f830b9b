"""S3 and Azure Blob Storage on loopback, in processes of their own: moto's server, Azurite from npm."""

from __future__ import annotations

import base64
import contextlib
import secrets
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path

import boto3
from azure.storage.blob import BlobServiceClient
from service import clean_environment, free_port

AZURITE = Path(__file__).parents[2] / "node_modules" / ".bin" / "azurite-blob"
BUCKET = "artifacts"


class ObjectStore(ABC):
    """A server with one empty bucket, and a key that opens it."""

    root: str
    """What MLFLOW_DEFAULT_ARTIFACT_ROOT is."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.key = base64.b64encode(secrets.token_bytes(32)).decode()
        self.address = f"http://127.0.0.1:{self.port}"

    def environment(self) -> dict[str, str]:
        """For the store's own process."""
        return clean_environment()

    @abstractmethod
    def command(self) -> list[str]: ...

    @abstractmethod
    def create(self) -> None:
        """Make the bucket."""

    @abstractmethod
    def settings(self) -> dict[str, str]:
        """What the service needs to know, the key included."""

    @abstractmethod
    def sizes(self) -> list[int]:
        """Of all that is in the bucket."""


class S3(ObjectStore):
    root = f"s3://{BUCKET}/mlflow"

    def command(self) -> list[str]:
        return [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]

    def settings(self) -> dict[str, str]:
        return {
            "MLFLOW_S3_ENDPOINT_URL": self.address,
            "AWS_ACCESS_KEY_ID": "mlflow-test",
            "AWS_SECRET_ACCESS_KEY": self.key,
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def create(self) -> None:
        self._client.create_bucket(Bucket=BUCKET)

    def sizes(self) -> list[int]:
        return [entry["Size"] for entry in self._client.list_objects_v2(Bucket=BUCKET).get("Contents", [])]

    @property
    def _client(self):  # type: ignore[no-untyped-def]
        return boto3.client(
            "s3",
            endpoint_url=self.address,
            aws_access_key_id="mlflow-test",
            aws_secret_access_key=self.key,
            region_name="us-east-1",
        )


class Azure(ObjectStore):
    root = f"wasbs://{BUCKET}@mlflowtest.blob.core.windows.net/mlflow"

    def environment(self) -> dict[str, str]:
        return clean_environment(AZURITE_ACCOUNTS=f"mlflowtest:{self.key}")

    def command(self) -> list[str]:
        where = ("--location", str(self.folder), "--blobHost", "127.0.0.1", "--blobPort", str(self.port))
        return [str(AZURITE), *where, "--skipApiVersionCheck", "--disableTelemetry", "--silent"]

    def settings(self) -> dict[str, str]:
        parts = {
            "DefaultEndpointsProtocol": "http",
            "AccountName": "mlflowtest",
            "AccountKey": self.key,
            "BlobEndpoint": f"{self.address}/mlflowtest",
        }
        return {"AZURE_STORAGE_CONNECTION_STRING": ";".join(f"{name}={parts[name]}" for name in parts)}

    def create(self) -> None:
        self._client.create_container(BUCKET)

    def sizes(self) -> list[int]:
        return [blob.size for blob in self._client.get_container_client(BUCKET).list_blobs()]

    @property
    def _client(self) -> BlobServiceClient:
        return BlobServiceClient.from_connection_string(self.settings()["AZURE_STORAGE_CONNECTION_STRING"])


@contextlib.contextmanager
def object_store(kind: type[ObjectStore], folder: Path) -> Iterator[ObjectStore]:
    """A new one with its bucket, keeping what it holds in `folder`."""
    folder.mkdir()
    store = kind(folder)
    environment = {**store.environment(), "TMPDIR": str(folder)}
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(store.command(), env=environment, stdout=log, stderr=log, cwd=folder)
    try:
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", store.port), 1):
                break
            assert process.poll() is None, (folder / "server.log").read_text()
            assert time.monotonic() < deadline, (folder / "server.log").read_text()
            time.sleep(0.1)
        store.create()
        yield store
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
