"""Put a backup back: everything is checked before anything is touched; safe to repeat.

Files come first, then the databases in the opposite order of the backup, so that whatever refers
to something finds it. Whoever was erased since the backup is erased again before the end.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import get_args

import sqlalchemy as sa

from evergreen import lake
from evergreen.erasure import run
from evergreen.errors import ConfigError, NotReadyError, PermanentError
from evergreen.lake import upkeep
from evergreen.ops.backup import files, manifest, pg_dump
from evergreen.ops.backup.make import UNFINISHED_RESTORE
from evergreen.ops.backup.manifest import Manifest
from evergreen.ops.local import airflow_processes, home, postgres
from evergreen.provenance import erased
from evergreen.release import ledger, ledger_table
from evergreen.settings import (
    CATALOG_ELSEWHERE,
    Database,
    Settings,
    is_catalog_elsewhere,
    load_settings,
)

logger = logging.getLogger(__name__)

_ORDER: tuple[Database, ...] = ("catalog", "mlflow", "feast", "ledger", "airflow")
assert set(_ORDER) == set(get_args(Database))


def restore(directory: Path, *, force: bool = False, settings: Settings | None = None) -> Manifest:
    """Replace databases, warehouse and artifacts by those of a backup.

    Starts the embedded Postgres if it is needed and does not run, and stops it again.

    Parameters
    ----------
    directory
        A complete backup; not modified.
    force
        Whether data that are there may be replaced. A restore of this backup that was interrupted
        goes on without it.

    Raises
    ------
    ConfigError
        No complete backup; made for another place; data are there and `force` is not given.
    NotReadyError
        Airflow runs.
    PermanentError
        A file of the backup is damaged; nothing was changed.
    BusyError
        Another command is at work on the data directory, another program uses a database, or
        upkeep runs.
    """
    settings = settings or load_settings()
    with home.claimed(settings):
        return _restore(directory.expanduser().absolute(), settings, force=force)


def _restore(directory: Path, settings: Settings, *, force: bool) -> Manifest:
    record = manifest.read(directory)
    _require_same_place(record, settings)
    if running := airflow_processes.owned(settings):
        raise NotReadyError(
            f"Airflow runs on {settings.home} ({len(running)} processes). Stop it with `make down`."
        )
    entries = files.verify(directory, record.listing)
    with postgres.embedded_postgres(settings):
        mark = _put_back(directory, record, entries, settings, force=force)
        # Upkeep's lock is free again: an erasure takes it itself.
        lost = run.erase_again(settings, logger.info)
        mark.unlink()
    if lost:
        listed = "; ".join(
            f"{one.use_case}, asked for by {one.actor}: {one.reason}" for one in lost
        )
        raise PermanentError(
            f"The state of {record.made_at} is restored, and brought back {len(lost)} erased "
            f"entities that could not all be erased again ({listed}). Their rows are not ingested. "
            "Before anything else, run `evergreen erase` for each of them."
        )
    return record


def _put_back(
    directory: Path,
    record: Manifest,
    entries: Mapping[str, files.Entry],
    settings: Settings,
    *,
    force: bool,
) -> Path:
    """Replace files and databases; return the mark of a restore that is not finished."""
    with upkeep.exclusive(settings):
        if pg_dump.airflow_is_alive(settings.database_url("airflow")):
            raise NotReadyError(
                "Airflow has signed its database less than a minute ago. Stop it wherever it runs, "
                "wait a minute, and run the same command again."
            )
        mark = settings.home / UNFINISHED_RESTORE
        resumed = mark.is_file() and mark.read_text() == record.listing
        if not force and not resumed:
            _require_empty(record, settings)
        # After that: opening the catalog creates its tables.
        _require_remote(record)
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.write_text(record.listing)
        os.sync()
        _put_files_back(directory, entries, settings)
        # What the present ledger knows of erasures, the restored one may not.
        erased.save_known(settings)
        for name in filter(record.databases.__contains__, _ORDER):
            dump = directory / "sql" / f"{name}.dump"
            pg_dump.load(dump, settings.database_url(name), record.databases[name])
        _remove_other_files(entries, settings)
        _require_restored(record, settings)
    return mark


def _require_same_place(record: Manifest, settings: Settings) -> None:
    is_ours = "catalog" in record.databases
    if is_ours == is_catalog_elsewhere():
        found = (
            "This backup holds the catalog of its tables, and here another is declared. Unset"
            if is_ours
            else "The tables of this backup are in a catalog elsewhere, and here is none. Set"
        )
        raise ConfigError(f"{found} the variables {CATALOG_ELSEWHERE}… and run this again.")
    here = {"WAREHOUSE": settings.warehouse} if is_ours else {}
    here["ARTIFACTS"] = settings.artifacts
    there = {"WAREHOUSE": record.warehouse, "ARTIFACTS": record.artifacts}
    moved = [name for name in here if here[name] != there[name]]
    if moved:
        differences = "; ".join(f"{name.lower()}: {there[name]}" for name in moved)
        commands = " ".join(f"EVERGREEN_{name}={there[name]}" for name in moved)
        raise ConfigError(
            f"This backup was made of {differences}. Tables and models name their files by these "
            f"absolute locations, so they can only be restored there. Set {commands} (the data "
            "directory itself may be another), or use the original EVERGREEN_HOME."
        )


def _require_remote(record: Manifest) -> None:
    missing = upkeep.missing_files(record.remote)
    if missing:
        raise PermanentError(
            f"{len(missing)} files of this backup are gone from the object store, among them "
            f"{missing[0]}. Nothing was changed. Bring back the objects (a versioned bucket has "
            "them), or use a newer backup."
        )


def _require_empty(record: Manifest, settings: Settings) -> None:
    full: list[str] = [
        name
        for name in _ORDER
        if name in record.databases and not pg_dump.is_empty(settings.database_url(name))
    ]
    full += [str(tree) for tree in _trees(settings).values() if files.names_under(tree)]
    if full:
        raise ConfigError(
            f"There are data in {', '.join(full)}. A restore replaces all of it. If that is meant, "
            "add --force."
        )


def _trees(settings: Settings) -> dict[str, Path]:
    """Return the local directories that a backup holds, by their name in it."""
    trees = {"artifacts": settings.artifacts}
    if not is_catalog_elsewhere():
        trees["warehouse"] = settings.warehouse
    return {name: Path(place) for name, place in trees.items() if "://" not in place}


def _put_files_back(
    directory: Path, entries: Mapping[str, files.Entry], settings: Settings
) -> None:
    keys = settings.home / "airflow"
    keys.mkdir(mode=0o700, parents=True, exist_ok=True)
    for prefix, target in {**_trees(settings), "airflow": keys}.items():
        files.put_back(directory, prefix, entries, target)
    os.sync()


def _remove_other_files(entries: Mapping[str, files.Entry], settings: Settings) -> None:
    for prefix, target in _trees(settings).items():
        files.remove_others(prefix, entries, target)


def _require_restored(record: Manifest, settings: Settings) -> None:
    """Compare what the databases say now with what the backup said then."""
    for name, facts in record.tables.items():
        namespace, _, table = name.rpartition(".")
        if (found := lake.snapshot_id(namespace, table)) != facts["snapshot"]:
            raise PermanentError(
                f"{name} was restored at snapshot {found}; the backup has {facts['snapshot']}."
            )
    engine = ledger.engine(settings)
    with engine.connect() as connection:
        names = list(connection.scalars(sa.select(ledger_table.LEDGER.c.use_case).distinct()))
    for use_case in names:
        if problems := ledger.verify(engine, use_case):
            raise PermanentError(f"The ledger of {use_case} does not verify: {'; '.join(problems)}")
