"""Between two batches: online values of some entities are moved on, and the batch replaces them.

A pushed value is what the batch of its day would make of what is known so far. Its event timestamp
is the instant of the push, and so is its created timestamp, by which it is told from a batch's. The
batch of its day is later, those of earlier days are not, and the store only moves forward.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from datetime import date, datetime

import pandas as pd
import pyarrow as pa
from feast.data_source import PushMode
from feast.errors import PushSourceNotFoundException

from evergreen import lake
from evergreen.contract import UseCase
from evergreen.errors import NotReadyError
from evergreen.features.compute.result import INSTANT
from evergreen.features.compute.run import feature_schema
from evergreen.features.compute.some import compute_some
from evergreen.features.store import pushed
from evergreen.features.store.definitions import push_name
from evergreen.features.store.online_store import ForwardPostgresOnlineStore
from evergreen.features.store.opening import applied_view, open_store
from evergreen.features.store.pushed import Pushed
from evergreen.provenance import receipts
from evergreen.provenance.staging import Staged, publish_chunk
from evergreen.settings import load_settings

logger = logging.getLogger(__name__)

TABLE = "pushed"
"""Table of the lake with the last features that were pushed of each entity and day."""


def move_on(use_case: UseCase, of: Pushed, entities: Collection[str], now: datetime) -> None:
    """Compute the features of entities from the lake and what was pushed, and write them online.

    Parameters
    ----------
    of
        Holds the events; gets the features.
    now
        Their timestamp; they are those of the day it lies in.
    """
    if not entities:
        return
    typed = pa.array(sorted(entities)).cast(feature_schema(use_case).field(0).type)
    day = use_case.day_at(now)
    rows = compute_some(use_case, typed.to_pylist(), day, of.events(entities))
    if rows.num_rows:
        _write(use_case, rows, now)
    of.log(rows, day, now)


def settle(use_case: UseCase, last: date, clock: Callable[[], datetime]) -> None:
    """Let go of what was pushed for the days up to `last`, whose batch is there.

    The last features of each entity are kept in the table `pushed`, for the night to compare.
    Those of later days rest on what the batch has changed, and are made again.
    """
    basis = receipts.newest_sequence()
    with pushed.alone(use_case) as of:
        for day, rows in of.logged(last).items():
            _keep(use_case, day, rows, basis)
        move_on(use_case, of, of.clear(last), clock())


def _write(use_case: UseCase, rows: pa.Table, now: datetime) -> None:
    stamps = pa.repeat(pa.scalar(now, INSTANT), rows.num_rows)
    place = rows.schema.get_field_index("as_of")
    stamped = rows.drop_columns("day").set_column(place, "as_of", stamps)
    stamped = stamped.append_column("created_at", stamps)
    features = [stamped[name] for name in use_case.feature_names]
    try:
        with open_store(load_settings()) as store:
            view = applied_view(store, use_case)
            if any(column.null_count < rows.num_rows for column in features):
                frame = stamped.to_pandas(types_mapper=pd.ArrowDtype)
                store.push(push_name(use_case), frame, to=PushMode.ONLINE)
            else:
                # Feast takes rows of nothing but nulls for none.
                online = ForwardPostgresOnlineStore()
                online.write_tables(store.config, view, [stamped])
                online.close()
    except PushSourceNotFoundException as error:
        raise NotReadyError(
            f"Feast does not know that {use_case.name} is pushed to. Apply the definitions: "
            "`make up` does."
        ) from error


def _keep(use_case: UseCase, day: date, rows: list[dict[str, object]], basis: int) -> None:
    kinds, key = feature_schema(use_case), use_case.entity.key
    names = (key, "as_of", *use_case.feature_names)
    schema = pa.schema([("day", pa.date32()), *map(kinds.field, names)])
    # Of a day that was settled before, who was pushed late or again.
    before = lake.read_day(use_case.name, TABLE, day) if lake.exists(use_case.name, TABLE) else None
    last = {row[key]: row for row in [*(before.to_pylist() if before else []), *rows]}
    table = pa.Table.from_pylist([last[one] for one in sorted(last)], schema)
    counts = {day.isoformat(): {"rows": table.num_rows}}
    staged = Staged(use_case.name, day.isoformat(), "", counts=counts, basis=basis)
    publish_chunk(staged, f"publish_{TABLE}", TABLE, table, [day])
