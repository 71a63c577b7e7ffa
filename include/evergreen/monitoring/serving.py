"""What the online store serves tonight: logged for a sample of entities, and held against features.

The table `served` keeps what a client would have been given, `skew` how it compares: with the row
of `features` of the very day that a value claims to be of, and, of fewer entities, with that row
computed again from events. The online store has no past, so only the newest night looks at it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import date, timedelta
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from duckdb import ColumnExpression

from evergreen import lake
from evergreen.contract import UseCase
from evergreen.errors import NotReadyError, PermanentError
from evergreen.features.compute import totals
from evergreen.features.compute.comparison import same_values
from evergreen.features.compute.run import feature_schema, iter_features
from evergreen.features.store import OnlineReader
from evergreen.lake.iceberg import with_missing_columns
from evergreen.lake.opening import open_files
from evergreen.monitoring.night import publish
from evergreen.monitoring.recompute import is_newest
from evergreen.monitoring.skew import (
    AS_OF,
    Outcome,
    SkewRow,
    compare,
    sample_keys,
    skew_table,
    summarise,
)
from evergreen.provenance import commands, receipts
from evergreen.provenance.staleness import find_stale
from evergreen.sql.connection import opened
from evergreen.sql.shards import Shard

logger = logging.getLogger(__name__)

# Entities whose features are computed again, with all others of their shard.
_RECOMPUTED = 100
_ROWS = 100_000
# Days that are told to be materialised again, the newest.
_DAYS_TOLD = 5
_ONE_DAY = timedelta(days=1)


def skew(use_case: UseCase, tonight: date) -> dict[str, Any]:
    """Log what the online store serves, and compare it with what features are.

    Returns
    -------
    dict
        What the governor is told, and `not_measured`: why, if nothing was. Differences are
        `warnings` until more than `monitoring.max_skew` of the entities differ in a feature.
    """
    try:
        served, newest = _read(use_case, tonight)
    except NotReadyError as error:
        logger.info("skew of %s is not measured: %s", tonight, error)
        return {"not_measured": str(error), "incidents": [], "bad": []}
    publish(use_case, tonight, "log_served", "served", _logged(tonight, served), tonight)
    try:
        rows, days = _compare(use_case, served, newest)
        pushed = _pushed(use_case, tonight)
    except PermanentError as error:
        return {"not_measured": None, "incidents": [str(error).rstrip(".")], "bad": []}
    table = skew_table(tonight, [*rows, *pushed])
    publish(use_case, tonight, "measure_skew", "skew", table, tonight)
    differing = [row for row in rows if row.differing]
    limit = use_case.monitoring.max_skew
    many = [row.describe() for row in differing if row.differing > limit * row.keys]
    few = [row.describe() for row in differing if row.differing <= limit * row.keys]
    mend = [commands.run_day(f"{use_case.name}_features", day) for day in days[-_DAYS_TOLD:]]
    for warning in few:
        logger.warning("skew: %s; mend it with: %s", warning, "; ".join(mend))
    # The batch has replaced them: it knew more, or something that was pushed never arrived.
    replaced = [row.describe() for row in pushed if row.differing]
    for warning in replaced:
        logger.warning("skew: %s", warning)
    return {
        "not_measured": None,
        "incidents": many,
        "bad": [],
        "warnings": [*few, *replaced],
        "mend": mend,
    }


def _read(use_case: UseCase, tonight: date) -> tuple[pa.Table, date]:
    """Read what is served to a sample of entities; and the newest day there are features of.

    Raises
    ------
    NotReadyError
        There is nothing to be measured tonight.
    """
    keys_wanted = use_case.monitoring.skew_keys
    if use_case.base:
        raise NotReadyError(f"the online values are those of {use_case.base}, whose nights do")
    if not keys_wanted:
        raise NotReadyError("monitoring.skew_keys is 0")
    if not is_newest(use_case, tonight):
        raise NotReadyError("the night is past, and the online store says what is served now")
    published = receipts.standing(use_case.name, "features")
    newest = max((day for day in published if day <= tonight), default=None)
    if newest is None:
        raise NotReadyError("there are no features yet")
    with OnlineReader(use_case) as reader:
        online = sample_keys(reader.keys(), keys_wanted)
        if not len(online):
            raise NotReadyError("nothing has been materialised yet")
        stored = lake.scan(use_case.name, "features", newest, newest + _ONE_DAY)
        key = use_case.entity.key
        pieces = lake.stream(stored, [key], _ROWS)
        offline = (piece[key].cast(online.type).combine_chunks() for piece in pieces)
        keys = sample_keys(chain([online], offline), keys_wanted)
        return reader.read(keys.to_pylist()), newest


def _logged(night: date, served: pa.Table) -> pa.Table:
    days = pa.array([night] * served.num_rows, pa.date32())
    return served.add_column(0, "day", days)


def _compare(use_case: UseCase, served: pa.Table, newest: date) -> tuple[list[SkewRow], list[date]]:
    """Hold served values against both references; also return the days that differ."""
    served = _without_pushed(use_case, served, newest)
    keys, names = served[use_case.entity.key].to_pylist(), use_case.feature_names
    claimed = [_claimed(use_case, as_of) for as_of in served["as_of"].to_pylist()]
    stored = _stored(use_case, served, claimed, newest)
    allowed = use_case.max_staleness_days("features")
    outcomes = {AS_OF: _outcome_of_days(served, claimed, stored, allowed)}
    outcomes |= {name: compare(served[name], stored[name]) for name in names}
    served_day = max((day for day in claimed if day), default=None)
    rows = [
        summarise(name, "features", served_day, keys, outcome) for name, outcome in outcomes.items()
    ]
    differing = np.any([outcome.differing for outcome in outcomes.values()], axis=0)
    held = stored["held_day"].to_pylist()
    bad = {held[n] or claimed[n] or newest for n in np.flatnonzero(differing)}
    # Every night another shard, or all if there is one only.
    shard = Shard(newest.toordinal() % use_case.shards, use_case.shards)
    sample = served.filter(pa.array([day == newest for day in claimed], pa.bool_()))
    with opened("served") as connection:
        sample = shard.rows_of(sample, use_case.entity.key, connection).slice(0, _RECOMPUTED)
    if sample.num_rows and _is_current(use_case, newest):
        computed = _recomputed(use_case, sample[use_case.entity.key], newest, shard)
        sampled = sample[use_case.entity.key].to_pylist()
        again = {name: compare(sample[name], computed[name], same_values) for name in names}
        rows += [
            summarise(name, "recomputed", newest, sampled, outcome)
            for name, outcome in again.items()
        ]
        if any(outcome.differing.any() for outcome in again.values()):
            bad.add(newest)
    return rows, sorted(bad)


def _without_pushed(use_case: UseCase, served: pa.Table, newest: date) -> pa.Table:
    """Leave out what was pushed since the newest day: the night of its own day compares it."""
    newest_as_of = use_case.as_of(newest)
    kept = [
        as_of is None or as_of <= newest_as_of or _claimed(use_case, as_of) is not None
        for as_of in served["as_of"].to_pylist()
    ]
    return served.filter(pa.array(kept, pa.bool_()))


def _pushed(use_case: UseCase, tonight: date) -> list[SkewRow]:
    """Hold what was pushed last of each entity on a day against the features of the day."""
    if not lake.exists(use_case.name, "pushed"):
        return []
    pushed = lake.read_day(use_case.name, "pushed", tonight)
    if not pushed.num_rows:
        return []
    stored = _stored(use_case, pushed, [tonight] * pushed.num_rows, tonight)
    keys = pushed[use_case.entity.key].to_pylist()
    return [
        summarise(
            *(name, "pushed", tonight, keys),
            compare(pushed[name], stored[name], same_values),
        )
        for name in use_case.feature_names
    ]


def _claimed(use_case: UseCase, as_of: Any) -> date | None:
    """Return the day that a served row claims to be of; None if it ends none."""
    if as_of is None:
        return None
    day = use_case.day_of(as_of)
    return day if use_case.as_of(day) == as_of else None


def _stored(
    use_case: UseCase, served: pa.Table, claimed: Sequence[date | None], newest: date
) -> pa.Table:
    """Return the stored row behind each served one, in the same order; null where there is none.

    Whoever is not served should be with the newest row there is. Beside the features: `held_day`,
    the day of the row, and `newest_day`, the newest on which the entity has one.
    """
    key, kinds = use_case.entity.key, feature_schema(use_case)
    keys = served[key].combine_chunks()
    schema = pa.schema(
        [kinds.field(key), ("day", pa.date32()), *map(kinds.field, use_case.feature_names)]
    )
    first = min((day for day in claimed if day), default=newest)
    found = lake.scan(use_case.name, "features", first, newest + _ONE_DAY)
    rows, newest_day = schema.empty_table(), pa.nulls(len(keys), pa.date32())
    if found.paths:
        with opened("served") as connection:
            files = open_files(connection, found.paths)
            asked = connection.from_arrow(pa.table({key: keys}))
            last = files.join(asked, f'"{key}"').aggregate(
                f'"{key}", max(day) AS newest_day', f'"{key}"'
            )
            newest_day = _in_order(last.to_arrow_table(), key, keys)["newest_day"]
            is_served = pc.is_valid(served["as_of"])
            wanted = pc.if_else(is_served, pa.array(claimed, pa.date32()), newest_day)
            asked = connection.from_arrow(pa.table({key: keys, "day": wanted}))
            # A feature that is new is in no file of older days.
            columns = [name for name in schema.names if name in files.columns]
            joined = files.join(asked, f'"{key}", day').select(*map(ColumnExpression, columns))
            rows = with_missing_columns(joined.to_arrow_table(), schema)
    held = _in_order(rows.select(schema.names).cast(schema), key, keys)
    return held.rename_columns({"day": "held_day"}).append_column("newest_day", newest_day)


def _in_order(rows: pa.Table, key: str, keys: pa.Array) -> pa.Table:
    """Bring rows into the order of keys, with nulls where a key has none."""
    have = rows[key].cast(keys.type).combine_chunks()
    return rows.drop_columns(key).take(pc.index_in(keys, value_set=have))


def _outcome_of_days(
    served: pa.Table, claimed: Sequence[date | None], stored: pa.Table, allowed_days: int
) -> Outcome:
    """Say of each entity whether it is served, with a row there is, and one that is new enough."""
    outcome = compare(served["as_of"], stored["held_day"], lambda *_: np.ones(len(claimed), bool))
    behind = [
        None not in (day, newest) and (newest - day).days > allowed_days
        for day, newest in zip(claimed, stored["newest_day"].to_pylist(), strict=True)
    ]
    mismatch = np.array(behind) & ~outcome.differing
    return Outcome(mismatch, outcome.missing, outcome.extra)


def _is_current(use_case: UseCase, day: date) -> bool:
    """Whether features of a day are what its inputs say now; else they are owed, and listed."""
    stale = any(item.table == "features" and item.day == day for item in find_stale(use_case))
    if stale:
        logger.warning("features of %s are stale, and are not held against events", day)
    return not stale


def _recomputed(use_case: UseCase, keys: pa.ChunkedArray, day: date, shard: Shard) -> pa.Table:
    tables, basis = use_case.read_by(use_case.features_sql), receipts.newest_sequence()
    given, _ = totals.plan(use_case, tables, [day], day + _ONE_DAY, basis)
    ((_, computed),) = iter_features(use_case, given, [day], shard=shard)
    return _in_order(computed, use_case.entity.key, keys.combine_chunks())
