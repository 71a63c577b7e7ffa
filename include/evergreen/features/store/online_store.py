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
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

import psycopg
import pyarrow as pa
from feast import Entity, FeatureView
from feast.infra.key_encoding_utils import deserialize_entity_key, serialize_entity_key
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

from evergreen.databases import take_lock
from evergreen.features.store.online_rows import copy_rows, copy_table

# A first materialization writes for long.
_LOCK_SECONDS = 7200
_KEYS_AT_ONCE = 10_000

_COPY = sql.SQL(
    "COPY {table} (entity_key, feature_name, value, event_ts, created_ts) "
    "FROM STDIN (FORMAT BINARY)"
)
# The collation is that of Python's bytes: a first load sorts there, a merge below.
_STAGE = sql.SQL(
    """
    CREATE TEMPORARY TABLE staged (
        entity_key BYTEA, feature_name TEXT COLLATE "C", value BYTEA,
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


# Values of a row that a newer version of its day no longer holds; and pushed ones, which were made
# at the instant that they are of, if the batch of their day has not replaced them.
_LEFT_OVER = sql.SQL(
    """
    WHERE (EXISTS (
        SELECT FROM unnest(%(events)s::timestamptz[], %(created)s::timestamptz[]) AS s (event, made)
        WHERE online.event_ts = s.event
            AND coalesce(online.created_ts, '-infinity') < coalesce(s.made, 'infinity')
    ) OR (online.event_ts = online.created_ts AND online.event_ts < %(newest)s))
    """
)


class ForwardPostgresOnlineStoreConfig(PostgreSQLOnlineStoreConfig):
    """The stock configuration and the size of a write."""

    type: Literal["evergreen.features.store.online_store.ForwardPostgresOnlineStore"] = (
        "evergreen.features.store.online_store.ForwardPostgresOnlineStore"
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
        width = max((len(values) for _, values, _, _ in data), default=1)
        step = max(1, config.online_store.write_batch_values // max(1, width))
        version = config.entity_key_serialization_version
        batches = (
            copy_rows(data[start : start + step], version) for start in range(0, len(data), step)
        )
        self._write(config, table, batches)
        if progress:
            progress(len(data))

    def write_tables(
        self, config: RepoConfig, view: FeatureView, tables: Iterable[pa.Table]
    ) -> None:
        """Write rows straight from Arrow: what Feast's materialization does, without its detours.

        Parameters
        ----------
        config
            The store's configuration.
        view
            A feature view with one entity, whose source names the timestamp columns.
        tables
            The join key, the view's features, the event and the created timestamp (both
            timestamp[us, UTC]); one after the other is taken and written. Not modified.

        Notes
        -----
        Memory is bounded by `write_batch_values` and the largest of the tables; each batch is one
        transaction. A write that is killed half-way is completed by doing it again.
        """
        self._write(config, view, self._batches(config, view, tables))

    @staticmethod
    def _batches(
        config: RepoConfig, view: FeatureView, tables: Iterable[pa.Table]
    ) -> Iterator[bytes]:
        (join_key,) = view.join_keys
        source = view.batch_source
        features = [field.name for field in view.features]
        step = max(1, config.online_store.write_batch_values // max(1, len(features)))
        return (
            copy_table(
                join_key,
                features,
                source.timestamp_field,
                source.created_timestamp_column,
                rows.slice(start, step),
                config.entity_key_serialization_version,
            )
            for rows in tables
            for start in range(0, rows.num_rows, step)
        )

    @contextlib.contextmanager
    def alone(self, config: RepoConfig, view: FeatureView) -> Generator[None, None, None]:
        """Keep other bodies of this kind for the view out; the lock ends with the connection.

        Raises
        ------
        BusyError
            One of them held it for two hours.
        """
        with self._get_conn(config) as connection:
            name = f"materialize {table_name(config, view)}"
            take_lock(connection.execute, name, _LOCK_SECONDS, for_session=True)
            connection.commit()
        try:
            yield
        finally:
            self.close()

    def keys(self, config: RepoConfig, view: FeatureView) -> Iterator[list[Any]]:
        """Yield the keys of all entities that have values, in pieces."""
        query = sql.SQL("SELECT DISTINCT entity_key FROM {}")
        table = sql.Identifier(table_name(config, view))
        with self._get_conn(config) as connection, connection.cursor("keys") as cursor:
            cursor.execute(query.format(table))
            while found := cursor.fetchmany(_KEYS_AT_ONCE):
                yield _decoded(config, (row[0] for row in found))

    def left_over(
        self, config: RepoConfig, view: FeatureView, standing: Mapping[datetime, datetime | None]
    ) -> list[Any]:
        """Return the keys whose values are of another version than the one that stands.

        Pushed values from before the newest of the event timestamps are, too.

        Parameters
        ----------
        standing
            Event timestamps, and when the rows were created that now stand at each; None for no
            rows. Whatever stands has been written before.
        """
        query = sql.SQL("SELECT DISTINCT entity_key FROM {table} AS online {left_over}")
        with self._get_conn(config) as connection, connection.cursor() as cursor:
            cursor.execute(
                query.format(
                    table=sql.Identifier(table_name(config, view)),
                    left_over=_LEFT_OVER,
                ),
                _bounds(standing),
            )
            found = [row[0] for row in cursor.fetchall()]
            connection.commit()
        return _decoded(config, found)

    def replace(
        self,
        config: RepoConfig,
        view: FeatureView,
        standing: Mapping[datetime, datetime | None],
        keys: Sequence[Any],
        tables: Iterable[pa.Table],
    ) -> None:
        """Remove what `left_over` found of some keys and write rows in its place, all or nothing.

        Parameters
        ----------
        standing, keys
            As given to, and returned by, `left_over`.
        tables
            As in `write_tables`; few rows.
        """
        version = config.entity_key_serialization_version
        (join_key,) = view.join_keys
        query = sql.SQL("DELETE FROM {table} AS online {left_over} AND entity_key = ANY(%(keys)s)")
        table = sql.Identifier(table_name(config, view))
        encoded = [serialize_entity_key(_entity_key(join_key, key), version) for key in keys]
        with self._get_conn(config) as connection, connection.cursor() as cursor:
            cursor.execute(
                query.format(table=table, left_over=_LEFT_OVER),
                _bounds(standing) | {"keys": encoded},
            )
            for batch in self._batches(config, view, tables):
                _merge(cursor, table, batch)
            connection.commit()

    def forget(self, config: RepoConfig, view: FeatureView, key: str | int) -> int:
        """Remove all values of an entity, and have the pages that held them cleaned."""
        table = sql.Identifier(table_name(config, view))
        with self._get_conn(config) as connection, connection.cursor() as cursor:
            query = sql.SQL("DELETE FROM {} WHERE entity_key = %s").format(table)
            cursor.execute(query, (_encoded_key(config, view, key),))
            removed = cursor.rowcount
            connection.commit()
        with self._get_conn(config, autocommit=True) as connection:
            connection.execute(sql.SQL("VACUUM {}").format(table))
        return removed

    def has(self, config: RepoConfig, view: FeatureView, key: str | int) -> bool:
        """Whether an entity has any value."""
        query = sql.SQL("SELECT EXISTS (SELECT FROM {} WHERE entity_key = %s)").format(
            sql.Identifier(table_name(config, view))
        )
        with self._get_conn(config) as connection, connection.cursor() as cursor:
            cursor.execute(query, (_encoded_key(config, view, key),))
            (found,) = cursor.fetchone() or (False,)
        return bool(found)

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
                name = table_name(config, view)
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

    def _write(self, config: RepoConfig, view: FeatureView, batches: Iterable[bytes]) -> None:
        """Write each batch in a transaction of its own.

        Into an empty table rows are copied straight: twice as fast, and the same as a merge that
        finds nothing. That it was empty is a hint only. A key that another writer has brought
        since, or that this write repeats, breaks the primary key, and the batch is merged.
        """
        table = sql.Identifier(table_name(config, view))
        with self._get_conn(config) as connection, connection.cursor() as cursor:
            cursor.execute(sql.SQL("SELECT EXISTS (SELECT FROM {})").format(table))
            (merging,) = cursor.fetchone() or (True,)
            for batch in batches:
                if not merging:
                    try:
                        _copy(cursor, table, batch)
                    except psycopg.errors.UniqueViolation:
                        connection.rollback()
                        merging = True
                if merging:
                    _merge(cursor, table, batch)
                connection.commit()
            connection.commit()


def _merge(cursor: psycopg.Cursor[Any], table: sql.Identifier, batch: bytes) -> None:
    cursor.execute(_STAGE)
    # Enough to sort a batch without touching the disk.
    cursor.execute("SET LOCAL work_mem = '64MB'")
    _copy(cursor, sql.Identifier("staged"), batch)
    cursor.execute(_MERGE.format(table=table))
    cursor.execute("DROP TABLE staged")


def _bounds(standing: Mapping[datetime, datetime | None]) -> dict[str, Any]:
    events = list(standing)
    return {"events": events, "created": list(standing.values()), "newest": max(standing)}


def _decoded(config: RepoConfig, keys: Iterable[bytes]) -> list[Any]:
    version = config.entity_key_serialization_version
    values = (deserialize_entity_key(key, version).entity_values[0] for key in keys)
    return [getattr(value, value.WhichOneof("val")) for value in values]


def _entity_key(join_key: str, key: str | int) -> EntityKey:
    value = Value(int64_val=key) if isinstance(key, int) else Value(string_val=key)
    return EntityKey(join_keys=[join_key], entity_values=[value])


def _encoded_key(config: RepoConfig, view: FeatureView, key: str | int) -> bytes:
    (join_key,) = view.join_keys
    encoded: bytes = serialize_entity_key(
        _entity_key(join_key, key), config.entity_key_serialization_version
    )
    return encoded


def _copy(cursor: psycopg.Cursor[Any], table: sql.Identifier, batch: bytes) -> None:
    with cursor.copy(_COPY.format(table=table)) as copy:
        copy.write(batch)


def table_name(config: RepoConfig, view: FeatureView) -> str:
    """Return the name of the table that holds the values of a view."""
    name: str = compute_table_id(
        config.project, view, config.registry.enable_online_feature_view_versioning
    )
    return name
