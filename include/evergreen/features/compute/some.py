"""Features of some entities, with rows that no table holds yet: what a batch would make of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from datetime import date, timedelta

import pyarrow as pa
import pyarrow.compute as pc

from evergreen import lake
from evergreen.contract import UseCase
from evergreen.features.compute import totals
from evergreen.features.compute.past import Given
from evergreen.features.compute.run import iter_features
from evergreen.provenance import receipts
from evergreen.sql.shards import Chosen

_ONE_DAY = timedelta(days=1)


def compute_some(
    use_case: UseCase,
    keys: Collection[str | int],
    day: date,
    more: Mapping[str, pa.Table],
) -> pa.Table:
    """Compute the features of some entities for a day, by the SQL and engine of the batch.

    Parameters
    ----------
    keys
        At least one.
    more
        By table, rows that came beside the lake: published columns and `day`. Those of days that
        the lake has are left out.

    Returns
    -------
    pa.Table
        As `compute_features`, of those of the entities that have a row.

    Notes
    -----
    Publishes nothing. Reads what the batch reads, and keeps the rows of these entities only.
    """
    end, basis = day + _ONE_DAY, receipts.newest_sequence()
    tables = use_case.read_by(use_case.features_sql)
    # Totals of a month that begins today are not there yet; those of the newest day are.
    published = receipts.newest_day(use_case.name, "publish_features") or day
    start = [min(published, day)]
    given, snapshots = totals.plan(use_case, tables, start, end, basis, keep=False)
    for table in tables:
        if table.name not in more:
            continue
        rows, snapshot = more[table.name], snapshots[table.name]
        if snapshot:
            days = pa.array(sorted(set(rows["day"].to_pylist())), pa.date32())
            held = lake.scan(use_case.name, table.name, snapshot_id=snapshot, days=days.to_pylist())
            rows = rows.filter(
                pc.invert(pc.is_in(rows["day"], pa.array([*held.by_day], pa.date32())))
            )
        given[table.name] = replace(given.get(table.name, Given(())), rows=rows)
    shard = Chosen(keys=tuple(sorted(keys)))
    ((_, computed),) = iter_features(use_case, given, [day], shard=shard)
    return computed
