"""S3, and what speaks its language, as a place: with the variables that MLflow's own client reads."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import boto3
from botocore.client import Config
from botocore.exceptions import BotoCoreError, ClientError
from urllib3.exceptions import HTTPError

from proxy.backup.places.place import Entry, Place, PlaceFailed, Replaced, Sink, Source, piece

_GONE = ("404", "NoSuchKey", "NotFound")
_KEY = (
    "the key is that of AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; that of the backups may be another, "
    "PROXY_BACKUP_ACCESS_KEY_ID and PROXY_BACKUP_SECRET_ACCESS_KEY"
)
_ADDRESS = (
    "the address is that of MLFLOW_S3_ENDPOINT_URL, with http:// or https://; that of the backups may be "
    "another, PROXY_BACKUP_S3_ENDPOINT_URL"
)
_HINTS = {
    "AccessDenied": "the key's rights must be those of ops/storage/s3-policy-backup.json",
    "EndpointConnectionError": _ADDRESS,
    "InvalidAccessKeyId": _KEY,
    "NoCredentialsError": _KEY,
    "NoSuchBucket": "make the bucket, or name another",
    "PartialCredentialsError": _KEY,
    "SignatureDoesNotMatch": _KEY,
    "ValueError": _ADDRESS,
}
_TAKEN = ("412", "PreconditionFailed", "409", "ConditionalRequestConflict")


class S3(Place):
    """All below one prefix of a bucket."""

    def __init__(self, text: str, environ: Mapping[str, str]) -> None:
        super().__init__(text.rstrip("/"))
        self.bucket, _, path = text.split("://", 1)[-1].partition("/")
        self._prefix = path.strip("/") + "/" if path.strip("/") else ""
        if not self.bucket:
            raise PlaceFailed(f"{text} names no bucket: s3://bucket/path")
        style = environ.get("MLFLOW_BOTO_CLIENT_ADDRESSING_STYLE") or "auto"
        lax = environ.get("MLFLOW_S3_IGNORE_TLS", "").lower() in ("true", "1")
        with self._said("opened", ""):
            self.client: Any = boto3.client(
                "s3",
                endpoint_url=environ.get("MLFLOW_S3_ENDPOINT_URL") or None,
                aws_access_key_id=environ.get("AWS_ACCESS_KEY_ID") or None,
                aws_secret_access_key=environ.get("AWS_SECRET_ACCESS_KEY") or None,
                aws_session_token=environ.get("AWS_SESSION_TOKEN") or None,
                region_name=environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION") or None,
                verify=False if lax else (environ.get("AWS_CA_BUNDLE") or None),
                config=Config(
                    retries={"mode": "standard", "total_max_attempts": 6},
                    s3={"addressing_style": style},
                    max_pool_connections=32,
                    user_agent_extra="mlflow-proxy",
                ),
            )

    def entries(self, prefix: str) -> Iterator[Entry]:
        with self._said("listed", prefix):
            pages = self.client.get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self.bucket, Prefix=self._prefix + prefix):
                for found in page.get("Contents", ()):
                    name = found["Key"].removeprefix(self._prefix)
                    if not name.endswith("/"):  # a console's folder
                        modified = found["LastModified"].timestamp()
                        yield Entry(name, found["Size"], found["ETag"].strip('"'), "", modified)

    def versioned(self, prefix: str) -> Iterator[Entry]:
        try:
            keeps = self.client.get_bucket_versioning(Bucket=self.bucket).get("Status") == "Enabled"
        except ClientError:
            keeps = False  # not allowed to ask: the list without versions has to do
        if not keeps:
            yield from self.entries(prefix)
            return
        with self._said("listed", prefix):
            pages = self.client.get_paginator("list_object_versions")
            for page in pages.paginate(Bucket=self.bucket, Prefix=self._prefix + prefix):
                for found in page.get("Versions", ()):
                    name = found["Key"].removeprefix(self._prefix)
                    if found["IsLatest"] and not name.endswith("/"):
                        modified, etag = found["LastModified"].timestamp(), found["ETag"].strip('"')
                        yield Entry(name, found["Size"], etag, found["VersionId"], modified)

    def stat(self, name: str) -> Entry | None:
        with self._said("looked at", name):
            try:
                found = self.client.head_object(Bucket=self.bucket, Key=self._prefix + name)
            except ClientError as error:
                if _code(error) in _GONE:
                    return None
                raise
            version = found.get("VersionId") or ""
            etag, modified = found["ETag"].strip('"'), found["LastModified"].timestamp()
            return Entry(name, found["ContentLength"], etag, "" if version == "null" else version, modified)

    def create(self, name: str) -> Sink:
        return _Writing(self, name)

    def remove(self, name: str) -> None:
        with self._said("removed", name):
            self.client.delete_object(Bucket=self.bucket, Key=self._prefix + name)

    def put_new(self, name: str, data: bytes) -> str | None:
        return self._put_if(name, data, IfNoneMatch="*")

    def exchange(self, name: str, data: bytes, etag: str) -> str | None:
        return self._put_if(name, data, IfMatch=etag)

    def _put_if(self, name: str, data: bytes, **condition: str) -> str | None:
        with self._said("written", name):
            try:
                done = self.client.put_object(
                    Bucket=self.bucket, Key=self._prefix + name, Body=data, **condition
                )
            except ClientError as error:
                if _code(error) in (*_TAKEN, *_GONE):
                    return None
                raise
            return str(done["ETag"]).strip('"')

    def get(self, name: str) -> tuple[bytes, str] | None:
        with self._said("read", name):
            try:
                found = self.client.get_object(Bucket=self.bucket, Key=self._prefix + name)
            except ClientError as error:
                if _code(error) in _GONE:
                    return None
                raise
            return found["Body"].read(), found["ETag"].strip('"')

    def tidy(self, prefix: str) -> None:
        with self._said("tidied", prefix):
            pages = self.client.get_paginator("list_multipart_uploads")
            for page in pages.paginate(Bucket=self.bucket, Prefix=self._prefix + prefix):
                for found in page.get("Uploads", ()):
                    self.client.abort_multipart_upload(
                        Bucket=self.bucket, Key=found["Key"], UploadId=found["UploadId"]
                    )

    def _open(self, name: str, offset: int, etag: str) -> Source:
        wanted = {"Range": f"bytes={offset}-"} if offset else {}
        if etag:
            wanted["IfMatch"] = f'"{etag}"'
        with self._said("read", name):
            try:
                found = self.client.get_object(Bucket=self.bucket, Key=self._prefix + name, **wanted)
            except ClientError as error:
                if _code(error) in _TAKEN:
                    raise Replaced(f"{self.text}/{name} was replaced meanwhile") from None
                raise
            return _Reading(self, name, found["Body"], found["ETag"].strip('"'))

    @contextlib.contextmanager
    def _said(self, what: str, name: str) -> Iterator[None]:
        try:
            yield
        except (ClientError, BotoCoreError, HTTPError, OSError, ValueError) as error:
            where = f"{self.text}/{name}".rstrip("/")
            raise self.failed(where, what, _reason(error)) from None


class _Writing(Sink):
    """Small ones are sent whole, larger ones in pieces."""

    def __init__(self, place: S3, name: str) -> None:
        super().__init__()
        self._place = place
        self._name = name
        self._of: dict[str, str] = {"Bucket": place.bucket, "Key": place._prefix + name}
        self._waiting = bytearray()
        self._upload = ""
        self._parts: list[dict[str, Any]] = []

    def write(self, data: bytes, /) -> int:
        self._waiting += data
        while len(self._waiting) >= (size := piece(len(self._parts))):
            taken = bytes(self._waiting[:size])
            del self._waiting[:size]
            self._send(taken)
        return len(data)

    def _send(self, data: bytes) -> None:
        client = self._place.client
        with self._place._said("written", self._name):
            if not self._upload:
                self._upload = client.create_multipart_upload(**self._of)["UploadId"]
            number = len(self._parts) + 1
            done = client.upload_part(**self._of, UploadId=self._upload, PartNumber=number, Body=data)
            self._parts.append({"PartNumber": number, "ETag": done["ETag"]})

    def _finish(self) -> None:
        if self._upload and self._waiting:
            self._send(bytes(self._waiting))
        with self._place._said("written", self._name):
            if self._upload:
                self._place.client.complete_multipart_upload(
                    **self._of, UploadId=self._upload, MultipartUpload={"Parts": self._parts}
                )
            else:
                self._place.client.put_object(**self._of, Body=bytes(self._waiting))

    def _drop(self) -> None:
        if self._upload:
            with self._place._said("tidied", self._name):
                self._place.client.abort_multipart_upload(**self._of, UploadId=self._upload)


class _Reading(Source):
    def __init__(self, place: S3, name: str, body: Any, etag: str) -> None:
        super().__init__(etag)
        self._place = place
        self._name = name
        self._body = body

    def read(self, size: int, /) -> bytes:
        with self._place._said("read", self._name):
            return bytes(self._body.read(size))

    def close(self) -> None:
        self._body.close()


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _reason(error: Exception) -> str:
    if isinstance(error, ClientError):
        told = error.response.get("Error", {})
        said = f"{told.get('Code', '')}: {told.get('Message', '')}".splitlines()[0]
    else:
        said = (str(error).splitlines() or [type(error).__name__])[0]
    code = _code(error) if isinstance(error, ClientError) else type(error).__name__
    return f"{said.rstrip('.')}; {_HINTS[code]}" if code in _HINTS else said
