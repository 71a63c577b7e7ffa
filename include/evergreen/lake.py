"""The lake: Iceberg tables partitioned by UTC day, replaced one partition at a time.

One publish is one Iceberg commit: it removes the files of the days it publishes and adds the new
ones, so a reader sees the old days or the new days and never a mixture. What produced the days
travels inside the same commit, so data and provenance cannot diverge. A day that already says what
would be published is left as it is.

Notes
-----
Concurrent commits to one table are retried by PyIceberg against the newer metadata. Of two runs
that publish the same day the later commit wins whole; their rows are never mixed.
"""

from __future__ import annotations

import hashlib
import logging
import random
import shutil
import time
import uuid
import warnings
from collections.abc import Collection, Container, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, timedelta
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.exceptions import (
    CommitFailedException,
    NamespaceAlreadyExistsError,
    NoSuchNamespaceError,
    NoSuchTableError,
    TableAlreadyExistsError,
    ValidationException,
)
from pyiceberg.expressions import (
    AlwaysTrue,
    And,
    BooleanExpression,
    EqualTo,
    GreaterThanOrEqual,
    In,
    LessThan,
)
from pyiceberg.io.pyarrow import ArrowScan
from pyiceberg.table import Transaction
from pyiceberg.table.refs import MAIN_BRANCH
from pyiceberg.table.update import update_table_metadata
from sqlalchemy.exc import IntegrityError

from evergreen.content import digest_by_day
from evergreen.databases import open_engine
from evergreen.disk import room_on
from evergreen.errors import DamagedError, NotReadyError
from evergreen.lake_files import LakeFileIO, local_path, open_intact, readable
from evergreen.settings import Settings, load_settings

if TYPE_CHECKING:
    from pyiceberg.table import FileScanTask, Table
    from sqlalchemy import Engine

logger = logging.getLogger(__name__)

_SAME_DAY_ATTEMPTS = 10
_EPOCH = date(1970, 1, 1)
# Unbuffered, whole column chunks are read; up to a million rows each.
_READ_BUFFER_BYTES = 1 << 20
# In the summary of every snapshot: the oldest day that it replaced.
_FIRST_DAY = "evergreen.first-day"

_TABLE_PROPERTIES = {
    # Patience of a commit that meets other commits; each retry re-reads the newest metadata.
    "commit.retry.num-retries": "20",
    "commit.retry.min-wait-ms": "20",
    "commit.retry.max-wait-ms": "2000",
    "commit.manifest-merge.enabled": "true",
    "commit.manifest.min-count-to-merge": "50",
    # A few months of days each: planning some days must not decode the list of all.
    "commit.manifest.target-size-bytes": "65536",
    "write.metadata.delete-after-commit.enabled": "true",
    "write.metadata.previous-versions-max": "20",
    "write.parquet.compression-codec": "zstd",
}


@dataclass(frozen=True)
class Scan:
    """The Parquet files that make up (some days of) one snapshot of a table.

    Parameters
    ----------
    paths
        Absolute paths or URLs; empty when the table has no such rows.
    snapshot_id
        The snapshot planned from; None when the table has no snapshot.
    schema
        Arrow schema of the table; None when the table does not exist.
    """

    paths: tuple[str, ...]
    snapshot_id: int | None
    schema: pa.Schema | None


@dataclass(frozen=True)
class Files:
    """The Parquet files of one snapshot, by day.

    Parameters
    ----------
    by_day
        Absolute paths or URLs, sorted; days without rows are absent.
    snapshot_id
        The snapshot planned from; None when the table has none.
    """

    by_day: Mapping[date, tuple[str, ...]]
    snapshot_id: int | None

    def paths(self, start: date | None = None, end: date | None = None) -> tuple[str, ...]:
        """Files of the days `[start, end)`; either bound may be open."""
        return tuple(
            path
            for day, paths in self.by_day.items()
            if (start is None or day >= start) and (end is None or day < end)
            for path in paths
        )


@dataclass(frozen=True)
class Published:
    """What a publish came to.

    Parameters
    ----------
    table
        `<namespace>.<table>`.
    snapshot_id
        The snapshot in which all the days stand as published; 0 for a table without snapshots.
    rows
        Rows of the days.
    changed
        The days that were committed; the others already said the same.
    """

    table: str
    snapshot_id: int
    rows: int
    changed: tuple[date, ...]


def catalog(settings: Settings | None = None) -> SqlCatalog:
    """Open the Iceberg catalog (one per process and URL)."""
    settings = settings or load_settings()
    return _catalog(settings.database_url("catalog"), settings.warehouse)


class _Catalog(SqlCatalog):
    def load_table(self, identifier: str | tuple[str, ...]) -> Table:
        """Load a table as it is now; reading it again and retried commits come here, too.

        Between the catalog's answer and the opening of the file it names, some twenty commits may
        pass and remove that file; asked again, the catalog names another.
        """
        for _ in range(_SAME_DAY_ATTEMPTS - 1):
            with suppress(FileNotFoundError):
                return super().load_table(identifier)
        return super().load_table(identifier)


@lru_cache(maxsize=8)
def _catalog(url: str, warehouse: str) -> SqlCatalog:
    implementation = f"{LakeFileIO.__module__}.{LakeFileIO.__qualname__}"
    properties = {"warehouse": warehouse, "py-io-impl": implementation, "pool_pre_ping": "true"}
    opened: list[_Catalog] = []

    def connect() -> Engine:
        # Opening it asks for its tables.
        opened.append(_Catalog("evergreen", uri=url, **properties))
        engine: Engine = opened[0].engine
        return engine

    open_engine("catalog", url, connect)
    return opened[0]


def publish(
    namespace: str,
    table: str,
    rows: pa.Table,
    days: Sequence[date],
    properties: Mapping[str, str] | None = None,
    part: Mapping[str, str | int] | None = None,
) -> Published:
    """Replace the partitions of `days` by `rows` in one commit; equal partitions stay.

    Publishing what is already there commits nothing. So repeating a run leaves no trace, and a
    value's `created_at` says when the value became known and not when it was last computed.

    Parameters
    ----------
    rows
        Arrow table with a date32 column `day`, whose values all lie in `days`. A day without rows
        becomes empty. Not modified.
    properties
        Written into the summary of the snapshot.
    part
        Column values that all rows share; only rows of the days that have them are replaced. For
        tables where several writers own a part of a day each.

    Raises
    ------
    ValueError
        A row belongs to a day that is not published; that is a programming error.
    DiskFullError
        There is no room in the warehouse; nothing was committed.
    """
    wanted = pa.array(sorted(set(days)), pa.date32())
    strays = set(rows["day"].unique().to_pylist()) - set(wanted.to_pylist())
    if strays or not len(wanted):
        raise ValueError(f"{namespace}.{table}: rows of {sorted(map(str, strays))} not in {days}")
    summary = {f"evergreen.{key}": value for key, value in (properties or {}).items()}
    with room_on(load_settings().warehouse):
        target = _ensure_table(namespace, table, rows.schema)
        columns = [field.name for field in target.schema().fields]
        complete = _with_missing_columns(rows, target.schema().as_arrow()).select(columns)
        changed = _changed_days(target, complete, wanted.to_pylist(), part or {})
        if changed:
            summary[_FIRST_DAY] = min(changed).isoformat()
            replacing = complete.filter(pc.is_in(complete["day"], pa.array(changed, pa.date32())))
            _overwrite(target, replacing, _rows_of(changed, part or {}), summary)
    snapshot = target.current_snapshot()
    # Publishing no rows into a table that never had any makes no snapshot; the days are recorded
    # by their receipts all the same.
    snapshot_id = snapshot.snapshot_id if snapshot else 0
    return Published(f"{namespace}.{table}", snapshot_id, rows.num_rows, tuple(changed))


def scan(
    namespace: str,
    table: str,
    start: date | None = None,
    end: date | None = None,
    snapshot_id: int | None = None,
    pins: Mapping[date, int] | None = None,
    days: Collection[date] | None = None,
) -> Scan:
    """Plan the files of the days `[start, end)`; either bound may be open.

    A table that does not exist yet has no files.

    Parameters
    ----------
    snapshot_id
        The snapshot to read; None reads the current one.
    pins
        Days that are read at snapshots of their own (0: a snapshot in which they had no rows).
    days
        Leave out the files of all other days.

    Raises
    ------
    NotReadyError
        A snapshot was expired.
    """
    found = load(namespace, table)
    if found is None:
        return Scan((), None, None)
    current = found.current_snapshot()
    used = snapshot_id or (current.snapshot_id if current else None)
    schema = found.schema().as_arrow()
    if used is None:
        return Scan((), None, schema)
    pinned = {
        day: pin
        for day, pin in (pins or {}).items()
        if (start is None or start <= day) and (end is None or day < end)
    }
    _require_snapshot(found, used)
    paths = [
        local_path(task.file.file_path)
        for task in _tasks(found, _range_filter(start, end), used)
        if _day_of(task) not in pinned and (days is None or _day_of(task) in days)
    ]
    for day, pin in pinned.items():
        if pin and (days is None or day in days):
            _require_snapshot(found, pin)
            tasks = _tasks(found, _days_filter([day]), pin)
            paths += [local_path(task.file.file_path) for task in tasks]
    return Scan(tuple(sorted(paths)), used, schema)


def files(
    namespace: str, table: str, end: date | None = None, snapshot_id: int | None = None
) -> Files:
    """Plan the files of the days before `end`, by day; see `scan`."""
    found = load(namespace, table)
    used = snapshot_id or (found.metadata.current_snapshot_id if found else None)
    if found is None or used is None:
        return Files({}, None)
    _require_snapshot(found, used)
    by_day: dict[date, list[str]] = {}
    for task in _tasks(found, _range_filter(None, end), used):
        by_day.setdefault(_day_of(task), []).append(local_path(task.file.file_path))
    return Files({day: tuple(sorted(by_day[day])) for day in sorted(by_day)}, used)


def is_unchanged_before(namespace: str, table: str, day: date, since: int, until: int) -> bool:
    """Whether it is certain that no commit between two snapshots replaced a day before `day`.

    Notes
    -----
    Asks the summaries of the snapshots only, so the cost is that of the commits between the two.
    False also when that cannot tell: a snapshot was expired, or was not made by `publish`.
    """
    found = load(namespace, table)
    known = {snapshot.snapshot_id: snapshot for snapshot in found.snapshots()} if found else {}
    while until != since:
        snapshot = known.get(until)
        if snapshot is None or snapshot.summary is None or snapshot.parent_snapshot_id is None:
            return False
        first_day = snapshot.summary.additional_properties.get(_FIRST_DAY)
        if first_day is None or date.fromisoformat(first_day) < day:
            return False
        until = snapshot.parent_snapshot_id
    return True


def read(
    namespace: str,
    table: str,
    start: date | None = None,
    end: date | None = None,
    columns: Sequence[str] = ("*",),
    snapshot_id: int | None = None,
) -> pa.Table:
    """Read the days `[start, end)` into memory.

    Raises
    ------
    NotReadyError
        The table does not exist yet.
    """
    found = load(namespace, table)
    if found is None:
        raise NotReadyError(
            f"The table {namespace}.{table} does not exist yet. Run the stage that publishes it."
        )
    if snapshot_id is not None:
        _require_snapshot(found, snapshot_id)
    return _rows(found, _range_filter(start, end), tuple(columns), snapshot_id)


def stream(found: Scan, columns: Sequence[str], rows: int) -> Iterator[pa.Table]:
    """Read planned files piece by piece, in memory that does not grow with them.

    Parameters
    ----------
    found
        What `scan` planned.
    columns
        Columns of the table; null in files from before they were added.
    rows
        At most so many in one piece.
    """
    if not found.paths or found.schema is None:
        return
    wanted = pa.schema([found.schema.field(name) for name in columns])
    for path in found.paths:
        # A dataset would decode a whole row group, which is up to a million rows, at once.
        with (
            open_intact(path) as source,
            pq.ParquetFile(source, buffer_size=_READ_BUFFER_BYTES) as file,
        ):
            present = [name for name in columns if name in file.schema_arrow.names]
            for batch in file.iter_batches(rows, columns=present, use_threads=False):
                piece = _with_missing_columns(pa.Table.from_batches([batch]), wanted)
                yield piece.select(columns).cast(wanted)


def read_day(namespace: str, table: str, day: date, snapshot_id: int | None = None) -> pa.Table:
    """Read one day; see `read`."""
    return read(namespace, table, day, day + timedelta(days=1), snapshot_id=snapshot_id)


def exists(namespace: str, table: str) -> bool:
    """Whether the table has been published to."""
    return load(namespace, table) is not None


def snapshot_id(namespace: str, table: str) -> int | None:
    """Id of the current snapshot; None when there is none."""
    found = load(namespace, table)
    current = found.current_snapshot() if found else None
    return current.snapshot_id if current else None


def snapshot_summary(namespace: str, table: str, snapshot_id: int) -> dict[str, str]:
    """Return the summary of a snapshot, with the properties it was published with.

    Raises
    ------
    NotReadyError
        The snapshot does not exist, or was expired.
    """
    found = load(namespace, table)
    if found is None:
        raise NotReadyError(f"The table {namespace}.{table} does not exist.")
    _require_snapshot(found, snapshot_id)
    snapshot = found.snapshot_by_id(snapshot_id)
    assert snapshot is not None
    return dict(snapshot.summary.additional_properties) if snapshot.summary else {}


def summaries_since(namespace: str, table: str, known: Container[int]) -> list[dict[str, str]]:
    """Summaries of the snapshots since the newest `known` one, newest first."""
    found = load(namespace, table)
    snapshot = found.current_snapshot() if found else None
    summaries = []
    while found and snapshot and snapshot.snapshot_id not in known:
        summaries.append(dict(snapshot.summary.additional_properties) if snapshot.summary else {})
        parent = snapshot.parent_snapshot_id
        snapshot = found.snapshot_by_id(parent) if parent else None
    return summaries


def tables(namespace: str) -> list[str]:
    """Names of the tables of a namespace, sorted."""
    try:
        return sorted(name for _, name in catalog().list_tables((namespace,)))
    except NoSuchNamespaceError:
        return []


def tag(namespace: str, table: str, snapshot_id: int, name: str) -> None:
    """Give a snapshot a name, which protects it and its files from expiry for good.

    Safe to repeat and beside other commits; a name that exists moves to this snapshot.

    Raises
    ------
    NotReadyError
        The table does not exist, or the snapshot was expired.
    """
    for attempt in range(_SAME_DAY_ATTEMPTS):
        found = load(namespace, table)
        if found is None or found.snapshot_by_id(snapshot_id) is None:
            raise NotReadyError(
                f"{namespace}.{table} has no snapshot {snapshot_id}; it was expired. Run the step "
                "that read it again, on the newest snapshot."
            )
        known = found.metadata.refs.get(name)
        if known is not None and known.snapshot_id == snapshot_id:
            return
        try:
            found.manage_snapshots().create_tag(snapshot_id, name).commit()
        except (CommitFailedException, ValueError):
            # The latter where the snapshot was expired meanwhile; the next look says so.
            if attempt == _SAME_DAY_ATTEMPTS - 1:
                raise
            # Only commits of snapshots are retried by PyIceberg itself.
            logger.info("%s changed while a snapshot was tagged; starting again", found.name())
            pause(attempt)
        else:
            return


def tags(namespace: str, table: str) -> dict[str, int]:
    """Snapshot id per tag of a table, sorted by name."""
    found = load(namespace, table)
    refs = found.metadata.refs if found else {}
    named = {name: ref.snapshot_id for name, ref in refs.items() if name != MAIN_BRANCH}
    return dict(sorted(named.items()))


def partitions(namespace: str, table: str, snapshot_id: int | None = None) -> dict[date, int]:
    """Rows per day of a snapshot (the current one), oldest day first; empty days are absent."""
    found = load(namespace, table)
    if found is None or found.current_snapshot() is None:
        return {}
    with readable(_name(found)):
        listed = found.inspect.partitions(snapshot_id)
    if not listed.num_rows:
        # A snapshot without files lists no column `partition` either.
        return {}
    counts = {
        row["partition"]["day"]: row["record_count"]
        for row in listed.select(["partition", "record_count"]).to_pylist()
        if row["record_count"]
    }
    return dict(sorted(counts.items()))


def damaged_days(namespace: str, table: str) -> dict[date, str]:
    """Days with a data file that is missing or not of its size, and what was found.

    Notes
    -----
    Looks at names and sizes only; no file is read.
    """
    found = load(namespace, table)
    tasks = _tasks(found, AlwaysTrue()) if found else []
    access, days = LakeFileIO(), {}
    for task in tasks:
        path, expected = local_path(task.file.file_path), task.file.file_size_in_bytes
        try:
            size = len(access.new_input(path))
        except FileNotFoundError:
            days[_day_of(task)] = f"the file {path} is missing"
            continue
        if size != expected:
            days[_day_of(task)] = f"the file {path} has {size:,} bytes, expected {expected:,}"
    return dict(sorted(days.items()))


# --- staging -------------------------------------------------------------------------------------


def new_staging(use_case: str, step: str, label: str, run: str | None = None) -> Path:
    """Create a fresh directory for one attempt of one step.

    Its name is unique, so two attempts never share a file; a task that was taken for dead may
    still be writing. Attempts of one run lie together, and the run's publish removes them all.

    Parameters
    ----------
    run
        Identity of the run, the same for all attempts; None for a run of its own.
    """
    identity = hashlib.sha256((run or uuid.uuid4().hex).encode()).hexdigest()[:12]
    attempts = load_settings().staging / use_case / f"{step}-{label}-{identity}"
    folder = attempts / uuid.uuid4().hex[:12]
    folder.mkdir(parents=True)
    return folder


def drop_staging(folder: Path) -> None:
    """Remove what the attempts of a run have staged; it may already be gone."""
    shutil.rmtree(folder.parent, ignore_errors=True)


def days_between(start: date, end: date) -> list[date]:
    """Days of `[start, end)`."""
    return [start + timedelta(days=n) for n in range((end - start).days)]


# --- internals -----------------------------------------------------------------------------------


def _rows(
    table: Table,
    wanted: BooleanExpression,
    columns: tuple[str, ...] = ("*",),
    snapshot_id: int | None = None,
) -> pa.Table:
    scan = table.scan(row_filter=wanted, selected_fields=columns, snapshot_id=snapshot_id)
    with readable(_name(table)):
        tasks = list(scan.plan_files())
    return ArrowScan(table.metadata, table.io, scan.projection(), wanted).to_table(tasks)


def _tasks(
    table: Table, rows: BooleanExpression, snapshot_id: int | None = None
) -> list[FileScanTask]:
    with readable(_name(table)):
        return list(table.scan(row_filter=rows, snapshot_id=snapshot_id).plan_files())


def _day_of(task: FileScanTask) -> date:
    """Return the day that all rows of a file belong to: the only partition field."""
    return _EPOCH + timedelta(days=task.file.partition[0])


def _name(table: Table) -> str:
    return ".".join(table.name()[-2:])


def _require_snapshot(table: Table, snapshot_id: int) -> None:
    if table.snapshot_by_id(snapshot_id) is None:
        raise NotReadyError(
            f"{_name(table)} has no snapshot {snapshot_id}; it was expired. What it held can only "
            "be read from a backup made before."
        )


def _changed_days(
    target: Table, rows: pa.Table, days: list[date], part: Mapping[str, str | int]
) -> list[date]:
    if target.current_snapshot() is None:
        return days if rows.num_rows else []
    if not _tasks(target, _rows_of(days, part)):
        present = set(rows["day"].unique().to_pylist())
        return [day for day in days if day in present]
    before, after = _standing(target, days, part), digest_by_day(rows, days)
    return [day for day in days if before[day] != after[day]]


def _standing(
    target: Table, days: list[date], part: Mapping[str, str | int]
) -> dict[date, str | None]:
    """Digest what stands; None for a day that cannot be read, which is unlike anything."""
    try:
        rows = _rows(target, _rows_of(days, part))
    except (DamagedError, pa.ArrowInvalid, OSError) as error:
        if len(days) > 1:
            return {day: found for d in days for day, found in _standing(target, [d], part).items()}
        logger.warning("Replacing what cannot be read: %s", error)
        return {days[0]: None}
    return {**digest_by_day(rows, days)}


def _rows_of(days: list[date], part: Mapping[str, str | int]) -> BooleanExpression:
    found = _days_filter(days)
    for column, value in part.items():
        found = And(found, EqualTo(column, value))
    return found


class _Transaction(Transaction):
    """A transaction that works out its metadata once per state.

    PyIceberg copies the metadata, with all snapshots, at each of some fifteen looks at it during
    one commit, so that a commit takes time in proportion to the table's history. Nobody changes
    what such a look returns, and every change of state replaces one of the two objects.
    """

    _seen: tuple[Any, Any, Any] | None = None

    @property
    def table_metadata(self) -> Any:
        """The metadata with the staged updates applied."""
        base, updates = self._table.metadata, self._updates
        if self._seen is None or self._seen[0] is not base or self._seen[1] is not updates:
            self._seen = (base, updates, update_table_metadata(base, updates))
        return self._seen[2]


def pause(attempt: int) -> None:
    """Wait before starting again after a conflict: longer each time, and never in step."""
    time.sleep(random.uniform(0, 0.05 * 2**attempt))


def _overwrite(
    target: Table, rows: pa.Table, replaced: BooleanExpression, summary: dict[str, str]
) -> None:
    """Commit once; on a conflict over the same days start again from the newest snapshot.

    PyIceberg retries commits that touch other days by itself and refuses those that touch the
    same ones. Replacing a partition is idempotent, so starting again is right: the later wins.
    """
    for attempt in range(_SAME_DAY_ATTEMPTS):
        try:
            with warnings.catch_warnings(), _Transaction(target) as transaction:
                # A day that is published for the first time has nothing to delete.
                warnings.filterwarnings("ignore", "Delete operation did not match any records")
                transaction.overwrite(rows, replaced, summary)
        except (ValidationException, CommitFailedException):
            if attempt == _SAME_DAY_ATTEMPTS - 1:
                raise
            logger.info("%s changed while it was written; starting again", target.name())
            pause(attempt)
            target.refresh()
        else:
            return


def load(namespace: str, table: str) -> Table | None:
    """Return a table as it is now, or None if there is none.

    Raises
    ------
    DamagedError
        There is one, and its metadata cannot be read.
    """
    with readable(f"{namespace}.{table}"):
        try:
            return catalog().load_table((namespace, table))
        except NoSuchTableError:
            return None


def _ensure_table(namespace: str, table: str, schema: pa.Schema) -> Table:
    found = load(namespace, table)
    if found is None:
        found = _create(namespace, table, schema)
    added = [field for field in schema if field.name not in found.schema().column_names]
    if added:
        # A use case gained a column: old days keep null there until they are computed again.
        logger.info("%s.%s gains columns %s", namespace, table, [field.name for field in added])
        with found.update_schema() as update:
            update.union_by_name(pa.schema(added))
    return found


def _create(namespace: str, table: str, schema: pa.Schema) -> Table:
    try:
        catalog().create_namespace_if_not_exists((namespace,))
    except (NamespaceAlreadyExistsError, IntegrityError):
        logger.debug("namespace %s was created by another process", namespace)
    try:
        with (
            catalog().create_table_transaction(
                (namespace, table),
                schema=pa.schema([field.remove_metadata() for field in schema]),
                properties=_TABLE_PROPERTIES,
            ) as creation,
            creation.update_spec() as spec,
        ):
            spec.add_identity("day")
    except (TableAlreadyExistsError, CommitFailedException, IntegrityError):
        logger.debug("table %s.%s was created by another process", namespace, table)
    return catalog().load_table((namespace, table))


def _with_missing_columns(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    for field in schema:
        if field.name not in rows.column_names:
            rows = rows.append_column(field.name, pa.nulls(rows.num_rows, field.type))
    return rows


def _days_filter(days: list[date]) -> BooleanExpression:
    first, last = days[0], days[-1]
    if len(days) == (last - first).days + 1:
        return _range_filter(first, last + timedelta(days=1))
    return In("day", [day.isoformat() for day in days])


def _range_filter(start: date | None, end: date | None) -> BooleanExpression:
    bounds: list[BooleanExpression] = []
    if start is not None:
        bounds.append(GreaterThanOrEqual("day", start.isoformat()))
    if end is not None:
        bounds.append(LessThan("day", end.isoformat()))
    if not bounds:
        return AlwaysTrue()
    return bounds[0] if len(bounds) == 1 else And(*bounds)
