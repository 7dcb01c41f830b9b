"""Tries the artifact storage, run as a process of its own: `python storage_trial.py ROOT`, with MLflow's
environment.

MLflow's own classes open it, so that it is reached as MLflow reaches it: keys, roles, endpoint, certificates.
A line of JSON for each step: ``step``, ``ok``, ``said``. All of it happens below one folder of the root, and
what was put there is removed.
"""

# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

FOLDER = ".mlflow-proxy-probe"
"""As proxy.probes.looks has it; nothing of ours is imported here, as MLflow's own environment is in force."""


class Store(Protocol):
    """What is tried, with names below the folder."""

    def put(self, name: str, content: bytes) -> None: ...
    def get(self, name: str) -> bytes: ...
    def names(self) -> list[str]: ...
    def multipart(self, name: str, content: bytes) -> None: ...
    def delete(self, name: str) -> None: ...


class S3:
    """Amazon's and those that speak its language."""

    def __init__(self, root: str) -> None:
        from mlflow.store.artifact.s3_artifact_repo import S3ArtifactRepository

        repository = S3ArtifactRepository(root)
        self._client = repository._get_s3_client()
        self._bucket, path = repository.parse_s3_compliant_uri(root)
        self._prefix = "/".join(filter(None, (path.strip("/"), FOLDER)))

    def _key(self, name: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": f"{self._prefix}/{name}"}

    def put(self, name: str, content: bytes) -> None:
        self._client.put_object(**self._key(name), Body=content)

    def get(self, name: str) -> bytes:
        return bytes(self._client.get_object(**self._key(name))["Body"].read())

    def names(self) -> list[str]:
        found = self._client.list_objects_v2(Bucket=self._bucket, Prefix=f"{self._prefix}/", MaxKeys=1000)
        return [entry["Key"].rpartition("/")[2] for entry in found.get("Contents", [])]

    def multipart(self, name: str, content: bytes) -> None:
        upload = {
            **self._key(name),
            "UploadId": self._client.create_multipart_upload(**self._key(name))["UploadId"],
        }
        try:
            part = self._client.upload_part(**upload, PartNumber=1, Body=content)
            parts = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
            self._client.complete_multipart_upload(**upload, MultipartUpload=parts)
        except BaseException:
            with contextlib.suppress(Exception):  # what came first is told
                self._client.abort_multipart_upload(**upload)
            raise

    def delete(self, name: str) -> None:
        self._client.delete_object(**self._key(name))


class Azure:
    """Blob Storage, by wasbs:// and wasb://."""

    def __init__(self, root: str) -> None:
        from mlflow.store.artifact.azure_blob_artifact_repo import AzureBlobArtifactRepository

        repository = AzureBlobArtifactRepository(root)
        container, _, path, _ = repository.parse_wasbs_uri(root)
        self._container = repository.client.get_container_client(container)
        self._prefix = "/".join(filter(None, (path.strip("/"), FOLDER)))

    def _blob(self, name: str) -> Any:
        return self._container.get_blob_client(f"{self._prefix}/{name}")

    def put(self, name: str, content: bytes) -> None:
        self._blob(name).upload_blob(content, overwrite=True)

    def get(self, name: str) -> bytes:
        return bytes(self._blob(name).download_blob().readall())

    def names(self) -> list[str]:
        return [
            blob.name.rpartition("/")[2]
            for blob in self._container.list_blobs(name_starts_with=f"{self._prefix}/")
        ]

    def multipart(self, name: str, content: bytes) -> None:
        blob = self._blob(name)
        block = "MDAwMQ=="  # base64 of 0001
        blob.stage_block(block, content)
        blob.commit_block_list([block])

    def delete(self, name: str) -> None:
        self._blob(name).delete_blob()


class Google:
    """Cloud Storage, by gs://."""

    def __init__(self, root: str) -> None:
        from mlflow.store.artifact.gcs_artifact_repo import GCSArtifactRepository

        repository = GCSArtifactRepository(root)
        bucket, path = repository.parse_gcs_uri(root)
        self._bucket = repository._get_bucket(bucket)
        self._prefix = "/".join(filter(None, (path.strip("/"), FOLDER)))

    def _blob(self, name: str) -> Any:
        return self._bucket.blob(f"{self._prefix}/{name}")

    def put(self, name: str, content: bytes) -> None:
        self._blob(name).upload_from_string(content)

    def get(self, name: str) -> bytes:
        return bytes(self._blob(name).download_as_bytes())

    def names(self) -> list[str]:
        return [
            blob.name.rpartition("/")[2]
            for blob in self._bucket.client.list_blobs(self._bucket, prefix=f"{self._prefix}/")
        ]

    def multipart(self, name: str, content: bytes) -> None:
        # In pieces: a resumable upload, as MLflow's client makes it of large files.
        blob = self._blob(name)
        blob.chunk_size = 256 * 1024
        with tempfile.TemporaryFile() as file:
            file.write(content)
            file.seek(0)
            blob.upload_from_file(file)

    def delete(self, name: str) -> None:
        self._blob(name).delete()


class Other:
    """What MLflow reads by other classes (a directory, hdfs, sftp, …): its own five methods."""

    def __init__(self, root: str) -> None:
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        self._repository = get_artifact_repository(root)

    def put(self, name: str, content: bytes) -> None:
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / name).write_bytes(content)
            self._repository.log_artifact(str(Path(folder) / name), FOLDER)

    def get(self, name: str) -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            return Path(self._repository.download_artifacts(f"{FOLDER}/{name}", folder)).read_bytes()

    def names(self) -> list[str]:
        return [found.path.rpartition("/")[2] for found in self._repository.list_artifacts(FOLDER)]

    def multipart(self, name: str, content: bytes) -> None:
        self.put(name, content)

    def delete(self, name: str) -> None:
        self._repository.delete_artifacts(f"{FOLDER}/{name}")


class Disk:
    """A directory of this machine, or one that is mounted here."""

    def __init__(self, root: str) -> None:
        path = urlsplit(root).path if root.startswith("file:") else root
        self._folder = Path(path) / FOLDER

    def put(self, name: str, content: bytes) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        file = os.open(self._folder / name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        try:
            os.write(file, content)
            os.fsync(file)
        finally:
            os.close(file)

    def get(self, name: str) -> bytes:
        return (self._folder / name).read_bytes()

    def names(self) -> list[str]:
        return [path.name for path in self._folder.iterdir()] if self._folder.is_dir() else []

    def multipart(self, name: str, content: bytes) -> None:
        # MLflow writes beside it and renames.
        beside = self._folder / f"{name}.part"
        beside.write_bytes(content)
        beside.rename(self._folder / name)

    def delete(self, name: str) -> None:
        (self._folder / name).unlink()
        with contextlib.suppress(OSError):  # another's is in it
            self._folder.rmdir()


KINDS: dict[str, Callable[[str], Store]] = {
    "": Disk,
    "file": Disk,
    "s3": S3,
    "gs": Google,
    "wasbs": Azure,
    "wasb": Azure,
}


def attempt(root: str) -> Iterator[tuple[str, str | None]]:
    """Each step, and what was said where it failed; the later ones are tried all the same."""
    name = secrets.token_hex(8)
    canary, parts = secrets.token_bytes(64), secrets.token_bytes(64)
    try:
        store = KINDS.get(urlsplit(root).scheme if "://" in root else "", Other)(root)
    except Exception as error:
        yield "open", said(error)
        return
    left = [name]

    def read() -> None:
        if store.get(name) != canary:
            raise ValueError("what is read is not what was written")

    def listed() -> None:
        if name not in store.names():
            raise ValueError("what was written is not in the list")

    def multipart() -> None:
        store.multipart(f"{name}-parts", parts)
        left.append(f"{name}-parts")
        if store.get(f"{name}-parts") != parts:
            raise ValueError("what is read is not what was written in parts")

    def delete() -> None:
        for one in left:
            store.delete(one)
        if still := set(left).intersection(store.names()):
            raise ValueError(f"{FOLDER}/{min(still)} is there still")

    for step, do in (
        ("put", lambda: store.put(name, canary)),
        ("get", read),
        ("list", listed),
        ("multipart", multipart),
        ("delete", delete),
    ):
        try:
            do()
        except Exception as error:
            yield step, said(error)
            if step == "put":
                return
        else:
            yield step, None


def said(error: Exception) -> str:
    """A library's words in a line: its code first, where it has one."""
    answer = getattr(error, "response", None)
    if isinstance(answer, dict) and isinstance(answer.get("Error"), dict):
        code, text = answer["Error"].get("Code", ""), answer["Error"].get("Message", "")
        return " ".join(f"{code}: {text}".split())[:400]
    code = getattr(error, "error_code", None) or getattr(error, "code", None) or type(error).__name__
    text = getattr(error, "strerror", None) or getattr(error, "message", None) or str(error)
    return " ".join(f"{getattr(code, 'value', code)}: {text}".split())[:400]


def main() -> None:
    logging.disable(logging.CRITICAL)
    for step, problem in attempt(sys.argv[1]):
        print(json.dumps({"step": step, "ok": problem is None, "said": problem}), flush=True)


if __name__ == "__main__":
    main()
