"""PostgreSQL and MariaDB under write load: backed up, drilled, restored to another place, and the same."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from end_to_end.backed_up import administer, world, written_to
from end_to_end.databases import PASSWORD, Database, MariaDB, PostgreSQL, database
from programs import needs

from proxy.backup import databases
from proxy.backup.databases import scratch
from proxy.settings.database import driver_uri

pytestmark = pytest.mark.slow


@pytest.fixture(
    params=[
        pytest.param(PostgreSQL, marks=needs(*PostgreSQL.programs, "pg_dump", "pg_restore")),
        pytest.param(MariaDB, marks=needs(*MariaDB.programs, "mariadb-dump")),
    ]
)
def server(request: pytest.FixtureRequest) -> Iterator[Database]:
    with database(request.param) as running:
        yield running


def test_what_is_restored_is_what_the_backup_says_of_its_moment(server: Database, tmp_path: Path) -> None:
    if isinstance(server, PostgreSQL):
        administer(server, "ALTER ROLE mlflow CREATEDB")
    else:
        administer(server, "GRANT ALL ON *.* TO mlflow@'%'")
    uri, second = server.uri(), scratch.create(driver_uri(server.uri()), "second")
    made = world(tmp_path / "w", MLFLOW_BACKEND_STORE_URI=uri, PROXY_DRILL_SERVER_URL=uri)
    with written_to(made, driver_uri(uri)):
        made.done("backup")
    (file,) = made.sets.glob("*/manifest.json")
    (tracking,) = [one for one in json.loads(file.read_text())["databases"] if one["role"] == "tracking"]
    tables = {name: databases.Table(**table) for name, table in tracking["tables"].items()}
    assert databases.facts(driver_uri(uri)).tables != tables, "it was written to"

    report = made.drill()

    assert [one["kind"] for one in report["databases"]][:1] == [databases.kind(driver_uri(uri))]
    assert report["artifacts_read"] == 10
    assert scratch.named(driver_uri(uri), "mlflow_drill_") == []
    assert databases.is_empty(second)

    there = world(
        tmp_path / "new",
        MLFLOW_BACKEND_STORE_URI=second,
        PROXY_BACKUP_DESTINATION=made.settings["PROXY_BACKUP_DESTINATION"],
    )
    (there.data / "proxy.db").unlink()
    key = made.settings["PROXY_BACKUP_IDENTITY_FILE"]
    there.done("restore", "--yes", PROXY_BACKUP_IDENTITY_FILE=key)
    assert databases.facts(second).tables == tables
    for shown in (file.read_text(), json.dumps(made.state()), json.dumps(report)):
        assert PASSWORD not in shown
