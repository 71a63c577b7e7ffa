"""Features joined to labelled rows, point in time, through Feast."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from evergreen.contract import UseCase, arrow
from evergreen.errors import ConfigError, ConservationError
from evergreen.features.compute.result import INSTANT
from evergreen.features.compute.run import feature_schema
from evergreen.features.store.definitions import service_name
from evergreen.features.store.offline_store import LakeOfflineStoreConfig
from evergreen.features.store.opening import applied_view, open_store
from evergreen.settings import load_settings

_ROW = "entity_row"


def training_set(
    use_case: UseCase,
    entity_frame: pa.Table,
    *,
    snapshot_id: int | None = None,
    pins: Mapping[date, int] | None = None,
) -> pa.Table:
    """Join features to entity rows, point in time, through the feature service.

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
        Feast returned other rows than it was given.
    NotReadyError
        No features were published, or the use case was not applied.

    Notes
    -----
    Only the files of days that can be joined are read; a hash join on the key, then the newest
    value at or before `as_of`.
    """
    names = use_case.feature_names
    _check_entity_frame(use_case, entity_frame)
    key = use_case.entity.key
    kind = arrow(use_case.key_dtype)
    if not entity_frame.num_rows:
        empty = feature_schema(use_case).empty_table().select(names)
        return pa.table(
            [*entity_frame.columns, *empty.columns], [*entity_frame.column_names, *names]
        )
    # Only key, time and row number travel through Feast; types and values of the rest stay as
    # they are, and every row can be counted on the way out.
    entities = pd.DataFrame(
        {
            key: entity_frame[key].cast(kind).to_pandas(),
            "event_timestamp": entity_frame["as_of"].cast(INSTANT).to_pandas(),
            _ROW: np.arange(entity_frame.num_rows, dtype="int64"),
        }
    )
    table = f"{use_case.owner_of('features')}.features"
    offline = LakeOfflineStoreConfig(
        snapshots={} if snapshot_id is None else {table: snapshot_id},
        pins={table: dict(pins or {})},
    )
    with open_store(load_settings(), offline=offline) as store:
        applied_view(store, use_case)
        joined = store.get_historical_features(
            entity_df=entities,
            features=store.get_feature_service(service_name(use_case)),
        ).to_arrow()
    joined = joined.sort_by(_ROW)
    if joined[_ROW].to_pylist() != list(range(entity_frame.num_rows)):
        raise ConservationError(
            f"Feast returned {joined.num_rows} rows ({pc.count_distinct(joined[_ROW])} different "
            f"ones) for {entity_frame.num_rows} entity rows of {use_case.name}; expected each row "
            "exactly once. Look for repeated (key, as_of) pairs in the features table."
        )
    schema = feature_schema(use_case)
    features = [joined[name].cast(schema.field(name).type) for name in names]
    return pa.table([*entity_frame.columns, *features], [*entity_frame.column_names, *names])


def _check_entity_frame(use_case: UseCase, entity_frame: pa.Table) -> None:
    key, found = use_case.entity.key, entity_frame.column_names
    missing = {key, "as_of"} - set(found)
    clashes = {*use_case.feature_names, _ROW} & set(found)
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
