"""Back up, destroy, restore: the same bytes; and everything that must be refused."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg2
import pytest
import sqlalchemy as sa
from backup_days import KNOWN, load_days, train

from evergreen import databases, lake, steps
from evergreen.cli import main
from evergreen.errors import BusyError, ConfigError, DamagedError, NotReadyError, PermanentError
from evergreen.lake import iceberg, upkeep
from evergreen.ops.backup import make, manifest, pg_dump
from evergreen.ops.backup.make import back_up, prune
from evergreen.ops.backup.manifest import Manifest
from evergreen.ops.backup.restore import restore
from evergreen.ops.local import postgres
from evergreen.provenance import receipts
from evergreen.release import ledger, ledger_table
from evergreen.settings import DATABASES, Settings, load_settings

pytestmark = pytest.mark.timeout(300)

DAY = date(2026, 1, 1)


def content(namespace: str) -> dict[str, str]:
    """Digest of the sorted rows of each table."""
    digests = {}
    for table in lake.tables(namespace):
        found = sorted(
            json.dumps(row, default=str) for row in lake.read(namespace, table).to_pylist()
        )
        digests[table] = hashlib.sha256("\n".join(found).encode()).hexdigest()
    return digests


def sql_content(settings: Settings) -> dict[str, str]:
    """Digest of the sorted rows of every table of every database, by `database.table`."""
    found: dict[str, str] = {}
    for name in DATABASES:
        engine = sa.create_engine(settings.database_url(name))
        with engine.connect() as connection:
            for table in sa.inspect(connection).get_table_names():
                rows = connection.execute(sa.text(f'SELECT t::text FROM "{table}" AS t')).scalars()
                digest = hashlib.sha256("\n".join(sorted(rows)).encode()).hexdigest()
                found[f"{name}.{table}"] = digest
        engine.dispose()
    return found


def file_content(root: Path) -> dict[str, str]:
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def destroy(settings: Settings) -> None:
    for name in DATABASES:
        engine = sa.create_engine(settings.database_url(name))
        with engine.begin() as connection:
            connection.execute(sa.text("DROP SCHEMA public CASCADE"))
            connection.execute(sa.text("CREATE SCHEMA public"))
        engine.dispose()
    for tree in (settings.warehouse, settings.artifacts, settings.home / "airflow"):
        shutil.rmtree(tree, ignore_errors=True)


def publish(value: int, day: date = DAY) -> int:
    import pyarrow as pa

    rows = pa.table({"value": [value], "day": pa.array([day], pa.date32())})
    return lake.publish("shop", "orders", rows, [day]).snapshot_id


@pytest.fixture
def small(home: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """One table with one row; Airflow's database is the ledger's, as on a shared server."""
    monkeypatch.setenv("EVERGREEN_AIRFLOW_URL", home.database_url("ledger"))
    lake.catalog(home).create_tables()
    receipts.create_tables()
    ledger_table.create_tables(ledger.engine(home))
    publish(1)
    artifacts = Path(home.artifacts)
    artifacts.mkdir(parents=True)
    (artifacts / "model.json").write_text("{}")
    return load_settings()


@pytest.mark.slow
def test_what_was_destroyed_comes_back_the_same_and_work_goes_on(
    shop: Settings, tmp_path: Path
) -> None:
    promoted = train(KNOWN)
    old = lake.snapshot_id("shop", "orders")
    assert old is not None
    old_rows = lake.read("shop", "orders", snapshot_id=old).num_rows
    load_days(str(KNOWN + timedelta(days=1)))
    before = (content("shop"), sql_content(shop))
    models = file_content(Path(shop.artifacts))
    assert len(before[0]) >= 5 and models
    assert {"airflow.dag_run", "ledger.receipts", "mlflow.runs", "feast.projects"} <= set(before[1])

    report = back_up(tmp_path / "safe")
    destroy(shop)
    assert sql_content(shop) == {} and not Path(shop.warehouse).exists()
    restored = restore(tmp_path / "safe")

    assert restored.rows == report.rows
    assert (content("shop"), sql_content(shop)) == before
    assert file_content(Path(shop.artifacts)) == models
    assert json.loads((shop.home / "airflow" / "secrets.json").read_text())
    assert ledger.verify(ledger.engine(), "shop") == ()
    champion = ledger.champion(ledger.engine(), "shop")
    assert champion is not None and champion.version == promoted["version"]
    # Back in time, by snapshot.
    past = lake.read("shop", "orders", snapshot_id=old)
    assert past.num_rows == old_rows < lake.read("shop", "orders").num_rows

    load_days(str(KNOWN + timedelta(days=2)))
    resolved = steps.resolve_model("shop", str(KNOWN + timedelta(days=2)))
    steps.publish_predictions(steps.validate_predictions(steps.score_customers(resolved)))
    assert KNOWN + timedelta(days=2) in lake.partitions("shop", "predictions")
    # A restored database can be saved and restored in its turn.
    again = content("shop")
    back_up(tmp_path / "again")
    restore(tmp_path / "again", force=True)
    assert content("shop") == again


def test_a_lost_file_is_asked_for_until_its_day_is_made_again(
    small: Settings, tmp_path: Path
) -> None:
    first = lake.snapshot_id("shop", "orders")
    (path,) = lake.scan("shop", "orders").paths
    Path(path).unlink()
    with pytest.raises(DamagedError, match=rf"shop.orders of {DAY} cannot be read.*is missing"):
        back_up(tmp_path / "safe")
    publish(3)
    # The snapshot before still refers to it.
    report = back_up(tmp_path / "safe")
    assert report.left_out == ["1 files that only older snapshots had: they are missing"]
    soon = datetime.now(UTC) + timedelta(seconds=1)
    upkeep.remove_orphan_files("shop", "orders", soon)
    destroy(small)
    restore(tmp_path / "safe")
    assert lake.read("shop", "orders")["value"].to_pylist() == [3]
    with pytest.raises(DamagedError, match="is missing"):
        lake.read("shop", "orders", snapshot_id=first)


@pytest.mark.parametrize("relative", [False, True])
def test_places_with_odd_names_come_back(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, relative: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("WAREHOUSE", "ARTIFACTS"):
        place = tmp_path / f"50% of {name}%20#1?x=[ä]*"
        monkeypatch.setenv(f"EVERGREEN_{name}", place.name + "/" if relative else str(place))
    settings: Settings = request.getfixturevalue("small")
    before = (content("shop"), file_content(Path(settings.artifacts)))
    back_up(tmp_path / "safe")
    destroy(settings)
    restore(tmp_path / "safe")
    assert (content("shop"), file_content(Path(settings.artifacts))) == before
    assert len(before[1]) == 1 and settings.warehouse.startswith(str(tmp_path))
    publish(2)
    assert lake.read("shop", "orders")["value"].to_pylist() == [2]


def test_a_home_that_is_gone_comes_back_with_its_own_postgres(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the commands, and with nothing left of the data directory."""

    def run(*arguments: str) -> int:
        monkeypatch.setattr("sys.argv", ["evergreen", *arguments])
        try:
            main()
        except SystemExit as end:
            return int(end.code or 0)
        return 0

    settings = load_settings()
    safe = str(tmp_path / "safe")
    try:
        postgres.start(settings)
        lake.catalog(settings).create_tables()
        receipts.create_tables()
        ledger_table.create_tables(ledger.engine(settings))
        publish(5)
        assert run("backup", safe) == 0
        assert f"evergreen restore {safe}" in capsys.readouterr().out
        postgres.stop(settings)
        shutil.rmtree(settings.home)
        iceberg._catalog.cache_clear()
        databases._ledger_engine.cache_clear()
        assert run("restore", safe) == 0
        assert "1 tables with 1 rows" in capsys.readouterr().out
        # Nobody had started it, so it does not stay.
        assert not postgres.running(settings)
        postgres.start(settings)
        iceberg._catalog.cache_clear()
        assert lake.read("shop", "orders")["value"].to_pylist() == [5]
        assert run("restore", safe) == 1
        assert "add --force" in capsys.readouterr().err
    finally:
        postgres.stop(settings)
        iceberg._catalog.cache_clear()


def test_every_snapshot_that_was_there_can_be_read_after_a_restore(
    small: Settings, tmp_path: Path
) -> None:
    snapshots = {publish(value): value for value in (2, 3, 4)}
    back_up(tmp_path / "safe")
    destroy(small)
    restore(tmp_path / "safe")
    for snapshot, value in snapshots.items():
        found = lake.read("shop", "orders", snapshot_id=snapshot)
        assert found["value"].to_pylist() == [value]


def test_a_restore_is_the_backup_and_nothing_else(small: Settings, tmp_path: Path) -> None:
    back_up(tmp_path / "safe")
    files = file_content(Path(small.warehouse))
    publish(2)
    publish(7, DAY + timedelta(days=1))
    (Path(small.artifacts) / "model.json").write_text('{"changed": true}')
    engine = sa.create_engine(small.database_url("mlflow"))
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE made_later (x INT)"))
    engine.dispose()
    restore(tmp_path / "safe", force=True)
    assert lake.read("shop", "orders")["value"].to_pylist() == [1]
    assert file_content(Path(small.warehouse)) == files
    assert (Path(small.artifacts) / "model.json").read_text() == "{}"
    assert "mlflow.made_later" not in sql_content(small)


def test_a_second_backup_costs_what_is_new_and_needs_neither_the_first_nor_the_home(
    small: Settings, tmp_path: Path
) -> None:
    back_up(tmp_path / "backups" / "one")
    publish(2, DAY + timedelta(days=1))
    second = back_up(tmp_path / "backups" / "two")
    name = "artifacts/model.json"
    one, two = (tmp_path / "backups" / which / name for which in ("one", "two"))
    assert one.samefile(two) and not one.samefile(Path(small.artifacts) / "model.json")
    known, listed = (
        json.loads((tmp_path / "backups" / which / "files.json").read_text())
        for which in ("one", "two")
    )
    fresh = [name for name in listed if name not in known or name.startswith("sql/")]
    assert second.new_bytes == sum(listed[name][0] for name in fresh) < second.bytes
    assert sum(name.startswith("sql/") for name in fresh) == 5
    shutil.rmtree(tmp_path / "backups" / "one")
    destroy(small)
    restore(tmp_path / "backups" / "two")
    assert sorted(lake.read("shop", "orders")["value"].to_pylist()) == [1, 2]


def test_a_disk_without_links_gets_copies(
    small: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr("evergreen.ops.backup.files.os.link", refuse)
    back_up(tmp_path / "safe")
    (stored,) = (tmp_path / "safe" / "warehouse").rglob("*.parquet")
    assert stored.stat().st_nlink == 1
    destroy(small)
    restore(tmp_path / "safe")
    assert lake.read("shop", "orders")["value"].to_pylist() == [1]


def test_the_oldest_backups_go(
    small: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("EVERGREEN_BACKUPS", str(tmp_path / "weekly"))
    (tmp_path / "weekly" / "2020.partial" / "sql").mkdir(parents=True)
    (tmp_path / "weekly" / "not-ours").mkdir()
    names = iter(["a", "b", "c"])
    monkeypatch.setattr(make, "new_directory", lambda settings: settings.backups / next(names))
    instants = iter(range(1, 99))

    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime(2026, 1, next(instants), tzinfo=UTC)

    monkeypatch.setattr(make, "datetime", Clock)
    for _ in range(3):
        steps.back_up("2")
    assert sorted(path.name for path in (tmp_path / "weekly").iterdir()) == ["b", "c", "not-ours"]
    restore(tmp_path / "weekly" / "b", force=True)


# --- refused -------------------------------------------------------------------------------------


def test_data_are_not_overwritten_unless_that_is_meant(small: Settings, tmp_path: Path) -> None:
    back_up(tmp_path / "safe")
    publish(2)
    with pytest.raises(ConfigError, match=r"data in catalog.*--force"):
        restore(tmp_path / "safe")
    assert lake.read("shop", "orders")["value"].to_pylist() == [2]


def test_another_place_is_refused_and_the_original_named(
    small: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    back_up(tmp_path / "safe")
    destroy(small)
    monkeypatch.setenv("EVERGREEN_HOME", str(tmp_path / "elsewhere"))
    with pytest.raises(ConfigError, match=f"EVERGREEN_WAREHOUSE={small.warehouse}"):
        restore(tmp_path / "safe")
    # The data directory may be another, if the files go where they were.
    monkeypatch.setenv("EVERGREEN_WAREHOUSE", small.warehouse)
    monkeypatch.setenv("EVERGREEN_ARTIFACTS", small.artifacts)
    restore(tmp_path / "safe")
    assert lake.read("shop", "orders")["value"].to_pylist() == [1]


def test_a_running_airflow_is_refused(
    small: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from evergreen.ops.local import airflow_processes

    back_up(tmp_path / "safe")
    environment = {**os.environ, **airflow_processes.mark(small)}
    with subprocess.Popen(["sleep", "60"], env=environment) as scheduler:
        with pytest.raises(NotReadyError, match="make down"):
            restore(tmp_path / "safe", force=True)
        scheduler.kill()


def test_an_airflow_on_another_machine_is_refused(small: Settings, tmp_path: Path) -> None:
    engine = sa.create_engine(small.database_url("airflow"))
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE job (state TEXT, latest_heartbeat TIMESTAMPTZ)"))
        connection.execute(sa.text("INSERT INTO job VALUES ('running', now())"))
    back_up(tmp_path / "safe")
    with pytest.raises(NotReadyError, match="Stop it wherever it runs"):
        restore(tmp_path / "safe", force=True)
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE job SET latest_heartbeat = now() - interval '2 min'"))
    engine.dispose()
    restore(tmp_path / "safe", force=True)


def test_what_is_kept_elsewhere_is_said(
    small: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVERGREEN_ARTIFACTS", "s3://models")
    assert back_up(tmp_path / "safe").left_out == [
        "the models and plots in s3://models: an object store keeps its own"
    ]
    monkeypatch.setenv("EVERGREEN_ARTIFACTS", str(tmp_path / "none"))
    monkeypatch.setenv("EVERGREEN_TRACKING_URL", "http://mlflow:5000")
    assert "http://mlflow:5000" in back_up(tmp_path / "other").left_out[0]


def test_a_database_in_use_is_refused(
    small: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    back_up(tmp_path / "safe")
    monkeypatch.setattr(pg_dump, "_LOCK_TIMEOUT", "200ms")
    engine = sa.create_engine(small.database_url("catalog"))
    with engine.connect() as connection:
        connection.execute(sa.text("SELECT * FROM iceberg_tables"))
        with pytest.raises(BusyError, match="Another program uses"):
            restore(tmp_path / "safe", force=True)
    engine.dispose()
    # Interrupted like that, it goes on without being forced; and until then no backup is made.
    with pytest.raises(ConfigError, match=r"restore into .* was interrupted"):
        back_up(tmp_path / "mixture")
    restore(tmp_path / "safe")
    back_up(tmp_path / "whole")


@pytest.mark.parametrize(
    "harm",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(b"x" * path.stat().st_size),
        lambda path: path.unlink(),
    ],
)
@pytest.mark.parametrize("what", ["sql/ledger.dump", "warehouse/**/*.parquet", "files.json"])
def test_damage_is_found_before_anything_is_touched(
    small: Settings, tmp_path: Path, what: str, harm: Callable[[Path], Any]
) -> None:
    back_up(tmp_path / "safe")
    (victim,) = (tmp_path / "safe").glob(what)
    # Not through the hard link into the live warehouse.
    whole = victim.read_bytes()
    victim.unlink()
    victim.write_bytes(whole)
    harm(victim)
    publish(2)
    with pytest.raises(PermanentError, match=victim.name):
        restore(tmp_path / "safe", force=True)
    assert lake.read("shop", "orders")["value"].to_pylist() == [2]


def test_what_is_no_backup_is_refused(small: Settings, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("empty", "nothing"):
        with pytest.raises(ConfigError, match="no complete backup"):
            restore(tmp_path / name, force=True)
    with pytest.raises(ConfigError, match="exists"):
        back_up(tmp_path / "empty")
    with pytest.raises(ConfigError, match="lies inside"):
        back_up(Path(small.warehouse) / "inside")


def test_a_newer_server_is_refused(
    small: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pg_dump, "server_version", lambda url: 99)
    with pytest.raises(ConfigError, match="Postgres 99"):
        back_up(tmp_path / "safe")
    assert not (tmp_path / "safe").exists()


def test_passwords_stay_off_the_command_line() -> None:
    dsn, password = pg_dump._connection("postgresql+asyncpg://u:s%40cret@h:6543/d?sslmode=require")
    assert password == "s@cret"
    assert "cret" not in dsn
    parsed = psycopg2.extensions.parse_dsn(dsn)
    assert parsed == {
        "host": "h", "port": "6543", "dbname": "d", "user": "u", "sslmode": "require"
    }  # fmt: skip


# --- interrupted ---------------------------------------------------------------------------------

_KILLED = """
import os, signal, sys
from pathlib import Path
from evergreen.ops.backup import {module} as module, files, pg_dump, manifest
count = 0
def counted(function):
    def wrapper(*arguments, **keywords):
        global count
        count += 1
        if count == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **keywords)
    return wrapper
for owner, name in {points}:
    setattr(owner, name, counted(getattr(owner, name)))
module.{call}
"""
_BACKUP_POINTS = "[(pg_dump, 'dump'), (files.Collector, 'place'), (manifest, 'write')]"
_RESTORE_POINTS = "[(pg_dump, 'load'), (files.shutil, 'copy2'), (module, '_remove_other_files')]"


def run_killed(module: str, points: str, call: str, directory: Path, at: int) -> bool:
    """Run in a process of its own; whether it was killed."""
    script = _KILLED.format(module=module, points=points, call=call)
    done = subprocess.run(
        [sys.executable, "-c", script, str(directory), str(at)], capture_output=True, text=True
    )
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode != 0


@pytest.mark.slow
def test_a_killed_backup_never_looks_whole(small: Settings, tmp_path: Path) -> None:
    target = tmp_path / "safe"
    call = "back_up(Path(sys.argv[1]))"
    for at in (1, 4, 6, 9, 12, 99):
        if not run_killed("make", _BACKUP_POINTS, call, target, at):
            break
        assert not target.exists()
        for place in (target, target.with_name("safe.partial")):
            with pytest.raises(ConfigError, match="no complete backup"):
                restore(place, force=True)
    else:
        pytest.fail("no backup came to its end")
    assert at > 9
    assert not target.with_name("safe.partial").exists()
    destroy(small)
    restore(target)
    assert lake.read("shop", "orders")["value"].to_pylist() == [1]


@pytest.mark.slow
def test_a_killed_restore_is_repeated_without_force(small: Settings, tmp_path: Path) -> None:
    snapshot = publish(2)
    back_up(tmp_path / "safe")
    expected = sql_content(small)
    destroy(small)
    call = "restore(Path(sys.argv[1]))"
    kills = 0
    for at in (2, 5, 7, 9, 11, 13, 99):
        if not run_killed("restore", _RESTORE_POINTS, call, tmp_path / "safe", at):
            break
        kills += 1
    assert kills >= 3
    assert sql_content(small) == expected
    assert lake.snapshot_id("shop", "orders") == snapshot
    assert not (small.home / make.UNFINISHED_RESTORE).exists()
    assert lake.read("shop", "orders")["value"].to_pylist() == [2]


# --- beside other work ---------------------------------------------------------------------------


@pytest.mark.slow
def test_a_backup_beside_publishing_steps_is_one_consistent_state(
    small: Settings, tmp_path: Path
) -> None:
    """More commits pass during the backup than a table keeps old metadata files for."""
    done = threading.Event()
    values: list[int] = []

    def keep_publishing() -> None:
        while not done.is_set() and len(values) < 400:
            values.append(publish(100 + len(values)))

    writer = threading.Thread(target=keep_publishing)
    writer.start()
    while len(values) < 25:
        time.sleep(0.01)
    back_up(tmp_path / "safe")
    done.set()
    writer.join()
    destroy(small)
    restore(tmp_path / "safe")
    table = manifest.read(tmp_path / "safe").tables["shop.orders"]
    current = lake.snapshot_id("shop", "orders")
    assert current == table["snapshot"] in values
    assert lake.read("shop", "orders")["value"].to_pylist() == [100 + values.index(current)]


@pytest.mark.slow
def test_a_catalog_whose_metadata_went_away_is_dumped_again(
    small: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dump = pg_dump.dump
    dumped = []

    def dump_slowly(url: str, target: Path, state: str | None = None) -> None:
        dump(url, target, state)
        if state is not None:
            dumped.append(target)
            for value in range(25 if len(dumped) == 1 else 0):
                publish(value)

    monkeypatch.setattr(pg_dump, "dump", dump_slowly)
    back_up(tmp_path / "safe")
    assert len(dumped) == 2
    destroy(small)
    restore(tmp_path / "safe")
    assert lake.read("shop", "orders")["value"].to_pylist() == [24]


def test_upkeep_waits_for_a_backup(small: Settings, tmp_path: Path) -> None:
    with upkeep.exclusive(small):
        thread_report: list[Manifest] = []
        thread = threading.Thread(target=lambda: thread_report.append(back_up(tmp_path / "safe")))
        thread.start()
        thread.join(timeout=1)
        assert thread.is_alive() and not list(tmp_path.glob("safe*"))
    thread.join()
    assert len(thread_report[0].tables) == 1


def test_pruning_keeps_what_was_asked_for(small: Settings) -> None:
    for name in ("one", "two"):
        back_up(small.backups / name)
    prune(small.backups, 1)
    assert manifest.complete_in(small.backups) == [small.backups / "two"]
