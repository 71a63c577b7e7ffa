"""Features of the newest day before each entity row, by a plain equality join.

All rows of a day of features have one timestamp, the as-of of the day. So whoever has a row on the
newest day at or before an instant has no newer one: that row is what a point-in-time join would
find, without reading the days before and without comparing any two. Those who have no row there,
or several, are left to Feast's join.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from duckdb import ColumnExpression
from feast import FeatureView

from evergreen.contract import as_of
from evergreen.features.compute.result import INSTANT
from evergreen.features.store.offline_store import (
    LakeOfflineStoreConfig,
    open_duckdb,
    plan,
    usable_intervals,
)
from evergreen.lake.opening import open_files

ROW = "entity_row"


def join_newest_day(
    config: LakeOfflineStoreConfig, view: FeatureView, entities: pa.Table
) -> pa.Table:
    """Join the entity rows that have exactly one value on the newest day that is usable for them.

    Parameters
    ----------
    view
        A feature view on a table of the lake.
    entities
        The view's join key, `as_of` (timestamp[us, UTC]) and `ROW`, the number of the row, from 0
        on. Not modified.

    Returns
    -------
    pa.Table
        `ROW` and the view's features, of some of the rows and in no order.

    Raises
    ------
    NotReadyError
        A snapshot was expired.
    """
    names = [ROW, *(field.name for field in view.features)]
    nothing = pa.table({name: pa.array([], pa.int64()) for name in names})
    (key,), time = view.join_keys, view.batch_source.timestamp_field
    instants = entities["as_of"].unique().to_pylist()
    planned = plan(config, view.batch_source, usable_intervals([view], instants))
    if not planned.by_day:
        return nothing
    stamps = [as_of(day, view.batch_source.zone) for day in planned.by_day]
    published = pa.array(stamps, INSTANT).to_numpy(zero_copy_only=False)
    at = entities["as_of"].to_numpy()
    newest = np.searchsorted(published, at, side="right") - 1
    usable = newest >= 0
    if view.ttl:
        usable &= at - published[newest] < np.timedelta64(view.ttl)
    by_day = [*planned.by_day.values()]
    paths = [path for day in np.unique(newest[usable]) for path in by_day[day]]
    if not paths:
        return nothing
    with open_duckdb(config) as connection:
        features = open_files(connection, paths)
        if not {*names} - {ROW} <= {*features.columns}:
            # Older days may have what these lack.
            return nothing
        # Null, which equals nothing, where no day is usable.
        wanted = pa.array(published[newest], mask=~usable).cast(INSTANT)
        asked = pa.table({key: entities[key], time: wanted, ROW: entities[ROW]})
        matched = features.join(connection.from_arrow(asked), f'"{key}", "{time}"')
        joined = matched.select(*map(ColumnExpression, names)).to_arrow_table()
    rows = joined[ROW].to_numpy()
    once = np.bincount(rows)[rows] == 1
    return joined if once.all() else joined.filter(once)
