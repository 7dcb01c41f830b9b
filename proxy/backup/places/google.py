"""Google Cloud Storage as a place, with the variables that MLflow's own client reads."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from google.api_core.exceptions import GoogleAPIError, NotFound, PreconditionFailed
from google.auth.exceptions import GoogleAuthError
from google.cloud import storage
from requests.exceptions import RequestException

from proxy.backup.places.place import PIECE, READ, Entry, Place, PlaceFailed, Replaced, Sink, Source

_AHEAD = 8 * READ
_KEY = (
    "the key is in the file that GOOGLE_APPLICATION_CREDENTIALS names; that of the backups may be in "
    "another, PROXY_BACKUP_GOOGLE_CREDENTIALS"
)


class Google(Place):
    """All below one path of a bucket."""

    def __init__(self, text: str, environ: Mapping[str, str]) -> None:
        super().__init__(text.rstrip("/"))
        bucket, _, path = text.split("://", 1)[-1].partition("/")
        self._prefix = path.strip("/") + "/" if path.strip("/") else ""
        if not bucket:
            raise PlaceFailed(f"{text} names no bucket: gs://bucket/path")
        with self._said("opened", ""):
            key = environ.get("GOOGLE_APPLICATION_CREDENTIALS")
            client = storage.Client.from_service_account_json(key) if key else storage.Client()
            self.bucket: Any = client.bucket(bucket)

    def entries(self, prefix: str) -> Iterator[Entry]:
        with self._said("listed", prefix):
            for found in self.bucket.list_blobs(prefix=self._prefix + prefix):
                if not found.name.endswith("/"):
                    yield _entry(found, found.name.removeprefix(self._prefix))

    def stat(self, name: str) -> Entry | None:
        with self._said("looked at", name):
            found = self.bucket.get_blob(self._prefix + name)
            return None if found is None else _entry(found, name)

    def create(self, name: str) -> Sink:
        return _Writing(self, name)

    def remove(self, name: str) -> None:
        with self._said("removed", name), contextlib.suppress(NotFound):
            self.blob(name).delete()

    def put_new(self, name: str, data: bytes) -> str | None:
        return self._put_if(name, data, 0)

    def exchange(self, name: str, data: bytes, etag: str) -> str | None:
        return self._put_if(name, data, int(etag))

    def _put_if(self, name: str, data: bytes, generation: int) -> str | None:
        with self._said("written", name):
            blob = self.blob(name)
            try:
                blob.upload_from_string(data, if_generation_match=generation)
            except (PreconditionFailed, NotFound):
                return None
            return str(blob.generation)

    def get(self, name: str) -> tuple[bytes, str] | None:
        with self._said("read", name):
            found = self.bucket.get_blob(self._prefix + name)
            if found is None:
                return None
            try:
                return found.download_as_bytes(if_generation_match=found.generation), str(found.generation)
            except (NotFound, PreconditionFailed):
                return None

    def blob(self, name: str) -> Any:
        return self.bucket.blob(self._prefix + name)

    def tidy(self, prefix: str) -> None:
        """The store removes by itself, after a week, what was never ended."""

    def _open(self, name: str, offset: int, etag: str) -> Source:
        with self._said("read", name):
            found = self.bucket.get_blob(self._prefix + name)
            if found is None:
                raise PlaceFailed(f"{self.text}/{name} is not there")
            if etag and str(found.generation) != etag:
                raise Replaced(f"{self.text}/{name} was replaced meanwhile")
            return _Reading(self, name, found, offset)

    @contextlib.contextmanager
    def _said(self, what: str, name: str) -> Iterator[None]:
        try:
            yield
        except (GoogleAPIError, GoogleAuthError, RequestException, OSError, ValueError) as error:
            where = f"{self.text}/{name}".rstrip("/")
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            if isinstance(error, GoogleAuthError | FileNotFoundError | PermissionError):
                reason = f"{reason.rstrip('.')}; {_KEY}"
            raise self.failed(where, what, reason) from None


class _Writing(Sink):
    """A resumable upload, which is no object until it is ended; a broken-off one goes after a week."""

    def __init__(self, place: Google, name: str) -> None:
        super().__init__()
        self._place = place
        self._name = name
        self._writer = place.blob(name).open("wb", chunk_size=PIECE, ignore_flush=True)

    def write(self, data: bytes, /) -> int:
        with self._place._said("written", self._name):
            return int(self._writer.write(data))

    def _finish(self) -> None:
        with self._place._said("written", self._name):
            self._writer.close()

    def _drop(self) -> None:
        # Not close(): that would end the upload as if it were whole.
        with self._place._said("tidied", self._name):
            self._writer.terminate()


class _Reading(Source):
    """By ranges, of one generation."""

    def __init__(self, place: Google, name: str, blob: Any, offset: int) -> None:
        super().__init__(str(blob.generation))
        self._place = place
        self._name = name
        self._blob = blob
        self._at = offset
        self._ahead = b""

    def read(self, size: int, /) -> bytes:
        if not self._ahead and self._at < self._blob.size:
            with self._place._said("read", self._name):
                self._ahead = self._blob.download_as_bytes(
                    start=self._at, end=self._at + _AHEAD - 1, if_generation_match=self._blob.generation
                )
            self._at += len(self._ahead)
        taken, self._ahead = self._ahead[:size], self._ahead[size:]
        return taken

    def close(self) -> None:
        self._ahead = b""


def _entry(found: Any, name: str) -> Entry:
    return Entry(
        name, int(found.size), str(found.generation), str(found.generation), found.updated.timestamp()
    )
