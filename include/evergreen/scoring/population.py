"""Who is scored on a day."""

from __future__ import annotations

from datetime import date, timedelta

import pyarrow as pa

from evergreen import lake
from evergreen.contract import UseCase
from evergreen.sql.connection import opened
from evergreen.sql.shards import Shard

_ROWS = 100_000


def read_population(use_case: UseCase, day: date, snapshot: int, shard: Shard) -> pa.Table:
    """Return the features of a day of one shard's entities, in memory that is the shard's."""
    owner = use_case.owner_of("features")
    if shard.is_whole:
        return lake.read_day(owner, "features", day, snapshot)
    found = lake.scan(owner, "features", day, day + timedelta(days=1), snapshot)
    schema = found.schema
    assert schema is not None
    with opened("shard") as connection:
        parts = [
            shard.rows_of(piece, use_case.entity.key, connection)
            for piece in lake.stream(found, schema.names, _ROWS)
        ]
    return pa.concat_tables(parts) if parts else schema.empty_table()
