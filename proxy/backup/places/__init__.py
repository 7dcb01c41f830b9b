"""Where bytes are kept: a directory, S3, Azure Blob Storage, Google Cloud Storage, all used in one way."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from proxy.backup.places.place import Entry, Place, PlaceFailed, Replaced, Sink, Source
from proxy.backup.places.tree import Tree

__all__ = ["Entry", "Place", "PlaceFailed", "Replaced", "Sink", "Source", "open_place"]


def open_place(text: str, environ: Mapping[str, str]) -> Place:
    """The place of that name: a path, s3://, gs:// or wasbs://; keys and addresses come from `environ`.

    Nothing is asked of it yet. Raises UserError where it is no such name or the library is missing.
    """
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]*):(?://)?", text)
    scheme = match[1].lower() if match else "file"
    try:
        if scheme == "s3":
            from proxy.backup.places.s3 import S3

            return S3(text, environ)
        if scheme in ("wasbs", "wasb"):
            from proxy.backup.places.azure import Azure

            return Azure(text, environ)
        if scheme == "gs":
            from proxy.backup.places.google import Google

            return Google(text, environ)
    except ImportError:
        extra = {"s3": "boto3", "gs": "google-cloud-storage"}.get(scheme, "azure-storage-blob azure-identity")
        raise PlaceFailed(f"the package for {scheme}:// is not installed: pip install {extra}") from None
    if scheme != "file":
        raise PlaceFailed(f"{scheme}:// is not known: use a directory, s3://, wasbs:// or gs://")
    path = Path(re.sub(r"^file:(//)?", "", text)).expanduser()
    if not path.is_absolute():
        raise PlaceFailed(f"{text} is not absolute: write the whole path of the directory")
    return Tree(path)
