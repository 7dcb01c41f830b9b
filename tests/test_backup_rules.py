"""The lifecycle, replication and access rules of ops/storage: taken by a server, and named in the docs."""

from __future__ import annotations

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
RULES = ROOT / "ops" / "storage"
DOCS = (ROOT / "docs" / "disaster-recovery.md").read_text()


def read(name: str) -> dict[str, object]:
    found = json.loads((RULES / name).read_text())
    assert isinstance(found, dict)
    return found


def test_every_file_is_named_in_the_docs_and_the_other_way_round() -> None:
    named = set(re.findall(r"ops/storage/([\w-]+\.json)", DOCS))
    files = {path.name for path in RULES.iterdir()}
    assert named <= files
    assert {name for name in files - named if not name.endswith("-lifecycle-backups.json")} == set()
    for name in files:
        read(name)


def test_backups_go_sooner_than_artifacts_and_broken_off_uploads_too() -> None:
    for store, days in (("s3", "NoncurrentDays"), ("gcs", "daysSinceNoncurrentTime"), ("azure", "Than")):
        texts = {
            what: (RULES / f"{store}-lifecycle-{what}.json").read_text() for what in ("artifacts", "backups")
        }
        for what, number in (("artifacts", 90), ("backups", 30)):
            assert re.search(rf'{days}": {number}\b', texts[what]), (store, what)
            assert store == "azure" or "AbortIncompleteMultipartUpload" in texts[what]
