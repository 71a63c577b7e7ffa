"""Reading: files planned and rows read, of one snapshot."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyiceberg.expressions import (
    AlwaysTrue,
    And,
    BooleanExpression,
    EqualTo,
)
from pyiceberg.io.pyarrow import ArrowScan

from evergreen.errors import NotReadyError
from evergreen.lake.iceberg import (
    day_of,
    days_filter,
    exists,
    load,
    name_of,
    range_filter,
    require_snapshot,
    tasks_of,
    with_missing_columns,
)
from evergreen.lake.sealed import LakeFileIO, local_path, open_intact, readable

if TYPE_CHECKING:
    from pyiceberg.table import FileScanTask, Table

# Unbuffered, whole column chunks are read; up to a million rows each.
_READ_BUFFER_BYTES = 1 << 20


@dataclass(frozen=True)
class Scan:
    """The Parquet files that make up (some days of) one snapshot of a table.

    Parameters
    ----------
    by_day
        Absolute paths or URLs; days without rows are absent.
    snapshot_id
        The snapshot planned from; None when the table has no snapshot.
    schema
        Arrow schema of the table; None when the table does not exist.
    """

    by_day: Mapping[date, tuple[str, ...]]
    snapshot_id: int | None
    schema: pa.Schema | None

    @property
    def paths(self) -> tuple[str, ...]:
        """All of them, sorted."""
        return tuple(sorted(path for paths in self.by_day.values() for path in paths))


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
        return Scan({}, None, None)
    current = found.current_snapshot()
    used = snapshot_id or (current.snapshot_id if current else None)
    schema = found.schema().as_arrow()
    if used is None:
        return Scan({}, None, schema)
    pinned = {
        day: pin
        for day, pin in (pins or {}).items()
        if (start is None or start <= day) and (end is None or day < end)
    }
    require_snapshot(found, used)
    tasks = tasks_of(found, range_filter(start, end), used)
    tasks = [task for task in tasks if day_of(task) not in pinned]
    for day, pin in pinned.items():
        if pin and (days is None or day in days):
            require_snapshot(found, pin)
            tasks += tasks_of(found, days_filter([day]), pin)
    by_day = _by_day(task for task in tasks if days is None or day_of(task) in days)
    return Scan(by_day, used, schema)


def files(
    namespace: str, table: str, end: date | None = None, snapshot_id: int | None = None
) -> Files:
    """Plan the files of the days before `end`, by day; see `scan`."""
    found = load(namespace, table)
    used = snapshot_id or (found.metadata.current_snapshot_id if found else None)
    if found is None or used is None:
        return Files({}, None)
    require_snapshot(found, used)
    return Files(_by_day(tasks_of(found, range_filter(None, end), used)), used)


def _by_day(tasks: Iterable[FileScanTask]) -> dict[date, tuple[str, ...]]:
    """Return the files of each day, both ascending."""
    by_day: dict[date, list[str]] = {}
    for task in tasks:
        by_day.setdefault(day_of(task), []).append(local_path(task.file.file_path))
    return {day: tuple(sorted(by_day[day])) for day in sorted(by_day)}


def read(
    namespace: str,
    table: str,
    start: date | None = None,
    end: date | None = None,
    columns: Sequence[str] = ("*",),
    snapshot_id: int | None = None,
    equal: Mapping[str, str | int] | None = None,
) -> pa.Table:
    """Read the days `[start, end)` into memory.

    Parameters
    ----------
    equal
        Values that rows must have, by column; others are left out while files are read.

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
        require_snapshot(found, snapshot_id)
    wanted = range_filter(start, end)
    for name, value in (equal or {}).items():
        wanted = And(wanted, EqualTo(name, value))
    return rows_of(found, wanted, tuple(columns), snapshot_id)


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
                piece = with_missing_columns(pa.Table.from_batches([batch]), wanted)
                yield piece.select(columns).cast(wanted)


def read_day(namespace: str, table: str, day: date, snapshot_id: int | None = None) -> pa.Table:
    """Read one day; see `read`."""
    return read(namespace, table, day, day + timedelta(days=1), snapshot_id=snapshot_id)


def rows(
    namespace: str,
    table: str,
    first: date | None = None,
    last: date | None = None,
    columns: Sequence[str] = ("*",),
    equal: Mapping[str, str | int] | None = None,
) -> list[dict[str, Any]]:
    """Return the rows of the days from `first` to `last`, both included, as plain values.

    Parameters
    ----------
    columns
        All of them unless some are named; `day` is always among them.
    equal
        Values that rows must have, by column.

    Returns
    -------
    list
        Oldest day first; empty where the table does not exist yet.
    """
    if not exists(namespace, table):
        return []
    end = None if last is None else last + timedelta(days=1)
    wanted = columns if "*" in columns else [*dict.fromkeys(("day", *columns))]
    found: list[dict[str, Any]] = read(
        namespace, table, first, end, wanted, equal=equal
    ).to_pylist()
    return sorted(found, key=lambda row: row["day"])


def partitions(namespace: str, table: str, snapshot_id: int | None = None) -> dict[date, int]:
    """Rows per day of a snapshot (the current one), oldest day first; empty days are absent."""
    found = load(namespace, table)
    if found is None or found.current_snapshot() is None:
        return {}
    with readable(name_of(found)):
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
    tasks = tasks_of(found, AlwaysTrue()) if found else []
    access, days = LakeFileIO(), {}
    for task in tasks:
        path, expected = local_path(task.file.file_path), task.file.file_size_in_bytes
        try:
            size = len(access.new_input(path))
        except FileNotFoundError:
            days[day_of(task)] = f"the file {path} is missing"
            continue
        if size != expected:
            days[day_of(task)] = f"the file {path} has {size:,} bytes, expected {expected:,}"
    return dict(sorted(days.items()))


def rows_of(
    table: Table,
    wanted: BooleanExpression,
    columns: tuple[str, ...] = ("*",),
    snapshot_id: int | None = None,
) -> pa.Table:
    """Read wanted rows of a table that was loaded before."""
    scan = table.scan(row_filter=wanted, selected_fields=columns, snapshot_id=snapshot_id)
    with readable(name_of(table)):
        tasks = list(scan.plan_files())
    return ArrowScan(table.metadata, table.io, scan.projection(), wanted).to_table(tasks)
