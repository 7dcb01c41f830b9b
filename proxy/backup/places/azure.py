"""Azure Blob Storage as a place, with the variables that MLflow's own client reads."""

from __future__ import annotations

import base64
import contextlib
import re
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

from azure.core import MatchConditions
from azure.core.exceptions import (
    AzureError,
    ClientAuthenticationError,
    ResourceExistsError,
    ResourceModifiedError,
    ResourceNotFoundError,
)
from azure.storage.blob import BlobBlock, BlobServiceClient

from proxy.backup.places.place import READ, Entry, Place, PlaceFailed, Replaced, Sink, Source, piece

_KEY = (
    "the key is that of AZURE_STORAGE_CONNECTION_STRING or AZURE_STORAGE_ACCESS_KEY; that of the backups may "
    "be another, PROXY_BACKUP_AZURE_CONNECTION_STRING"
)


class Azure(Place):
    """All below one path of a container."""

    def __init__(self, text: str, environ: Mapping[str, str]) -> None:
        super().__init__(text.rstrip("/"))
        match = re.fullmatch(r"wasbs?://([^@/]+)@([^./]+)\.blob\.([^/]+)/?(.*)", text, re.IGNORECASE)
        if match is None:
            raise PlaceFailed(f"{text} is not wasbs://container@account.blob.core.windows.net/path")
        container, account, suffix, path = match.groups()
        self._prefix = path.strip("/") + "/" if path.strip("/") else ""
        with self._said("opened", ""):
            self.client = _service(f"https://{account}.blob.{suffix}", environ).get_container_client(
                container
            )

    def entries(self, prefix: str) -> Iterator[Entry]:
        with self._said("listed", prefix):
            for found in self.client.list_blobs(name_starts_with=self._prefix + prefix):
                yield _entry(found, found.name.removeprefix(self._prefix))

    def versioned(self, prefix: str) -> Iterator[Entry]:
        with self._said("listed", prefix):
            for found in self.client.list_blobs(name_starts_with=self._prefix + prefix, include=["versions"]):
                if found.is_current_version is not False:
                    yield _entry(found, found.name.removeprefix(self._prefix))

    def stat(self, name: str) -> Entry | None:
        with self._said("looked at", name):
            try:
                return _entry(self.blob(name).get_blob_properties(), name)
            except ResourceNotFoundError:
                return None

    def create(self, name: str) -> Sink:
        return _Writing(self, name)

    def remove(self, name: str) -> None:
        with self._said("removed", name), contextlib.suppress(ResourceNotFoundError):
            self.blob(name).delete_blob(delete_snapshots="include")

    def put_new(self, name: str, data: bytes) -> str | None:
        with self._said("written", name):
            try:
                return str(self.blob(name).upload_blob(data, overwrite=False)["etag"])
            except ResourceExistsError:
                return None

    def exchange(self, name: str, data: bytes, etag: str) -> str | None:
        with self._said("written", name):
            try:
                done = self.blob(name).upload_blob(
                    data, overwrite=True, etag=etag, match_condition=MatchConditions.IfNotModified
                )
            except (ResourceModifiedError, ResourceNotFoundError):
                return None
            return str(done["etag"])

    def get(self, name: str) -> tuple[bytes, str] | None:
        with self._said("read", name):
            try:
                found = self.blob(name).download_blob()
            except ResourceNotFoundError:
                return None
            return bytes(found.readall()), str(found.properties.etag)

    def blob(self, name: str) -> Any:
        return self.client.get_blob_client(self._prefix + name)

    def tidy(self, prefix: str) -> None:
        """The store removes by itself, after a week, what was never ended."""

    def _open(self, name: str, offset: int, etag: str) -> Source:
        wanted: dict[str, Any] = {"offset": offset} if offset else {}
        if etag:
            wanted |= {"etag": f'"{etag}"', "match_condition": MatchConditions.IfNotModified}
        with self._said("read", name):
            try:
                return _Reading(self, name, self.blob(name).download_blob(**wanted))
            except ResourceModifiedError:
                raise Replaced(f"{self.text}/{name} was replaced meanwhile") from None

    @contextlib.contextmanager
    def _said(self, what: str, name: str) -> Iterator[None]:
        try:
            yield
        except (AzureError, OSError, ValueError) as error:
            where = f"{self.text}/{name}".rstrip("/")
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            if isinstance(error, ClientAuthenticationError | ValueError):
                reason = f"{reason.rstrip('.')}; {_KEY}"
            raise self.failed(where, what, reason) from None


class _Writing(Sink):
    """In blocks, which are no blob until they are all named. Those of a broken-off one go after a week."""

    def __init__(self, place: Azure, name: str) -> None:
        super().__init__()
        self._place = place
        self._name = name
        self._blob = place.blob(name)
        self._waiting = bytearray()
        self._blocks: list[BlobBlock] = []

    def write(self, data: bytes, /) -> int:
        self._waiting += data
        while len(self._waiting) >= (size := piece(len(self._blocks))):
            taken = bytes(self._waiting[:size])
            del self._waiting[:size]
            self._send(taken)
        return len(data)

    def _send(self, data: bytes) -> None:
        with self._place._said("written", self._name):
            block = base64.b64encode(uuid.uuid4().bytes).decode()
            self._blob.stage_block(block, data, length=len(data))
            self._blocks.append(BlobBlock(block_id=block))

    def _finish(self) -> None:
        if self._waiting:
            self._send(bytes(self._waiting))
        with self._place._said("written", self._name):
            self._blob.commit_block_list(self._blocks)

    def _drop(self) -> None:
        self._waiting.clear()


class _Reading(Source):
    def __init__(self, place: Azure, name: str, stream: Any) -> None:
        super().__init__(_bare(stream.properties.etag))
        self._place = place
        self._name = name
        self._stream = stream

    def read(self, size: int, /) -> bytes:
        with self._place._said("read", self._name):
            return bytes(self._stream.read(size))

    def close(self) -> None:
        pass


def _service(url: str, environ: Mapping[str, str]) -> BlobServiceClient:
    # Pieces of what is read, and no more of it, are in memory.
    limits: dict[str, Any] = {"max_single_get_size": 4 * READ, "max_chunk_get_size": 4 * READ}
    if text := environ.get("AZURE_STORAGE_CONNECTION_STRING"):
        return BlobServiceClient.from_connection_string(text, **limits)
    if key := environ.get("AZURE_STORAGE_ACCESS_KEY"):
        return BlobServiceClient(url, credential=key, **limits)
    from azure.identity import DefaultAzureCredential

    return BlobServiceClient(url, credential=DefaultAzureCredential(), **limits)


def _entry(found: Any, name: str) -> Entry:
    modified = found.last_modified.timestamp()
    return Entry(name, int(found.size), _bare(found.etag), str(found.version_id or ""), modified)


def _bare(etag: Any) -> str:
    """A list has it without the quotes that all else has it in."""
    return str(etag).strip('"')
