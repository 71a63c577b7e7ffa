"""From a day of features to the online store, which only moves forward.

Online values of customers that leave the population are not deleted: they keep the features of
the last day they were in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from duckdb import ColumnExpression, ConstantExpression

from evergreen import lake
from evergreen.contract import UseCase
from evergreen.errors import NotReadyError
from evergreen.features.compute.result import INSTANT
from evergreen.features.compute.run import feature_schema
from evergreen.features.store.online_store import ForwardPostgresOnlineStore
from evergreen.features.store.opening import applied_view, open_store
from evergreen.lake.opening import open_files
from evergreen.settings import load_settings
from evergreen.sql.connection import opened

# Entities of a day in memory at once while it is materialized.
_ROWS_AT_ONCE = 10_000


@dataclass(frozen=True)
class Materialized:
    """What one materialization wrote.

    Parameters
    ----------
    rows
        Entities that were written.
    snapshot_id
        Snapshot of the `features` table that was read.
    """

    rows: int
    snapshot_id: int


def materialize(
    use_case: UseCase, day: date, snapshot_id: int | None = None, *, since: date | None = None
) -> Materialized:
    """Push the features of one day to the online store, which only moves forward.

    Values of a later day stay; repeating a day, or publishing a correction of it with a later
    `created_at`, overwrites that day. Days may come in any order and at the same time.

    Parameters
    ----------
    use_case
        Applied before with `apply`.
    day
        Exactly this partition is read, unless `since` is earlier.
    snapshot_id
        Snapshot of the `features` table; None reads the current one.
    since
        First day of a range that ends with `day`: entities that left the population within it get
        the features of their last day in it, as if the days were materialized one by one. Days of
        the range may be empty.

    Raises
    ------
    NotReadyError
        The features of the day were not published, or the use case was not applied.

    Notes
    -----
    Who was in an earlier version of a day and is no longer (its events were corrected away), or
    was pushed and is not in the day, gets the features of the last day that it was in, or none.

    Goes from the lake's files to the online store piece by piece, so memory does not grow with
    the day. Feast's own materialization writes the same bytes, but holds every value of the day
    as a Python object before it writes the first.
    """
    first = day if since is None else since
    days = lake.days_between(first, day + timedelta(days=1))
    with open_store(load_settings()) as store:
        view = applied_view(store, use_case)
        online = ForwardPostgresOnlineStore()
        # One after the other, and each of what stands then: otherwise the slower of two would
        # bring back somebody whom the faster has removed.
        with online.alone(store.config, view):
            found = lake.scan(use_case.name, "features", day, day + timedelta(days=1), snapshot_id)
            if found.snapshot_id is None or (since is None and not found.paths):
                raise NotReadyError(
                    f"{use_case.name}.features has no rows for {day}. Run "
                    f"{use_case.name}_features for that day first."
                )
            newest = _NewestRows(use_case, found.snapshot_id)
            online.write_tables(store.config, view, newest.of(days))
            # Whoever is still there with an older version of one of these days is no longer in it.
            standing = {use_case.as_of(day): newest.created_at.get(day) for day in days}
            gone = online.left_over(store.config, view, standing)
            if gone:
                earlier = newest.up_to(day, use_case.first_day, gone)
                online.replace(store.config, view, standing, gone, earlier)
    return Materialized(newest.rows, found.snapshot_id)


class _NewestRows:
    """Each entity's newest row of some days, newest day first, in pieces.

    Counts in `rows` what it gave, and keeps in `created_at` when each day it saw was published.
    """

    def __init__(self, use_case: UseCase, snapshot_id: int) -> None:
        self._use_case, self._snapshot_id = use_case, snapshot_id
        self._schema = feature_schema(use_case).append(pa.field("created_at", INSTANT))
        self.rows = 0
        self.created_at: dict[date, datetime] = {}

    def of(self, days: Sequence[date]) -> Iterator[pa.Table]:
        """Yield the newest row within the days of everybody who is in one of them."""
        *earlier, last = days
        for piece in lake.stream(self._scan(last, last), self._schema.names, _ROWS_AT_ONCE):
            yield self._noted(piece.cast(self._schema))
        if earlier:
            # Nearly all of them stayed to the last day; the others left on a few.
            yield from self._newest(days[0], last, without=last)

    def up_to(self, day: date, first_day: date, keys: Sequence[Any]) -> list[pa.Table]:
        """Return the newest row up to a day of those of the entities that have one."""
        kind = self._schema.field(self._use_case.entity.key).type
        wanted = pa.array(keys, kind)
        return list(self._newest(first_day, day, among=wanted))

    def _newest(
        self, first: date, last: date, *, among: pa.Array | None = None, without: date | None = None
    ) -> Iterator[pa.Table]:
        key = self._use_case.entity.key
        kind = self._schema.field(key).type
        found = self._scan(first, last)
        if not found.paths:
            return
        with opened("newest") as connection:
            files = open_files(connection, found.paths).select(key, "day", "created_at")
            if among is not None:
                files = files.filter(
                    ColumnExpression(key).isin(*map(ConstantExpression, among.to_pylist()))
                )
            newest = files.aggregate(f'"{key}", max(day) AS day', f'"{key}"').to_arrow_table()
            if among is None:
                made = files.aggregate("day, min(created_at)", "day").fetchall()
                self.created_at.update(dict(made))
        for day in sorted(set(newest["day"].to_pylist()) - {without}, reverse=True):
            keys = newest.filter(pc.equal(newest["day"], day))[key].cast(kind)
            span = (self._use_case.name, "features", day, day + timedelta(days=1))
            rows = lake.read(*span, self._schema.names, self._snapshot_id)
            rows = rows.select(self._schema.names).cast(self._schema)
            yield self._noted(rows.filter(pc.is_in(rows[key], value_set=keys.combine_chunks())))

    def _noted(self, rows: pa.Table) -> pa.Table:
        if rows.num_rows:
            day = self._use_case.day_of(rows["as_of"][0].as_py())
            oldest = pc.min(rows["created_at"]).as_py()
            self.created_at[day] = min(oldest, self.created_at.get(day, oldest))
        self.rows += rows.num_rows
        return rows

    def _scan(self, first: date, last: date) -> lake.Scan:
        end = last + timedelta(days=1)
        return lake.scan(self._use_case.name, "features", first, end, self._snapshot_id)
