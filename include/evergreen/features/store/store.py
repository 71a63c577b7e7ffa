"""The feature store: definitions, training sets, online values. All access to Feast is here.

Notes
-----
A `FeatureStore` is opened per call from the settings and closed again: no repository is parsed,
no registry cache outlives the call, and nothing is read from the working directory. Definitions
change only in `apply`.

Online values of customers that leave the population are not deleted: they keep the features of
the last day they were in it. `read_online` returns the `as_of` of every value, so that a reader
can tell; scores are computed from the lake's partition of a day and never from here.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
import psycopg
import pyarrow as pa
import pyarrow.compute as pc
from duckdb import ColumnExpression, ConstantExpression
from feast import FeatureStore, FeatureView
from feast.errors import FeastObjectNotFoundException
from feast.repo_config import RepoConfig
from sqlalchemy.engine import make_url
from sqlalchemy.exc import OperationalError

from evergreen import lake
from evergreen.contract import UseCase, arrow
from evergreen.databases import service_down
from evergreen.errors import ConfigError, ConservationError, NotReadyError
from evergreen.features.compute.result import INSTANT
from evergreen.features.compute.run import feature_schema
from evergreen.features.store.definitions import definitions, service_name, view_name
from evergreen.features.store.offline_store import LakeOfflineStoreConfig
from evergreen.features.store.online_store import (
    ForwardPostgresOnlineStore,
    ForwardPostgresOnlineStoreConfig,
)
from evergreen.lake.opening import open_files
from evergreen.settings import Settings, load_settings
from evergreen.sql.connection import opened

logger = logging.getLogger(__name__)

PROJECT = "evergreen"
_ROW = "entity_row"
# Entities of a day in memory at once while it is materialized.
_ROWS_AT_ONCE = 10_000


@dataclass(frozen=True)
class Materialized:
    """What one materialization wrote.

    Parameters
    ----------
    rows
        Entities that were written.
    snapshot_id
        Snapshot of the `features` table that was read.
    """

    rows: int
    snapshot_id: int


def apply(use_cases: Sequence[UseCase]) -> None:
    """Bring Feast's registry and online tables in line with the contracts.

    Creates what is missing and updates what changed; other use cases stay as they are. Run it at
    deployment, not inside a task.

    Raises
    ------
    ServiceDownError
        The database is not running.
    """
    objects: list[Any] = [part for use_case in use_cases for part in definitions(use_case)]
    with _open(load_settings(), schema_mode="auto") as store:
        store.apply(objects)


def materialize(
    use_case: UseCase, day: date, snapshot_id: int | None = None, *, since: date | None = None
) -> Materialized:
    """Push the features of one day to the online store, which only moves forward.

    Values of a later day stay; repeating a day, or publishing a correction of it with a later
    `created_at`, overwrites that day. Days may come in any order and at the same time.

    Parameters
    ----------
    use_case
        Applied before with `apply`.
    day
        Exactly this partition is read, unless `since` is earlier.
    snapshot_id
        Snapshot of the `features` table; None reads the current one.
    since
        First day of a range that ends with `day`: entities that left the population within it get
        the features of their last day in it, as if the days were materialized one by one. Days of
        the range may be empty.

    Raises
    ------
    NotReadyError
        The features of the day were not published, or the use case was not applied.

    Notes
    -----
    Who was in an earlier version of a day and is no longer (its events were corrected away) gets
    the features of the last day before that it was in, or none.

    Goes from the lake's files to the online store piece by piece, so memory does not grow with
    the day. Feast's own materialization writes the same bytes, but holds every value of the day
    as a Python object before it writes the first.
    """
    first = day if since is None else since
    days = lake.days_between(first, day + timedelta(days=1))
    with _open(load_settings()) as store:
        view = _view(store, use_case)
        online = ForwardPostgresOnlineStore()
        # One after the other, and each of what stands then: otherwise the slower of two would
        # bring back somebody whom the faster has removed.
        with online.alone(store.config, view):
            found = lake.scan(use_case.name, "features", day, day + timedelta(days=1), snapshot_id)
            if found.snapshot_id is None or (since is None and not found.paths):
                raise NotReadyError(
                    f"{use_case.name}.features has no rows for {day}. Run "
                    f"{use_case.name}_features for that day first."
                )
            newest = _NewestRows(use_case, found.snapshot_id)
            online.write_tables(store.config, view, newest.of(days))
            # Whoever is still there with an older version of one of these days is no longer in it.
            standing = {use_case.as_of(day): newest.created_at.get(day) for day in days}
            gone = online.left_over(store.config, view, standing)
            if gone:
                earlier = newest.before(first, use_case.first_day, gone)
                online.replace(store.config, view, standing, gone, earlier)
    return Materialized(newest.rows, found.snapshot_id)


class _NewestRows:
    """Each entity's newest row of some days, newest day first, in pieces.

    Counts in `rows` what it gave, and keeps in `created_at` when each day it saw was published.
    """

    def __init__(self, use_case: UseCase, snapshot_id: int) -> None:
        self._use_case, self._snapshot_id = use_case, snapshot_id
        self._schema = feature_schema(use_case).append(pa.field("created_at", INSTANT))
        self.rows = 0
        self.created_at: dict[date, datetime] = {}

    def of(self, days: Sequence[date]) -> Iterator[pa.Table]:
        """Yield the newest row within the days of everybody who is in one of them."""
        *earlier, last = days
        for piece in lake.stream(self._scan(last, last), self._schema.names, _ROWS_AT_ONCE):
            yield self._noted(piece.cast(self._schema))
        if earlier:
            # Nearly all of them stayed to the last day; the others left on a few.
            yield from self._newest(days[0], last, without=last)

    def before(self, day: date, first_day: date, keys: Sequence[Any]) -> list[pa.Table]:
        """Return the newest row before a day of those of the entities that have one."""
        if day <= first_day:
            return []
        kind = self._schema.field(self._use_case.entity.key).type
        wanted = pa.array(keys, kind)
        return list(self._newest(first_day, day - timedelta(days=1), among=wanted))

    def _newest(
        self, first: date, last: date, *, among: pa.Array | None = None, without: date | None = None
    ) -> Iterator[pa.Table]:
        key = self._use_case.entity.key
        kind = self._schema.field(key).type
        found = self._scan(first, last)
        if not found.paths:
            return
        with opened("newest") as connection:
            files = open_files(connection, found.paths).select(key, "day", "created_at")
            if among is not None:
                files = files.filter(
                    ColumnExpression(key).isin(*map(ConstantExpression, among.to_pylist()))
                )
            newest = files.aggregate(f'"{key}", max(day) AS day', f'"{key}"').to_arrow_table()
            if among is None:
                made = files.aggregate("day, min(created_at)", "day").fetchall()
                self.created_at.update(dict(made))
        for day in sorted(set(newest["day"].to_pylist()) - {without}, reverse=True):
            keys = newest.filter(pc.equal(newest["day"], day))[key].cast(kind)
            span = (self._use_case.name, "features", day, day + timedelta(days=1))
            rows = lake.read(*span, self._schema.names, self._snapshot_id)
            rows = rows.select(self._schema.names).cast(self._schema)
            yield self._noted(rows.filter(pc.is_in(rows[key], value_set=keys.combine_chunks())))

    def _noted(self, rows: pa.Table) -> pa.Table:
        if rows.num_rows:
            day = self._use_case.day_of(rows["as_of"][0].as_py())
            oldest = pc.min(rows["created_at"]).as_py()
            self.created_at[day] = min(oldest, self.created_at.get(day, oldest))
        self.rows += rows.num_rows
        return rows

    def _scan(self, first: date, last: date) -> lake.Scan:
        end = last + timedelta(days=1)
        return lake.scan(self._use_case.name, "features", first, end, self._snapshot_id)


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
    with _open(load_settings(), offline=offline) as store:
        _view(store, use_case)
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


class OnlineReader:
    """Reads online values through one open store: for services, and for whoever reads in a loop.

    Opening costs a second, a read a few milliseconds. Use it as a context manager. A reader
    belongs to one thread; connections that the server has closed are opened again.

    Parameters
    ----------
    use_case
        Applied before with `apply`.

    Raises
    ------
    NotReadyError
        The use case was not applied.
    """

    def __init__(self, use_case: UseCase) -> None:
        self._key = use_case.entity.key
        self._names = use_case.feature_names
        schema = feature_schema(use_case)
        self._schema = pa.schema([schema.field(n) for n in (self._key, "as_of", *self._names)])
        with ExitStack() as stack:
            self._store = stack.enter_context(_open(load_settings()))
            _view(self._store, use_case)
            self._service = self._store.get_feature_service(service_name(use_case))
            self._stack = stack.pop_all()

    def __enter__(self) -> OnlineReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._stack.close()

    def read(self, keys: Sequence[str] | Sequence[int]) -> pa.Table:
        """Read the newest features of some entities; see `read_online`."""
        if not keys:
            return self._schema.empty_table()
        answer = self._store.get_online_features(
            features=self._service, entity_rows=[{self._key: value} for value in keys]
        ).to_dict(include_event_timestamps=True)
        # Feast reports the epoch for what it did not find.
        seconds = answer[f"{self._names[0]}__ts"]
        instants = [datetime.fromtimestamp(value, UTC) if value else None for value in seconds]
        features = {name: answer[name] for name in self._names}
        return pa.table({self._key: list(keys), "as_of": instants, **features}, self._schema)


def read_online(use_case: UseCase, keys: Sequence[str] | Sequence[int]) -> pa.Table:
    """Read the newest features of some entities from the online store.

    Opens the store for this one call; whoever reads again holds an `OnlineReader`.

    Parameters
    ----------
    keys
        Values of the entity key; may repeat.

    Returns
    -------
    pa.Table
        One row per key, in order: entity key, `as_of` (timestamp[us, UTC], whole seconds), and
        the features; all null for a key that was never materialized.

    Raises
    ------
    NotReadyError
        The use case was not applied.
    """
    with OnlineReader(use_case) as reader:
        return reader.read(keys)


# --- configuration -------------------------------------------------------------------------------


def environment(settings: Settings) -> dict[str, str]:
    """Variables that `feature_repo/feature_store.yaml` needs, escaped for its quotes.

    Raises
    ------
    ConfigError
        The URL of the `feast` database is not one of Postgres.
    ServiceDownError
        No URL is set and the embedded server is not running.
    """
    online = _online_config(settings)
    return {
        "EVERGREEN_FEAST_REGISTRY": _escaped(settings.database_url("feast")),
        "EVERGREEN_FEAST_HOST": _escaped(online.host),
        "EVERGREEN_FEAST_PORT": str(online.port),
        "EVERGREEN_FEAST_DATABASE": _escaped(online.database),
        "EVERGREEN_FEAST_USER": _escaped(online.user),
        "EVERGREEN_FEAST_PASSWORD": _escaped(online.password),
        "EVERGREEN_FEAST_SSLMODE": online.sslmode or "prefer",
    }


def repo_config(
    settings: Settings,
    *,
    offline: LakeOfflineStoreConfig | None = None,
    schema_mode: str = "skip",
) -> RepoConfig:
    """Build Feast's configuration from the settings.

    Parameters
    ----------
    settings
        Its `feast` database holds both the registry and the online values.
    offline
        What the offline store reads; the current snapshots if not given. How DuckDB runs is set
        here.
    schema_mode
        Whether the registry's tables are made (`auto`) or taken for granted (`skip`).
    """
    return RepoConfig(
        project=PROJECT,
        provider="local",
        registry={
            "registry_type": "sql",
            "path": settings.database_url("feast"),
            "cache_ttl_seconds": 60,
            "schema_mode": schema_mode,
            # One connection for one call; the default pool would keep five.
            "sqlalchemy_config_kwargs": {"echo": False, "pool_size": 1},
        },
        offline_store=(offline or LakeOfflineStoreConfig()).model_copy(
            update={"threads": settings.threads, "memory_mb": settings.memory_mb}
        ),
        online_store=_online_config(settings),
        entity_key_serialization_version=3,
    )


def _online_config(settings: Settings) -> ForwardPostgresOnlineStoreConfig:
    url = make_url(settings.database_url("feast"))
    if url.get_backend_name() != "postgresql":
        raise ConfigError(
            f"EVERGREEN_FEAST_URL is a {url.get_backend_name()} URL; expected postgresql://…"
        )
    query = {name: value for name, value in url.query.items() if isinstance(value, str)}
    host = url.host or query.get("host") or "localhost"
    # Over a Unix socket there is nothing to encrypt, and Postgres refuses to.
    sslmode = "disable" if host.startswith("/") else query.get("sslmode", "prefer")
    return ForwardPostgresOnlineStoreConfig(
        host=host,
        port=url.port or int(query.get("port", 5432)),
        database=url.database or "feast",
        user=url.username or "postgres",
        password=url.password or "",
        sslmode=sslmode,
    )


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


@contextmanager
def _open(
    settings: Settings,
    *,
    offline: LakeOfflineStoreConfig | None = None,
    schema_mode: str = "skip",
) -> Iterator[FeatureStore]:
    config = repo_config(settings, offline=offline, schema_mode=schema_mode)
    try:
        store = FeatureStore(config=config)
        try:
            yield store
        finally:
            store.registry.write_engine.dispose()
            online = store._get_provider().online_store
            if online is not None:
                online.close()
    except (OperationalError, psycopg.OperationalError) as error:
        raise service_down("feast", settings.database_url("feast"), error) from error


def _view(store: FeatureStore, use_case: UseCase) -> FeatureView:
    try:
        view = store.get_feature_view(view_name(use_case))
    except FeastObjectNotFoundException as error:
        raise NotReadyError(
            f"Feast does not know {view_name(use_case)}. Apply the definitions: `make up` does."
        ) from error
    if unlike := {field.name for field in view.features} ^ set(use_case.feature_names):
        raise NotReadyError(
            f"Feast and use_case.yaml of {use_case.name} differ in the features "
            f"{', '.join(sorted(unlike))}. Apply the definitions: `make up` does."
        )
    return view


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
