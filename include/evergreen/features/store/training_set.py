"""Features joined to labelled rows, point in time, through Feast."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from evergreen.contract import UseCase, arrow
from evergreen.errors import ConfigError, ConservationError
from evergreen.features.compute.result import INSTANT
from evergreen.features.compute.run import feature_schema
from evergreen.features.store.definitions import service_name
from evergreen.features.store.newest_day import ROW, join_newest_day
from evergreen.features.store.offline_store import LakeOfflineStoreConfig
from evergreen.features.store.opening import applied_view, open_store
from evergreen.settings import load_settings


def training_set(
    use_case: UseCase,
    entity_frame: pa.Table,
    *,
    snapshot_id: int | None = None,
    pins: Mapping[date, int] | None = None,
) -> pa.Table:
    """Join features to entity rows, point in time.

    Parameters
    ----------
    use_case
        Applied before with `apply`.
    entity_frame
        The entity key, `as_of` (timestamp[us, UTC]) and any further columns, such as the label.
        Rows may repeat. Not modified.
    snapshot_id
        Snapshot of the `features` table; None reads the current one.
    pins
        Days of features that are read at snapshots of their own; see `lake.scan`.

    Returns
    -------
    pa.Table
        All rows and columns of `entity_frame`, in its order, followed by the features in declared
        order and dtype; null where no value was usable at `as_of`.

    Raises
    ------
    ConfigError
        The frame lacks a column, has null keys, or clashes with a feature's name.
    ConservationError
        The joins returned other rows than they were given.
    NotReadyError
        No features were published, or the use case was not applied.

    Notes
    -----
    A plain equality join with the newest day at or before each `as_of`, of which only the files are
    read; Feast's point-in-time join, through the feature service, for the rows it leaves open (see
    `newest_day`). O(rows + features of those days), measured by `make bench-training-set`.
    """
    names = use_case.feature_names
    _check_entity_frame(use_case, entity_frame)
    key = use_case.entity.key
    if not entity_frame.num_rows:
        empty = feature_schema(use_case).empty_table().select(names)
        return pa.table(
            [*entity_frame.columns, *empty.columns], [*entity_frame.column_names, *names]
        )
    # Only key, time and row number travel through the join; types and values of the rest stay as
    # they are, and every row can be counted on the way out.
    entities = pa.table(
        {
            key: entity_frame[key].cast(arrow(use_case.key_dtype)),
            "as_of": entity_frame["as_of"].cast(INSTANT),
            ROW: np.arange(entity_frame.num_rows),
        }
    )
    table = f"{use_case.owner_of('features')}.features"
    offline = LakeOfflineStoreConfig(
        snapshots={} if snapshot_id is None else {table: snapshot_id},
        pins={table: dict(pins or {})},
    )
    with open_store(load_settings(), offline=offline) as store:
        view = applied_view(store, use_case)
        joined = [join_newest_day(store.config.offline_store, view, entities)]
        others = np.ones(entities.num_rows, dtype=bool)
        others[joined[0][ROW].to_numpy()] = False
        if others.any():
            rest = entities.filter(others).rename_columns({"as_of": "event_timestamp"})
            service = store.get_feature_service(service_name(use_case))
            found = store.get_historical_features(entity_df=rest.to_pandas(), features=service)
            joined.append(found.to_arrow())
    types = feature_schema(use_case)
    schema = pa.schema([(ROW, pa.int64()), *(types.field(name) for name in names)])
    return _in_order(
        use_case,
        entity_frame,
        pa.concat_tables(part.select(schema.names).cast(schema) for part in joined),
    )


def _in_order(use_case: UseCase, entity_frame: pa.Table, joined: pa.Table) -> pa.Table:
    """Put features beside the rows they were joined to; each has to be there exactly once."""
    numbers = joined[ROW].to_numpy()
    order = np.argsort(numbers, kind="stable")
    if not np.array_equal(numbers[order], np.arange(entity_frame.num_rows)):
        raise ConservationError(
            f"The join returned {joined.num_rows} rows ({pc.count_distinct(joined[ROW])} different "
            f"ones) for {entity_frame.num_rows} entity rows of {use_case.name}; expected each row "
            "exactly once. Look for repeated (key, as_of) pairs in the features table."
        )
    features = joined.drop_columns(ROW).take(order)
    return pa.table(
        [*entity_frame.columns, *features.columns],
        [*entity_frame.column_names, *features.column_names],
    )


def _check_entity_frame(use_case: UseCase, entity_frame: pa.Table) -> None:
    key, found = use_case.entity.key, entity_frame.column_names
    missing = {key, "as_of"} - set(found)
    clashes = {*use_case.feature_names, ROW} & set(found)
    if missing or clashes or len(set(found)) != len(found):
        raise ConfigError(
            f"The entity frame of {use_case.name} has columns {found}; expected {key}, as_of and "
            f"further columns other than {sorted(clashes) or 'the features'}."
        )
    nulls = [name for name in (key, "as_of") if entity_frame[name].null_count]
    if nulls:
        raise ConfigError(
            f"The entity frame of {use_case.name} has null {nulls}; expected none. Drop them."
        )
