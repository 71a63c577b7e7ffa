"""Feast with its own stores, on a few rows: what the pains are shown on."""

from __future__ import annotations

import contextlib
import io
import itertools
import warnings
from collections.abc import Iterator, Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, ValueType
from feast.infra.online_stores.postgres_online_store.postgres import PostgreSQLOnlineStoreConfig
from feast.infra.online_stores.redis import RedisOnlineStore, RedisOnlineStoreConfig
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.repo_config import RepoConfig
from feast.types import Int64, String

from evergreen.contract import as_of
from evergreen.features import store
from evergreen.settings import load_settings

# (customer, day, value, time from as_of to when it was created)
Row = tuple[str, date, int, timedelta]

_numbers = itertools.count()


@contextlib.contextmanager
def opened(
    folder: Path,
    rows: Sequence[Row],
    *,
    online: str = "sqlite",
    offline: str = "dask",
    ttl: timedelta = timedelta(0),
) -> Iterator[FeatureStore]:
    """Make a feature repository of its own: one Parquet file, one feature view."""
    root = folder / f"stock{next(_numbers)}"
    root.mkdir(parents=True)
    online_store: Any = {"type": "sqlite", "path": str(root / "online.db")}
    if online == "postgres":
        ours = store.repo_config(load_settings()).online_store
        online_store = PostgreSQLOnlineStoreConfig(
            **ours.model_dump(exclude={"type", "write_batch_values"})
        )
    feast = FeatureStore(
        config=RepoConfig(
            # Names the tables of the online store, which scenarios share.
            project=root.name,
            provider="local",
            registry=str(root / "registry.db"),
            online_store=online_store,
            offline_store={"type": offline},
            entity_key_serialization_version=3,
        )
    )
    feast.config.repo_path = root
    write_source(feast, rows)
    with silent():
        feast.apply(_objects(root, ttl))
    try:
        yield feast
    finally:
        connection = feast._get_provider().online_store._conn
        if connection is not None:
            connection.close()


def _objects(root: Path, ttl: timedelta = timedelta(0)) -> list[Any]:
    customer = Entity(name="customer", join_keys=["customer_id"], value_type=ValueType.STRING)
    view = FeatureView(
        name="totals",
        entities=[customer],
        ttl=ttl,
        schema=[Field(name="customer_id", dtype=String), Field(name="total_orders", dtype=Int64)],
        source=FileSource(
            path=str(root / "rows.parquet"),
            timestamp_field="event_timestamp",
            created_timestamp_column="created",
        ),
    )
    return [customer, view]


def write_source(feast: FeatureStore, rows: Sequence[Row]) -> None:
    """Write the file that the feature view reads."""
    frame = pd.DataFrame(
        {
            "customer_id": [customer for customer, _, _, _ in rows],
            "event_timestamp": pd.to_datetime([as_of(day) for _, day, _, _ in rows], utc=True),
            "total_orders": [value for _, _, value, _ in rows],
            "created": pd.to_datetime([as_of(day) + after for _, day, _, after in rows], utc=True),
        }
    )
    frame.to_parquet(Path(feast.config.repo_path) / "rows.parquet")


def materialize(feast: FeatureStore, day: date) -> None:
    """Materialize the second half of a day."""
    with silent():
        feast.materialize(as_of(day) - timedelta(hours=12), as_of(day))


def read(feast: FeatureStore, customer: str) -> int | None:
    """Read the online value of a customer."""
    with silent():
        found = feast.get_online_features(
            features=["totals:total_orders"], entity_rows=[{"customer_id": customer}]
        ).to_dict()
    value: int | None = found["total_orders"][0]
    return value


def history(feast: FeatureStore, frame: pd.DataFrame, **options: Any) -> pd.DataFrame:
    """Join features to an entity frame."""
    with silent():
        return feast.get_historical_features(
            entity_df=frame, features=["totals:total_orders"], **options
        ).to_df()


def through_redis(rows: Sequence[Row]) -> list[int | None]:
    """Write one row after the other with Feast's Redis store, into a dictionary for a server."""
    online = RedisOnlineStore()
    online._client = _Dictionary()
    config = RepoConfig(
        project="stock",
        provider="local",
        registry="unused.db",
        online_store=RedisOnlineStoreConfig(),
        entity_key_serialization_version=3,
    )
    _, view = _objects(Path("unused"))
    seen: list[int | None] = []
    for customer, day, value, after in rows:
        key = EntityKey(join_keys=["customer_id"], entity_values=[Value(string_val=customer)])
        values = {"total_orders": Value(int64_val=value)}
        online.online_write_batch(
            config, view, [(key, values, as_of(day), as_of(day) + after)], None
        )
        ((_, found),) = online.online_read(config, view, [key], ["total_orders"])
        seen.append(found["total_orders"].int64_val if found else None)
    return seen


class _Dictionary:
    """As much of a Redis client as Feast's store uses: hashes behind a pipeline."""

    def __init__(self) -> None:
        self._hashes: dict[bytes, dict[Any, Any]] = {}
        self._replies: list[Any] = []

    def pipeline(self, transaction: bool) -> _Dictionary:
        return self

    def __enter__(self) -> _Dictionary:
        return self

    def __exit__(self, *_: object) -> None:
        self._replies = []

    def hmget(self, key: bytes, fields: Any) -> None:
        wanted = fields if isinstance(fields, list) else [fields]
        self._replies.append([self._hashes.get(key, {}).get(field) for field in wanted])

    def hset(self, key: bytes, mapping: dict[Any, Any]) -> None:
        self._hashes.setdefault(key, {}).update(mapping)
        self._replies.append(len(mapping))

    def execute(self) -> list[Any]:
        replies, self._replies = self._replies, []
        return replies


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Keep Feast from printing and warning."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
