"""Make a backup while everything runs.

What refers to something is copied before what it refers to: Airflow's database (which days are
done), the ledger's (receipts, releases), the online store's, MLflow's, the catalog's, then the
files that the catalog named. A restored backup may therefore hold a table's newest day without its
receipt, which is what a crash leaves too and the next run mends; never a receipt without its day.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from evergreen.errors import ConfigError, ServiceDownError
from evergreen.lake import upkeep
from evergreen.lake.sealed import damaged, local_path
from evergreen.ops.backup import manifest, pg_dump
from evergreen.ops.backup.files import Collector, names_under, sha256
from evergreen.provenance import receipts
from evergreen.settings import Database, Settings, load_settings

logger = logging.getLogger(__name__)

_BEFORE_CATALOG: tuple[Database, ...] = ("airflow", "ledger", "feast", "mlflow")
_CATALOG_ATTEMPTS = 5
UNFINISHED_RESTORE = "restore.unfinished"


@dataclass(frozen=True)
class BackupReport:
    """What was saved; sizes in bytes, time in seconds.

    `new_bytes` is what is in no older backup; `left_out` says in sentences what was not saved.
    """

    directory: Path
    tables: int
    rows: int
    files: int
    bytes: int
    new_bytes: int
    left_out: list[str]
    seconds: float


def back_up(directory: Path, settings: Settings | None = None) -> BackupReport:
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
    begun = time.monotonic()
    made_at = datetime.now(UTC).isoformat(timespec="seconds")
    partial = directory.with_name(directory.name + manifest.PARTIAL)
    with upkeep.exclusive(settings) as session:
        _refuse_half_restored(settings)
        previous = manifest.complete_beside(directory)
        shutil.rmtree(partial, ignore_errors=True)
        # Private: it holds what the databases hold, and Airflow's keys.
        partial.mkdir(mode=0o700, parents=True)
        collector = Collector(partial, previous[-1] if previous else None)
        dumps = _dump_before_catalog(settings, partial)
        tables, remote, lost = _save_lake(settings, collector, dumps)
        left_out = (
            [f"{len(remote)} files of {settings.warehouse}: keep them there"] if remote else []
        )
        if lost:
            left_out.append(f"{len(lost)} files that only older snapshots had: they are missing")
        left_out += _save_artifacts(settings, collector)
        _save_keys(settings, collector)
        entries = collector.entries.values()
        listing = collector.write_listing()
        record = manifest.Manifest(
            made_at=made_at,
            evergreen_version=version("evergreen"),
            lock_digest=receipts.lock_digest(),
            warehouse=settings.warehouse,
            artifacts=settings.artifacts,
            databases=dumps,
            tables=tables,
            remote=remote,
            left_out=left_out,
            listing=listing,
            files=len(entries),
            bytes=sum(entry.size for entry in entries),
        )
        _require_lock(session)
        os.sync()
        manifest.write(record, partial)
        os.sync()
        partial.rename(directory)
    return BackupReport(
        directory=directory,
        tables=len(tables),
        rows=sum(table["rows"] for table in tables.values()),
        files=record.files,
        bytes=record.bytes + sum(dump["bytes"] for dump in dumps.values()),
        new_bytes=collector.new_bytes + sum(dump["bytes"] for dump in dumps.values()),
        left_out=left_out,
        seconds=time.monotonic() - begun,
    )


def new_directory(settings: Settings) -> Path:
    """Return the place of a backup that begins now, in the folder of backups."""
    return settings.backups / datetime.now(UTC).strftime("%Y-%m-%dT%H%M%SZ")


def back_up_and_prune(keep: int, settings: Settings | None = None) -> BackupReport:
    """Make a backup in the folder of backups, then remove the oldest there beyond `keep`.

    Removes what interrupted backups left there, too.
    """
    settings = settings or load_settings()
    folder = settings.backups
    report = back_up(new_directory(settings), settings)
    with upkeep.exclusive(settings):
        # Whoever makes a backup holds the lock, so nobody is writing these.
        for leftover in folder.glob(f"*{manifest.PARTIAL}"):
            shutil.rmtree(leftover)
        others = manifest.complete_beside(report.directory)
        for old in others[: max(0, len(others) + 1 - keep)]:
            # Renamed first: a kill in the middle must not leave half of a backup that looks whole.
            doomed = old.rename(old.with_name(old.name + manifest.PARTIAL))
            shutil.rmtree(doomed)
    return report


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


def _dump_before_catalog(settings: Settings, partial: Path) -> dict[str, dict[str, Any]]:
    (partial / "sql").mkdir()
    dumps: dict[str, dict[str, Any]] = {}
    for name in _BEFORE_CATALOG:
        target = partial / "sql" / f"{name}.dump"
        url = settings.database_url(name)
        pg_dump.dump(url, target)
        dumps[name] = _dump_facts(target, url)
    return dumps


def _dump_facts(path: Path, url: str) -> dict[str, Any]:
    return {
        "file": f"sql/{path.name}",
        "bytes": path.stat().st_size,
        "sha256": sha256(path),
        "server": pg_dump.server_version(url),
    }


def _save_lake(
    settings: Settings, collector: Collector, dumps: dict[str, dict[str, Any]]
) -> tuple[dict[str, dict[str, Any]], list[str], list[str]]:
    """Dump the catalog and save every file it refers to; say which are remote, which are lost.

    Files of the lake do not change and the lock keeps upkeep away, but commits drop old metadata
    files: if some twenty of them pass while the dump is made, its metadata file is gone. Then it
    is made again.
    """
    url = settings.database_url("catalog")
    target = collector.root / "sql" / "catalog.dump"
    for attempt in range(_CATALOG_ATTEMPTS):
        with pg_dump.frozen(url) as (connection, state):
            locations = _metadata_locations(connection)
            pg_dump.dump(url, target, state)
        dumps["catalog"] = _dump_facts(target, url)
        try:
            _save_warehouse(settings, collector, locations.values())
            tables = {
                name: {"metadata": location, **upkeep.table_facts(location)}
                for name, location in locations.items()
            }
            files: set[str] = set()
            for location in locations.values():
                files |= upkeep.referenced_files(location)
            lost: list[str] = []
            remote = _save_warehouse(settings, collector, sorted(files), lost)
            for location in locations.values() if lost else ():
                for gone in upkeep.referenced_files(location, only_current=True).intersection(lost):
                    raise damaged(gone, "is missing")
        except FileNotFoundError as error:
            if attempt == _CATALOG_ATTEMPTS - 1:
                raise damaged(str(error.filename or error), "is missing") from error
            logger.info("tables changed while the catalog was dumped; dumping it again")
        else:
            for location in locations.values():
                for older in upkeep.metadata_log(location):
                    with suppress(FileNotFoundError):
                        _save_warehouse(settings, collector, [older])
            return tables, remote, lost
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
) -> list[str]:
    """Save files of a local warehouse; return those of an object store.

    Data files that are missing are added to `lost`, if it is given.
    """
    if "://" in settings.warehouse:
        return list(locations)
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
    return []


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


def _require_lock(session: sa.Connection) -> None:
    try:
        session.execute(sa.text("SELECT 1"))
    except sa.exc.DBAPIError as error:
        raise ServiceDownError(
            "The connection to the ledger's database broke during the backup, and with it the "
            "lock that keeps upkeep away. Run the backup again."
        ) from error
