"""Upkeep of the lake: forget old snapshots, merge small files, free the disk.

Nothing here changes what a table holds. Every function takes one table, is safe to repeat, and
runs beside publishing steps; among themselves and beside a backup they take turns (`exclusive`),
because a backup must find every file that the catalog it dumped refers to.

Notes
-----
PyIceberg forgets snapshots but leaves their files; `expire_snapshots` followed by
`remove_orphan_files` frees the disk. See docs/adr/0008-upkeep-and-backup.md.
"""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import sqlalchemy as sa
from pyiceberg.exceptions import (
    CommitFailedException,
    NoSuchTableError,
    ValidationException,
)
from pyiceberg.expressions import AlwaysTrue, In
from pyiceberg.io.pyarrow import ArrowScan, PyArrowFileIO, _dataframe_to_data_files
from pyiceberg.table import StaticTable
from pyiceberg.table.snapshots import Operation
from pyiceberg.table.update import RemoveSnapshotsUpdate, ValidatableTableRequirement
from pyiceberg.table.update.snapshot import _SnapshotProducer
from pyiceberg.utils.datetime import days_to_date
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from evergreen import lake
from evergreen.errors import BusyError, PermanentError
from evergreen.settings import Settings, load_settings

if TYPE_CHECKING:
    from pyiceberg.table import FileScanTask, Table
    from pyiceberg.table.metadata import TableMetadata

logger = logging.getLogger(__name__)

_ATTEMPTS = 10
# Forgetting is quadratic in PyIceberg; small commits also meet fewer others.
_SNAPSHOTS_PER_COMMIT = 250
# One commit of a compaction rewrites at most this much, and reads one merged file at a time.
_BYTES_PER_COMMIT = 256 * 2**20
_TARGET_BYTES = 64 * 2**20
# A manifest is read as a whole, and only if it may hold the day.
_FILES_PER_MANIFEST = 100
# The weekly commits of a daily table are no reason to rewrite anything.
_SPARE_MANIFESTS = 8
# Any number, as long as everything that takes turns names the same one.
_LOCK_KEY = 0x45564752
_LOCK_SECONDS = 600


@dataclass(frozen=True)
class Removed:
    """Files that were removed, and their size in bytes."""

    files: int
    bytes: int


@dataclass(frozen=True)
class Compacted:
    """What a compaction merged: data files before and after, manifests before and after."""

    files: tuple[int, int]
    manifests: tuple[int, int]


class _StillUnwanted(ValidatableTableRequirement):
    """At the moment of the commit the snapshots exist and nobody has named them meanwhile.

    PyIceberg protects the references it saw when it planned; removing a snapshot that was tagged
    since would silently remove the tag with it.
    """

    type: Literal["evergreen-still-unwanted"] = "evergreen-still-unwanted"
    snapshot_ids: list[int]

    def validate(self, base_metadata: TableMetadata | None) -> None:
        refs = base_metadata.refs.values() if base_metadata else ()
        snapshots = base_metadata.snapshots if base_metadata else ()
        doomed = set(self.snapshot_ids)
        if doomed & {ref.snapshot_id for ref in refs}:
            raise CommitFailedException("A snapshot was tagged while it was about to expire.")
        if doomed - {snapshot.snapshot_id for snapshot in snapshots}:
            raise CommitFailedException("A snapshot was expired by somebody else.")


@contextmanager
def exclusive(
    settings: Settings | None = None, wait_seconds: int = _LOCK_SECONDS
) -> Iterator[sa.Connection]:
    """Hold the one lock of upkeep and backup; it ends with the process, however that ends.

    Yields
    ------
    sqlalchemy.Connection
        The session that holds the lock, in autocommit; if it still answers, the lock was held.

    Raises
    ------
    BusyError
        Another upkeep or backup held it all the time.
    """
    settings = settings or load_settings()
    engine = sa.create_engine(
        settings.database_url("ledger"), poolclass=NullPool, isolation_level="AUTOCOMMIT"
    )
    with engine.connect() as connection:
        connection.execute(
            sa.text("SELECT set_config('lock_timeout', :patience, false)"),
            {"patience": f"{wait_seconds}s"},
        )
        try:
            connection.execute(sa.text("SELECT pg_advisory_lock(:key)"), {"key": _LOCK_KEY})
        except DBAPIError as error:
            if getattr(error.orig, "pgcode", None) != "55P03":
                raise
            raise BusyError(
                f"Another backup or upkeep of the lake runs, and did not end in {wait_seconds} s. "
                "Wait for it, or look for it in Airflow's `maintenance`, and try again."
            ) from error
        yield connection


def expire_snapshots(namespace: str, table: str, older_than: datetime) -> int:
    """Forget the snapshots that were replaced before an instant, except tagged ones.

    What counts is when a snapshot stopped being the current one, not when it was made: every
    state the table had at or after `older_than` stays readable, and a run that reads a snapshot
    which another run has just replaced keeps its files, however old they are.

    Parameters
    ----------
    older_than
        Instant with a time zone.

    Returns
    -------
    int
        How many were forgotten.
    """
    limit = int(older_than.timestamp() * 1000)
    forgotten = 0
    with exclusive():
        for attempt in range(_ATTEMPTS):
            found = _load(namespace, table)
            doomed = _replaced_before(found, limit) if found is not None else []
            if found is None or not doomed:
                return forgotten
            try:
                for start in range(0, len(doomed), _SNAPSHOTS_PER_COMMIT):
                    batch = doomed[start : start + _SNAPSHOTS_PER_COMMIT]
                    lake.catalog().commit_table(
                        found,
                        requirements=(_StillUnwanted(snapshot_ids=batch),),
                        updates=(RemoveSnapshotsUpdate(snapshot_ids=batch),),
                    )
                    forgotten += len(batch)
            except CommitFailedException:
                if attempt == _ATTEMPTS - 1:
                    raise
                logger.info("%s changed while snapshots expired; starting again", found.name())
    return forgotten


def _replaced_before(table: Table, limit: int) -> list[int]:
    """Ids of the snapshots that stopped being current before `limit` (ms) and bear no name."""
    named = {ref.snapshot_id for ref in table.metadata.refs.values()}
    history = sorted(table.snapshots(), key=lambda snapshot: snapshot.sequence_number or 0)
    return [
        snapshot.snapshot_id
        for snapshot, successor in pairwise(history)
        if successor.timestamp_ms < limit and snapshot.snapshot_id not in named
    ]


# --- files nobody refers to ----------------------------------------------------------------------


def remove_orphan_files(namespace: str, table: str, older_than: datetime) -> Removed:
    """Remove the files under a table's location that nothing refers to any more.

    They come from expired snapshots, and from attempts that were killed before their commit.

    Parameters
    ----------
    older_than
        Instant with a time zone. Files written since then stay: a running commit writes files
        before it refers to them. Longer ago than any commit lasts.

    Raises
    ------
    PermanentError
        A file that the table refers to is missing; nothing is removed.
    """
    with exclusive():
        found = _load(namespace, table)
        if found is None:
            return Removed(0, 0)
        scheme, netloc, root = PyArrowFileIO.parse_location(found.location())
        manifests: dict[str, frozenset[str]] = {}
        before = _referenced(found, manifests)
        files = found.io.fs_by_scheme(scheme, netloc)
        listed = {info.path: info for info in _files_under(files, root)}
        # Again after listing: what was committed meanwhile is referred to by now.
        found.refresh()
        wanted = _plain(before | _referenced(found, manifests))
        _require_whole(found, _plain(_content(found, manifests)), listed, root)
        limit = older_than.timestamp() * 1e9
        orphans = [
            info for path, info in listed.items() if path not in wanted and info.mtime_ns < limit
        ]
        for info in orphans:
            files.delete_file(info.path)
    return Removed(len(orphans), sum(info.size for info in orphans))


def referenced_files(metadata_location: str) -> set[str]:
    """Locations of all files that make up one version of a table, with all its snapshots.

    Parameters
    ----------
    metadata_location
        Of the version's metadata file, as the catalog names it. Older metadata files are not part
        of the answer; see `metadata_log`.

    Raises
    ------
    FileNotFoundError
        The metadata file is gone.
    """
    table = StaticTable.from_metadata(metadata_location, lake.catalog().properties)
    return {metadata_location, *_content(table, {})}


def metadata_log(metadata_location: str) -> list[str]:
    """Locations of the table's older metadata files.

    Nothing needs them to read the table, and the next commits remove them.
    """
    table = StaticTable.from_metadata(metadata_location, lake.catalog().properties)
    return [entry.metadata_file for entry in table.metadata.metadata_log]


def missing_files(locations: Sequence[str]) -> list[str]:
    """Locations of the lake where there is no file."""
    if not locations:
        return []
    io = PyArrowFileIO(lake.catalog().properties)
    return [location for location in locations if not io.new_input(location).exists()]


def table_facts(metadata_location: str) -> dict[str, Any]:
    """Location, current snapshot id and number of rows of one version of a table."""
    table = StaticTable.from_metadata(metadata_location, lake.catalog().properties)
    current = table.current_snapshot()
    summary = current.summary.additional_properties if current and current.summary else {}
    return {
        "location": table.location(),
        "snapshot": current.snapshot_id if current else None,
        "rows": int(summary.get("total-records", 0)),
    }


def _referenced(table: Table, manifests: dict[str, frozenset[str]]) -> set[str]:
    log = {entry.metadata_file for entry in table.metadata.metadata_log}
    return {table.metadata_location, *log, *_content(table, manifests)}


def _content(table: Table, manifests: dict[str, frozenset[str]]) -> set[str]:
    """Manifest lists, manifests, data and statistics of all snapshots.

    `manifests` remembers the files each manifest names: successive snapshots share nearly all.
    """
    statistics = [*table.metadata.statistics, *table.metadata.partition_statistics]
    locations = {statistic.statistics_path for statistic in statistics}
    for snapshot in table.snapshots():
        locations.add(snapshot.manifest_list)
        for manifest in snapshot.manifests(table.io):
            path = manifest.manifest_path
            if path not in manifests:
                entries = manifest.fetch_manifest_entry(table.io, discard_deleted=True)
                manifests[path] = frozenset(entry.data_file.file_path for entry in entries)
            locations |= {path, *manifests[path]}
    return locations


def _files_under(files: Any, root: str) -> list[Any]:
    from pyarrow.fs import FileSelector, FileType

    selector = FileSelector(root, recursive=True, allow_not_found=True)
    return [info for info in files.get_file_info(selector) if info.type == FileType.File]


def _plain(locations: set[str]) -> set[str]:
    """Turn locations into the paths that the file system of the table lists."""
    return {PyArrowFileIO.parse_location(location)[2] for location in locations}


def _require_whole(table: Table, content: set[str], listed: dict[str, Any], root: str) -> None:
    """Refuse to judge files by a listing in which the table's own are missing.

    Either the table is damaged, or paths are spelled in two ways; in both cases what looks like
    an orphan may be the only copy.
    """
    missing = sorted(path for path in content - set(listed) if path.startswith(f"{root}/"))
    # What was committed after listing is not in it.
    io = table.io
    lost = [path for path in missing if not io.new_input(path).exists()]
    if lost:
        raise PermanentError(
            f"{len(lost)} files of {'.'.join(table.name())} are missing, among them {lost[0]}. "
            "Nothing was removed. Restore the table from a backup (`evergreen restore`)."
        )


# --- compaction ----------------------------------------------------------------------------------


def compact(namespace: str, table: str, target_bytes: int = _TARGET_BYTES) -> Compacted:
    """Merge small files of the same day, and the manifests of many small commits.

    Rows do not change. Days in which a file was replaced meanwhile are planned again from the
    newest snapshot, so an old row never comes back. The commits say `evergreen.step=compact`.

    Parameters
    ----------
    target_bytes
        Files are merged up to this size on disk; larger ones stay as they are.

    Notes
    -----
    Memory: one merged file at a time, decoded. A commit covers whole days, up to 256 MB.
    """
    with exclusive():
        found = _load(namespace, table)
        if found is None or found.current_snapshot() is None:
            return Compacted((0, 0), (0, 0))
        files = len(list(found.scan().plan_files()))
        manifests = len(_manifests(found))
        for attempt in range(_ATTEMPTS):
            try:
                _merge_files(found, target_bytes)
                _cluster_manifests(found)
                break
            except (CommitFailedException, ValidationException):
                if attempt == _ATTEMPTS - 1:
                    raise
                logger.info("%s changed while it was compacted; starting again", found.name())
                found.refresh()
    merged = len(list(found.scan().plan_files()))
    return Compacted((files, merged), (manifests, len(_manifests(found))))


_Bins = list[list["FileScanTask"]]


def _merge_files(table: Table, target_bytes: int) -> None:
    by_day: dict[Any, list[FileScanTask]] = defaultdict(list)
    for task in table.scan().plan_files():
        by_day[task.file.partition[0]].append(task)
    plan = [(day, _bins(tasks, target_bytes)) for day, tasks in sorted(by_day.items())]
    size = 0
    batch: list[tuple[Any, _Bins]] = []
    for day, bins in plan:
        if not bins:
            continue
        batch.append((day, bins))
        size += sum(task.file.file_size_in_bytes for tasks in bins for task in tasks)
        if size >= _BYTES_PER_COMMIT:
            _replace_files(table, batch)
            batch, size = [], 0
    if batch:
        _replace_files(table, batch)


def _bins(tasks: Sequence[FileScanTask], target_bytes: int) -> _Bins:
    """Group the small files of one day, in the order of their paths, up to the target each."""
    bins: _Bins = [[]]
    filled = 0
    for task in sorted(tasks, key=lambda task: str(task.file.file_path)):
        size = task.file.file_size_in_bytes
        if size >= target_bytes:
            continue
        if bins[-1] and filled + size > target_bytes:
            bins.append([])
            filled = 0
        bins[-1].append(task)
        filled += size
    return [group for group in bins if len(group) > 1]


def _replace_files(table: Table, batch: Sequence[tuple[Any, _Bins]]) -> None:
    transaction = table.transaction()
    metadata = transaction.table_metadata
    producer = transaction.update_snapshot({"evergreen.step": "compact"}).overwrite()
    days = set()
    for day, bins in batch:
        for tasks in bins:
            rows = ArrowScan(metadata, table.io, metadata.schema(), AlwaysTrue()).to_table(tasks)
            merged = list(_dataframe_to_data_files(metadata, rows, table.io))
            if len(merged) >= len(tasks):
                # They compress so well that the writer splits them again, by their size in memory.
                continue
            days.add(days_to_date(day).isoformat())
            for file in merged:
                producer.append_data_file(file)
            for task in tasks:
                producer.delete_data_file(task.file)
    if days:
        # Scope of the conflict check: commits to other days pass, one to these makes us fail.
        producer.delete_by_predicate(In("day", days))
        producer.commit()
        transaction.commit_transaction()


class _ClusterManifests(_SnapshotProducer):
    """A commit that adds and removes no file, and lists the files of neighbouring days together.

    Planning one day then reads one short manifest, and replacing it rewrites one.
    """

    def _validate_concurrency(self) -> None:
        """Nothing to check: a retry starts again from the newest snapshot's manifests."""

    def _deleted_entries(self) -> list[Any]:
        return []

    def _existing_manifests(self) -> list[Any]:
        parent = self._transaction.table_metadata.snapshot_by_id(self._parent_snapshot_id)
        entries: dict[int, list[Any]] = defaultdict(list)
        for manifest in parent.manifests(self._io):
            found = manifest.fetch_manifest_entry(self._io, discard_deleted=True)
            entries[manifest.partition_spec_id] += found
        written = []
        for spec_id, group in entries.items():
            group.sort(key=lambda entry: (entry.data_file.partition[0], entry.data_file.file_path))
            for start in range(0, len(group), _FILES_PER_MANIFEST):
                with self.new_manifest_writer(self.spec(spec_id)) as writer:
                    for entry in group[start : start + _FILES_PER_MANIFEST]:
                        writer.existing(entry)
                written.append(writer.to_manifest_file())
        return written


def _cluster_manifests(table: Table) -> None:
    counts = [m.added_files_count + m.existing_files_count for m in _manifests(table)]
    ideal = math.ceil(sum(counts) / _FILES_PER_MANIFEST)
    if (
        len(counts) < 2 * ideal + _SPARE_MANIFESTS
        and max(counts, default=0) <= 2 * _FILES_PER_MANIFEST
    ):
        return
    transaction = table.transaction()
    _ClusterManifests(
        operation=Operation.APPEND,
        transaction=transaction,
        io=table.io,
        snapshot_properties={"evergreen.step": "compact"},
    ).commit()
    transaction.commit_transaction()


def _manifests(table: Table) -> list[Any]:
    current = table.current_snapshot()
    return list(current.manifests(table.io)) if current else []


def _load(namespace: str, table: str) -> Table | None:
    try:
        return lake.catalog().load_table((namespace, table))
    except NoSuchTableError:
        return None
