"""Make a backup while everything runs.

What refers to something is copied before what it refers to: Airflow's database (which days are
done), the ledger's (receipts, releases), the online store's, MLflow's, the catalog's, then the
files that the catalog named. A restored backup may therefore hold a table's newest day without its
receipt, which is what a crash leaves too and the next run mends; never a receipt without its day.
The tables of a catalog elsewhere are not ours to save.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from evergreen.errors import ConfigError
from evergreen.lake import elsewhere, upkeep
from evergreen.lake.sealed import damaged, local_path
from evergreen.ops.backup import manifest, pg_dump
from evergreen.ops.backup.files import Collector, names_under
from evergreen.ops.backup.manifest import Manifest
from evergreen.provenance import receipts
from evergreen.settings import DATABASES, Database, Settings, load_settings

logger = logging.getLogger(__name__)

_BEFORE_CATALOG: tuple[Database, ...] = ("airflow", "ledger", "feast", "mlflow")
_CATALOG_ATTEMPTS = 5
UNFINISHED_RESTORE = "restore.unfinished"


def back_up(directory: Path, settings: Settings | None = None) -> Manifest:
    """Save databases, warehouse and artifacts into a new directory.

    The directory appears when it is whole. An older backup beside it makes this one cheap.

    Parameters
    ----------
    directory
        Must not exist.

    Raises
    ------
    BusyError
        Another backup or upkeep runs.
    ConfigError
        The directory exists or lies inside what is saved; a restore is unfinished; a table lies
        outside of the warehouse; a database server is newer than pg_dump here.
    DamagedError
        A file of what a table holds now is missing.
    """
    settings = settings or load_settings()
    directory = directory.expanduser().absolute()
    _refuse_bad_place(directory, settings)
    made_at = datetime.now(UTC).isoformat(timespec="seconds")
    partial = directory.with_name(directory.name + manifest.PARTIAL)
    with upkeep.exclusive(settings) as session:
        _refuse_half_restored(settings)
        previous = manifest.complete_in(directory.parent)
        shutil.rmtree(partial, ignore_errors=True)
        # Private: it holds what the databases hold, and Airflow's keys.
        partial.mkdir(mode=0o700, parents=True)
        (partial / "sql").mkdir()
        collector = Collector(partial, previous[-1] if previous else None)
        for name in _BEFORE_CATALOG:
            _dump(name, settings, collector)
        tables: dict[str, dict[str, Any]] = {}
        remote: list[str] = []
        left_out = []
        if there := elsewhere.declared():
            left_out.append(
                f"the tables of the catalog {elsewhere.place(there)}: back them up where they are, "
                "after this"
            )
        else:
            tables, remote, lost = _save_lake(settings, collector)
            if remote:
                left_out.append(f"{len(remote)} files of {settings.warehouse}: keep them there")
            if lost:
                left_out.append(
                    f"{len(lost)} files that only older snapshots had: they are missing"
                )
        left_out += _save_artifacts(settings, collector)
        _save_keys(settings, collector)
        record = Manifest(
            made_at=made_at,
            evergreen_version=version("evergreen"),
            lock_digest=receipts.lock_digest(),
            warehouse=settings.warehouse,
            artifacts=settings.artifacts,
            databases={
                name: pg_dump.server_version(settings.database_url(name))
                for name in DATABASES
                if name != "catalog" or not there
            },
            tables=tables,
            remote=remote,
            left_out=left_out,
            listing=collector.write_listing(),
            files=len(collector.entries),
            bytes=sum(entry.size for entry in collector.entries.values()),
            new_bytes=collector.new_bytes,
        )
        # Had this connection broken, upkeep might have run beside us.
        session.execute(sa.text("SELECT 1"))
        os.sync()
        manifest.write(record, partial)
        os.sync()
        partial.rename(directory)
    return record


def new_directory(settings: Settings) -> Path:
    """Return the place of a backup that begins now, in the folder of backups."""
    return settings.backups / datetime.now(UTC).strftime("%Y-%m-%dT%H%M%SZ")


def prune(folder: Path, keep: int, settings: Settings | None = None) -> None:
    """Remove the oldest backups of a folder beyond `keep`, and what interrupted ones left there."""
    with upkeep.exclusive(settings):
        # Whoever makes a backup holds the lock, so nobody is writing these.
        for leftover in folder.glob(f"*{manifest.PARTIAL}"):
            shutil.rmtree(leftover)
        complete = manifest.complete_in(folder)
        for old in complete[: max(0, len(complete) - keep)]:
            # Renamed first: a kill in the middle must not leave half of a backup that looks whole.
            shutil.rmtree(old.rename(old.with_name(old.name + manifest.PARTIAL)))


def _refuse_bad_place(directory: Path, settings: Settings) -> None:
    if directory.name.endswith(manifest.PARTIAL):
        raise ConfigError(f"{directory}: names ending in {manifest.PARTIAL} mark unfinished ones.")
    if directory.exists():
        raise ConfigError(f"{directory} exists. Name a new directory, or remove that one.")
    for tree in (settings.warehouse, settings.artifacts):
        if "://" not in tree and directory.is_relative_to(tree):
            raise ConfigError(f"{directory} lies inside {tree}, which is saved. Name another.")


def _refuse_half_restored(settings: Settings) -> None:
    if (settings.home / UNFINISHED_RESTORE).exists():
        raise ConfigError(
            f"A restore into {settings.home} was interrupted. Run it again before a backup: it "
            "would save a mixture."
        )


def _dump(
    name: Database, settings: Settings, collector: Collector, state: str | None = None
) -> None:
    file = f"sql/{name}.dump"
    pg_dump.dump(settings.database_url(name), collector.root / file, state)
    collector.add(file)


def _save_lake(
    settings: Settings, collector: Collector
) -> tuple[dict[str, dict[str, Any]], list[str], list[str]]:
    """Dump the catalog and save every file it refers to; say which are remote, which are lost.

    Files of the lake do not change and the lock keeps upkeep away, but commits drop old metadata
    files: if some twenty of them pass while the dump is made, its metadata file is gone. Then it
    is made again.
    """
    for attempt in range(_CATALOG_ATTEMPTS):
        with pg_dump.frozen(settings.database_url("catalog")) as (connection, state):
            locations = _metadata_locations(connection)
            _dump("catalog", settings, collector, state)
        lost: list[str] = []
        try:
            _save_warehouse(settings, collector, locations.values())
            versions = {name: upkeep.version_at(place) for name, place in locations.items()}
            files = sorted(set().union(*(found.files for found in versions.values())))
            _save_warehouse(settings, collector, files, lost)
        except FileNotFoundError as error:
            if attempt == _CATALOG_ATTEMPTS - 1:
                raise damaged(str(error.filename or error), "is missing") from error
            logger.info("tables changed while the catalog was dumped; dumping it again")
            continue
        for found in versions.values():
            for gone in found.current.intersection(lost):
                raise damaged(gone, "is missing")
            for older in found.log:
                with suppress(FileNotFoundError):
                    _save_warehouse(settings, collector, [older])
        tables = {
            name: {"metadata": place, "snapshot": found.snapshot, "rows": found.rows}
            for (name, place), found in zip(locations.items(), versions.values(), strict=True)
        }
        return tables, files if "://" in settings.warehouse else [], lost
    raise AssertionError


def _metadata_locations(connection: sa.Connection) -> dict[str, str]:
    if connection.execute(sa.text("SELECT to_regclass('iceberg_tables')")).scalar() is None:
        return {}
    rows = connection.execute(
        sa.text(
            "SELECT table_namespace, table_name, metadata_location FROM iceberg_tables "
            "WHERE catalog_name = 'evergreen' ORDER BY 1, 2"
        )
    )
    return {f"{row.table_namespace}.{row.table_name}": row.metadata_location for row in rows}


def _save_warehouse(
    settings: Settings,
    collector: Collector,
    locations: Iterable[str],
    lost: list[str] | None = None,
) -> None:
    """Save files of a local warehouse; missing data files are added to `lost`, if it is given."""
    if "://" in settings.warehouse:
        return
    root = Path(settings.warehouse)
    for location in locations:
        path = Path(local_path(location))
        if not path.is_relative_to(root):
            raise ConfigError(
                f"{path} belongs to a table and lies outside of the warehouse {root}. Set "
                "EVERGREEN_WAREHOUSE to where the tables are."
            )
        try:
            collector.place(path, f"warehouse/{path.relative_to(root)}", immutable=True)
        except FileNotFoundError:
            if lost is None or path.suffix != ".parquet":
                raise
            lost.append(location)


def _save_artifacts(settings: Settings, collector: Collector) -> list[str]:
    """Save the artifacts of a local directory; say which ones are elsewhere."""
    if "://" in settings.artifacts:
        return [f"the models and plots in {settings.artifacts}: an object store keeps its own"]
    root = Path(settings.artifacts)
    if settings.tracking_url and not root.is_dir():
        return [f"the models and plots of {settings.tracking_url}: {root} does not exist"]
    for name in sorted(names_under(root)):
        try:
            collector.place(root / name, f"artifacts/{name}", immutable=False)
        except FileNotFoundError:
            # A training run keeps a file only while it writes; models it has logged stay.
            logger.info("%s went away while it was saved", root / name)
    return []


def _save_keys(settings: Settings, collector: Collector) -> None:
    """Save the keys with which Airflow encrypted what its database holds."""
    for name in ("secrets.json", "passwords.json"):
        path = settings.home / "airflow" / name
        if path.exists():
            collector.place(path, f"airflow/{name}", immutable=False)
