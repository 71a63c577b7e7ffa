"""The lake: Iceberg tables partitioned by day, replaced one partition at a time.

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

import logging
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
from pyiceberg.exceptions import (
    CommitFailedException,
    NamespaceAlreadyExistsError,
    TableAlreadyExistsError,
    ValidationException,
)
from pyiceberg.expressions import (
    And,
    BooleanExpression,
    EqualTo,
)
from pyiceberg.table import Transaction
from pyiceberg.table.update import update_table_metadata
from sqlalchemy.exc import IntegrityError

from evergreen.disk import room_on
from evergreen.errors import BusyError, ConfigError, DamagedError
from evergreen.lake.content import ORIGINS, STAMPS, digest_by_day
from evergreen.lake.iceberg import (
    ATTEMPTS,
    catalog,
    days_filter,
    load,
    pause,
    tasks_of,
    with_missing_columns,
)
from evergreen.lake.reading import rows_of
from evergreen.settings import load_settings

if TYPE_CHECKING:
    from pyiceberg.table import Table
    from pyiceberg.table.snapshots import Snapshot

logger = logging.getLogger(__name__)

# The filters of warnings are the whole process's: whoever changes them beside another thread puts
# back what that one has set.
_FILTERING = threading.Lock()

# In the summary of every snapshot: the oldest day that it replaced.
FIRST_DAY = "evergreen.first-day"
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
    content
        What each day says: its digest without `STAMPS` and `ORIGINS`, see `lake.content`.
    """

    table: str
    snapshot_id: int
    rows: int
    changed: tuple[date, ...]
    content: Mapping[date, str]


Committing = Callable[[], AbstractContextManager[Callable[[Published], None]]]


@contextmanager
def _unheard() -> Iterator[Callable[[Published], None]]:
    yield lambda _: None


def publish(
    namespace: str,
    table: str,
    rows: pa.Table,
    days: Sequence[date],
    properties: Mapping[str, str] | None = None,
    part: Mapping[str, str | int] | None = None,
    committing: Committing = _unheard,
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
    committing
        Entered for the commit alone, to keep other publishers out; what it gives is told what was
        published. Rows are read, digested and written before, and again if meanwhile somebody
        else has changed what they replace.

    Raises
    ------
    ValueError
        A row belongs to a day that is not published; that is a programming error.
    ConfigError
        A column of the table has another type.
    DiskFullError
        There is no room in the warehouse; nothing was committed.
    """
    wanted = sorted(set(days))
    strays = set(rows["day"].unique().to_pylist()) - set(wanted)
    if strays or not wanted:
        raise ValueError(f"{namespace}.{table}: rows of {sorted(map(str, strays))} not in {days}")
    summary = {f"evergreen.{key}": value for key, value in (properties or {}).items()}
    content = digest_by_day(rows, wanted, STAMPS | ORIGINS)
    with room_on(load_settings().warehouse):
        target = _ensure_table(namespace, table, rows.schema)
        complete = with_missing_columns(rows, target.schema().as_arrow())
        complete = complete.select([field.name for field in target.schema().fields])
        for attempt in range(ATTEMPTS):
            seen = _files(target, wanted, part)
            changed = (
                _changed_days(target, complete, wanted, part)
                if seen
                else [day for day in wanted if content[day]]
            )
            commit = _prepare(target, complete, changed, part, summary)
            with committing() as tell, suppress(ValidationException, CommitFailedException):
                newest = catalog().load_table((namespace, table))
                if _files(newest, wanted, part) == seen:
                    snapshot = commit() if changed else newest.current_snapshot()
                    published = Published(
                        f"{namespace}.{table}",
                        # Publishing no rows into a table that never had any makes no snapshot; the
                        # days are recorded by their receipts all the same.
                        snapshot.snapshot_id if snapshot else 0,
                        rows.num_rows,
                        tuple(changed),
                        content,
                    )
                    tell(published)
                    return published
            logger.info("%s changed while it was written; starting again", target.name())
            pause(attempt)
            target = newest.refresh()
    raise BusyError(
        f"{namespace}.{table}: others changed the days {wanted[0]} to {wanted[-1]} each of the "
        f"{ATTEMPTS} times they were to be replaced. Try again when those runs have ended."
    )


def _files(target: Table, days: list[date], part: Mapping[str, str | int] | None) -> set[str]:
    """Name the files that hold what a publish replaces."""
    if target.current_snapshot() is None:
        return set()
    return {task.file.file_path for task in tasks_of(target, _filter_of(days, part))}


def _changed_days(
    target: Table, rows: pa.Table, days: list[date], part: Mapping[str, str | int] | None
) -> list[date]:
    before, after = _standing(target, days, part), digest_by_day(rows, days)
    return [day for day in days if before[day] != after[day]]


def _standing(
    target: Table, days: list[date], part: Mapping[str, str | int] | None
) -> dict[date, str | None]:
    """Digest what stands; None for a day that cannot be read, which is unlike anything."""
    try:
        rows = rows_of(target, _filter_of(days, part))
    except (DamagedError, pa.ArrowInvalid, OSError) as error:
        if len(days) > 1:
            return {day: found for d in days for day, found in _standing(target, [d], part).items()}
        logger.warning("Replacing what cannot be read: %s", error)
        return {days[0]: None}
    return {**digest_by_day(rows, days)}


def _filter_of(days: list[date], part: Mapping[str, str | int] | None) -> BooleanExpression:
    found = days_filter(days)
    for column, value in (part or {}).items():
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


def _prepare(
    target: Table,
    rows: pa.Table,
    days: list[date],
    part: Mapping[str, str | int] | None,
    summary: dict[str, str],
) -> Callable[[], Snapshot | None]:
    """Write files of the rows of some days; return what replaces those days by them.

    PyIceberg itself tries commits beside others to other days again, and refuses those beside
    others to the same days.
    """
    transaction = _Transaction(target)
    if days:
        replacing = rows.filter(pc.is_in(rows["day"], pa.array(days, pa.date32())))
        with _FILTERING, warnings.catch_warnings():
            # A day that is published for the first time has nothing to delete.
            warnings.filterwarnings("ignore", "Delete operation did not match any records")
            transaction.overwrite(
                replacing,
                _filter_of(days, part),
                summary | {FIRST_DAY: min(days).isoformat()},
            )
    return lambda: transaction.commit_transaction().current_snapshot()


def _ensure_table(namespace: str, table: str, schema: pa.Schema) -> Table:
    found = load(namespace, table)
    if found is None:
        found = _create(namespace, table, schema)
    if changed := find_retyped(found.schema().as_arrow(), schema):
        raise ConfigError(
            f"{namespace}.{table} is to get {'; '.join(changed)}. A column keeps its type, for the "
            "days that are there: give it another name (and a target of another kind another use "
            "case), or declare the type it has."
        )
    added = [field for field in schema if field.name not in found.schema().column_names]
    if added:
        # A use case gained a column: old days keep null there until they are computed again.
        logger.info("%s.%s gains columns %s", namespace, table, [field.name for field in added])
        with found.update_schema() as update:
            update.union_by_name(pa.schema([field.with_nullable(True) for field in added]))
    return found


def find_retyped(stored: pa.Schema, wanted: pa.Schema) -> list[str]:
    """Say which columns of a table are to be of another type than they are.

    >>> find_retyped(pa.schema([("size", pa.large_string())]), pa.schema([("size", pa.int64())]))
    ['size as int64, which is string there']
    """
    found = []
    for field in wanted:
        if field.name in stored.names and not pa.types.is_nested(field.type):
            # Iceberg knows one type of text, Arrow several.
            was, now = (
                str(kind).removeprefix("large_")
                for kind in (stored.field(field.name).type, field.type)
            )
            if was != now:
                found.append(f"{field.name} as {now}, which is {was} there")
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
