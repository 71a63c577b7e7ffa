"""Feast's Postgres online store, made to move forward only, and faster to write.

The stock store overwrites whatever it finds, so a backfill of an old day takes the newest values
away. Here a value is replaced only by one with a later (event timestamp, created timestamp); the
equal pair overwrites, which makes repeating a write harmless. The rule is one SQL condition
inside the upsert, so it also holds between concurrent writers.

Tables, keys and values are encoded as the stock store does, and reading is its code. One column
stays empty: `value_text`, which only Feast's document search reads.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Literal

import psycopg
import pyarrow as pa
from feast import Entity, FeatureView
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.infra.online_stores.helpers import compute_table_id
from feast.infra.online_stores.postgres_online_store.postgres import (
    PostgreSQLOnlineStore,
    PostgreSQLOnlineStoreConfig,
)
from feast.infra.utils.postgres.connection_utils import _get_conn
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.repo_config import RepoConfig
from psycopg import sql

# key bytes, feature name, value bytes, event timestamp, created timestamp
_Row = tuple[bytes, str, bytes, datetime, datetime | None]

_STAGE = sql.SQL(
    """
    CREATE TEMPORARY TABLE staged (
        entity_key BYTEA, feature_name TEXT, value BYTEA,
        event_ts TIMESTAMPTZ, created_ts TIMESTAMPTZ
    ) ON COMMIT DROP
    """
)
# Rows arrive in key order, so that two writers take their row locks in the same order and never
# wait for each other in a circle. Within a batch the latest row of a key wins.
_MERGE = sql.SQL(
    """
    INSERT INTO {table} AS existing (entity_key, feature_name, value, event_ts, created_ts)
    SELECT DISTINCT ON (entity_key, feature_name)
        entity_key, feature_name, value, event_ts, created_ts
    FROM staged
    ORDER BY entity_key, feature_name, event_ts DESC, created_ts DESC NULLS LAST
    ON CONFLICT (entity_key, feature_name) DO UPDATE SET
        value = excluded.value,
        value_text = NULL,
        vector_value = NULL,
        event_ts = excluded.event_ts,
        created_ts = excluded.created_ts
    WHERE (excluded.event_ts, coalesce(excluded.created_ts, '-infinity'))
        >= (existing.event_ts, coalesce(existing.created_ts, '-infinity'))
    """
)


class ForwardPostgresOnlineStoreConfig(PostgreSQLOnlineStoreConfig):
    """The stock configuration and the size of a write."""

    type: Literal["evergreen.features.online_store.ForwardPostgresOnlineStore"] = (
        "evergreen.features.online_store.ForwardPostgresOnlineStore"
    )
    # Values (entities x features) per transaction; bounds the memory of both sides.
    write_batch_values: int = 160_000


class ForwardPostgresOnlineStore(PostgreSQLOnlineStore):
    """Postgres online store in which no value is ever replaced by an older one."""

    _conn: psycopg.Connection[Any] | None = None

    def online_write_batch(
        self,
        config: RepoConfig,
        table: FeatureView,
        data: Sequence[tuple[EntityKey, dict[str, Value], datetime, datetime | None]],
        progress: Callable[[int], Any] | None,
    ) -> None:
        """Write rows that Feast has encoded; naive timestamps are UTC."""
        version = config.entity_key_serialization_version
        rows = (
            (key, name, value.SerializeToString(), event, created)
            for entity_key, values, event_ts, created_ts in data
            for key, event, created in [
                (
                    serialize_entity_key(entity_key, version),
                    _utc(event_ts),
                    None if created_ts is None else _utc(created_ts),
                )
            ]
            for name, value in values.items()
        )
        self._write(config, table, rows)
        if progress:
            progress(len(data))

    def write_table(self, config: RepoConfig, view: FeatureView, rows: pa.Table) -> None:
        """Write rows straight from Arrow: what Feast's materialization does, without its detours.

        Parameters
        ----------
        config
            The store's configuration.
        view
            A feature view with one entity, whose source names the timestamp columns.
        rows
            The join key, the view's features, the event and the created timestamp (both
            timestamp[us, UTC]). Not modified.

        Notes
        -----
        Memory is bounded by `write_batch_values`; each batch is one transaction. A write that is
        killed half-way is completed by doing it again.
        """
        step = max(1, config.online_store.write_batch_values // max(1, len(view.features)))
        for start in range(0, rows.num_rows, step):
            self._write(config, view, _encoded(config, view, rows.slice(start, step)))

    def update(
        self,
        config: RepoConfig,
        tables_to_delete: Sequence[FeatureView],
        tables_to_keep: Sequence[FeatureView],
        entities_to_delete: Sequence[Entity],
        entities_to_keep: Sequence[Entity],
        partial: bool,
    ) -> None:
        """Create and drop tables as the stock store does, laid out for daily replacement.

        Its second index is on `entity_key` alone, which the primary key already begins with. Pages
        are filled by half, so that the new version of a row fits beside the old one and no index
        has to change.
        """
        super().update(
            config, tables_to_delete, tables_to_keep, entities_to_delete, entities_to_keep, partial
        )
        with self._get_conn(config) as connection, connection.cursor() as cursor:
            for view in tables_to_keep:
                name = _table_name(config, view)
                index, table = sql.Identifier(f"{name}_ek"), sql.Identifier(name)
                cursor.execute(sql.SQL("DROP INDEX IF EXISTS {}").format(index))
                cursor.execute(sql.SQL("ALTER TABLE {} SET (fillfactor = 50)").format(table))
            connection.commit()

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self._conn is not None:
            self._conn.close()
            self._conn = None

    @contextlib.contextmanager
    def _get_conn(
        self, config: RepoConfig, autocommit: bool = False
    ) -> Generator[psycopg.Connection[Any], None, None]:
        """Keep one connection, and leave it clean after an error."""
        connection = self._conn
        if connection is None or connection.closed:
            connection = self._conn = _get_conn(config.online_store)
        try:
            connection.set_autocommit(autocommit)
            yield connection
        except BaseException:
            if not connection.closed:
                connection.rollback()
            raise

    def _write(self, config: RepoConfig, view: FeatureView, rows: Iterable[_Row]) -> None:
        remaining = iter(rows)
        merge = _MERGE.format(table=sql.Identifier(_table_name(config, view)))
        with self._get_conn(config) as connection, connection.cursor() as cursor:
            while batch := list(islice(remaining, config.online_store.write_batch_values)):
                cursor.execute(_STAGE)
                # Enough to sort a batch without touching the disk.
                cursor.execute("SET LOCAL work_mem = '64MB'")
                with cursor.copy("COPY staged FROM STDIN (FORMAT BINARY)") as copy:
                    copy.set_types(["bytea", "text", "bytea", "timestamptz", "timestamptz"])
                    for row in batch:
                        copy.write_row(row)
                cursor.execute(merge)
                connection.commit()


def _encoded(config: RepoConfig, view: FeatureView, rows: pa.Table) -> Iterator[_Row]:
    (join_key,) = view.join_keys
    source = view.batch_source
    version = config.entity_key_serialization_version
    field = _value_field(rows.schema.field(join_key).type)
    keys = [
        serialize_entity_key(
            EntityKey(join_keys=[join_key], entity_values=[Value(**{field: key})]), version
        )
        for key in rows[join_key].to_pylist()
    ]
    events = rows[source.timestamp_field].to_pylist()
    created = rows[source.created_timestamp_column].to_pylist()
    for feature in view.features:
        values = _encoded_values(rows[feature.name])
        for key, value, event_ts, created_ts in zip(keys, values, events, created, strict=True):
            yield key, feature.name, value, event_ts, created_ts


def _encoded_values(column: pa.ChunkedArray) -> list[bytes]:
    """Encode as `Value(...).SerializeToString()` does; null is the empty message."""
    field = _value_field(column.type)
    if field != "double_val":
        # Counts, flags and names repeat.
        plain = column.to_pylist()
        known = {value: Value(**{field: value}).SerializeToString() for value in set(plain)}
        return [b"" if value is None else known[value] for value in plain]
    # A double is a tag and its eight bytes, little end first; few repeat.
    tag = Value(double_val=1.0).SerializeToString()[:1]
    raw = column.fill_null(0.0).to_numpy().astype("<f8").tobytes()
    return [
        tag + raw[start : start + 8] if valid else b""
        for start, valid in zip(range(0, len(raw), 8), column.is_valid().to_pylist(), strict=True)
    ]


def _value_field(kind: pa.DataType) -> str:
    if pa.types.is_string(kind):
        return "string_val"
    if pa.types.is_int64(kind):
        return "int64_val"
    if pa.types.is_float64(kind):
        return "double_val"
    if pa.types.is_boolean(kind):
        return "bool_val"
    raise TypeError(f"Found a column of {kind}; expected string, int64, float64 or bool.")


def _table_name(config: RepoConfig, view: FeatureView) -> str:
    name: str = compute_table_id(
        config.project, view, config.registry.enable_online_feature_view_versioning
    )
    return name


def _utc(instant: datetime) -> datetime:
    return instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant.astimezone(UTC)
