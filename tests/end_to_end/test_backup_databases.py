"""PostgreSQL and MariaDB under write load: backed up, drilled, restored to another server, and the same."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from end_to_end.backed_up import World, administer, world, written_to
from end_to_end.databases import PASSWORD, Database, MariaDB, PostgreSQL, database
from programs import needs

from proxy.backup import databases, streams
from proxy.backup.databases import scratch
from proxy.settings.database import driver_uri

pytestmark = pytest.mark.slow


@pytest.fixture(
    params=[
        pytest.param(PostgreSQL, marks=needs(*PostgreSQL.programs, "pg_dump", "pg_restore")),
        pytest.param(MariaDB, marks=needs(*MariaDB.programs, "mariadb-dump")),
    ]
)
def servers(request: pytest.FixtureRequest) -> Iterator[tuple[Database, Database]]:
    """One, and a new one, whose database is empty."""
    with database(request.param) as one, database(request.param) as other:
        yield one, other


# The docs' lines for the drill's login (docs/disaster-recovery.md).
_LOGINS = {
    PostgreSQL: "CREATE ROLE drill LOGIN CREATEDB PASSWORD 'drill'",
    MariaDB: "GRANT ALL ON `mlflow\\_drill\\_%`.* TO drill@'%' IDENTIFIED BY 'drill'",
}


def test_what_is_restored_is_what_the_backup_says_of_its_moment(
    servers: tuple[Database, Database], tmp_path: Path
) -> None:
    server, other = servers
    administer(other, _LOGINS[type(server)])
    uri, new = server.uri(), other.uri()
    maintenance = "postgres" if isinstance(server, PostgreSQL) else ""
    lent = f"{server.scheme}://drill:drill@127.0.0.1:{other.port}/{maintenance}"
    made = world(tmp_path / "w", MLFLOW_BACKEND_STORE_URI=uri, PROXY_DRILL_SERVER_URL=lent)
    with written_to(made, driver_uri(uri)):
        made.done("backup")
    (file,) = made.sets.glob("*/manifest.json")
    (tracking,) = [one for one in json.loads(file.read_text())["databases"] if one["role"] == "tracking"]
    tables = {name: databases.Table(**table) for name, table in tracking["tables"].items()}
    assert databases.facts(driver_uri(uri)).tables != tables, "it was written to"

    # A drill that was killed leaves a database, and the next one drops it; one of a drill elsewhere stays.
    killed(made)
    assert len(scratch.named(driver_uri(lent), "mlflow_drill_")) == 1
    lost = "mlflow_drill_20200101000000_3f9a1c_tracking"
    elsewhere = f"mlflow_drill_{time.strftime('%Y%m%d%H%M%S', time.gmtime())}_3f9a1c_tracking"
    for name in (lost, elsewhere):
        scratch.create(driver_uri(lent), name)

    report = made.drill()

    (drilled, _) = report["databases"]
    assert (drilled["kind"], drilled["role"]) == (databases.kind(driver_uri(uri)), "tracking")
    assert report["artifacts_read"] == 10
    assert scratch.named(driver_uri(lent), "mlflow_drill_") == [elsewhere]

    there = world(
        tmp_path / "new",
        MLFLOW_BACKEND_STORE_URI=new,
        PROXY_BACKUP_DESTINATION=made.settings["PROXY_BACKUP_DESTINATION"],
    )
    (there.data / "proxy.db").unlink()
    key = made.settings["PROXY_BACKUP_IDENTITY_FILE"]
    there.done("restore", "--yes", PROXY_BACKUP_IDENTITY_FILE=key)
    assert databases.facts(driver_uri(new)).tables == tables
    # Over what is there, where that is asked for: it is cleared first.
    there.done("restore", "--yes", "--replace-what-is-there", PROXY_BACKUP_IDENTITY_FILE=key)
    assert databases.facts(driver_uri(new)).tables == tables

    # Not encrypted, and changed so that the database refuses it before its end is reached.
    made.done("backup", PROXY_BACKUP_RECIPIENT="")
    part = sorted(made.sets.iterdir())[-1] / "tracking.dump.zst"
    spoil(part)
    told = made.refused("drill")
    assert f"{part} was changed: its digest is not the manifest's" in told
    assert scratch.named(driver_uri(lent), "mlflow_drill_") == [elsewhere]

    for shown in (file.read_text(), json.dumps(made.state()), json.dumps(report)):
        assert PASSWORD not in shown


def spoil(part: Path) -> None:
    """A shorter dump, wrong in its first words, in a file as long as it was."""
    size = part.stat().st_size
    data = streams.unpack(part.read_bytes())
    wrong = data.replace(b"PGDMP", b"PGDXX", 1).replace(b"CREATE TABLE", b"CREATE TABXX", 1)
    frame = streams.pack(wrong[: len(wrong) // 2])
    left = size - len(frame) - 8
    # What zstd's readers pass over.
    part.write_bytes(frame + b"\x50\x2a\x4d\x18" + left.to_bytes(4, "little") + bytes(left))


def killed(made: World) -> None:
    """A drill that is killed when its scratch database has been filled."""
    with subprocess.Popen(
        [sys.executable, "-m", "proxy", "drill"],
        cwd=made.folder,
        env=made.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        said = []
        for line in process.stderr:
            said.append(line)
            if line.startswith("tracking: "):
                break
        else:
            raise AssertionError("".join(said))
        process.kill()
