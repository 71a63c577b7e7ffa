"""Feast's DuckDB offline store, reading the planned files of lake tables.

The stock store would scan a whole Iceberg table into memory. Here DuckDB reads the Parquet files
that the lake has planned: those of the days a query can use, of the current or a pinned snapshot.
Joins, deduplication and point-in-time rules are Feast's own code, but for one end of an interval:
a value is usable in `[timestamp, timestamp + ttl)`, where Feast would include the end.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterable, Sequence
from datetime import date, datetime, timedelta
from typing import Literal

import duckdb
import ibis
import pandas as pd
from feast import FeatureView
from feast.data_source import DataSource
from feast.infra.offline_stores.duckdb import DuckDBOfflineStore, DuckDBOfflineStoreConfig
from feast.infra.offline_stores.ibis import (
    get_historical_features_ibis,
    pull_all_from_table_or_query_ibis,
    pull_latest_from_table_or_query_ibis,
)
from feast.infra.offline_stores.offline_store import RetrievalJob
from feast.infra.registry.base_registry import BaseRegistry
from feast.repo_config import RepoConfig
from ibis.expr.types import Table
from pydantic import Field

from evergreen import lake
from evergreen.contract import day_of
from evergreen.errors import NotReadyError
from evergreen.features.store.lake_source import LakeSource
from evergreen.lake.opening import open_files
from evergreen.settings import load_settings
from evergreen.sql.connection import connect

# Feast switches these on for every library; this one is about ibis and DuckDB, not about us.
warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"ibis\.")

_Reader = Callable[[DataSource, str], Table]
# Only rows whose timestamp lies in one of them will be asked for; None asks for all.
_Intervals = Sequence[tuple[datetime, datetime]] | None


class LakeOfflineStoreConfig(DuckDBOfflineStoreConfig):
    """How DuckDB runs, and which snapshots it reads."""

    type: Literal["evergreen.features.store.offline_store.LakeOfflineStore"] = (
        "evergreen.features.store.offline_store.LakeOfflineStore"
    )
    threads: int = 2
    memory_mb: int = 1500
    # Pinned snapshot per table (`churn.features`); others are read at their current one.
    snapshots: dict[str, int] = Field(default_factory=dict)
    # Days per table that are read at snapshots of their own.
    pins: dict[str, dict[date, int]] = Field(default_factory=dict)


class LakeOfflineStore(DuckDBOfflineStore):
    """Offline store over the lake; reading only."""

    @staticmethod
    def get_historical_features(
        config: RepoConfig,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: pd.DataFrame,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,
        filter_by_created_timestamp: bool = False,
    ) -> RetrievalJob:
        """Join features to entity rows, point in time; see Feast."""
        instants = pd.to_datetime(_event_timestamps(entity_df), utc=True).drop_duplicates()
        return get_historical_features_ibis(
            config=config,
            feature_views=[_half_open(view) for view in feature_views],
            feature_refs=feature_refs,
            entity_df=entity_df,
            registry=registry,
            project=project,
            full_feature_names=full_feature_names,
            data_source_reader=_reader(config, usable_intervals(feature_views, instants)),
            data_source_writer=_refuse_write,
            filter_by_created_timestamp=filter_by_created_timestamp,
        )

    @staticmethod
    def pull_latest_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None,
        start_date: datetime,
        end_date: datetime,
    ) -> RetrievalJob:
        """Newest row per key of an interval; see Feast."""
        return pull_latest_from_table_or_query_ibis(
            config=config,
            data_source=data_source,
            join_key_columns=join_key_columns,
            feature_name_columns=feature_name_columns,
            timestamp_field=timestamp_field,
            created_timestamp_column=created_timestamp_column,
            start_date=start_date,
            end_date=end_date,
            data_source_reader=_reader(config, [(start_date, end_date)]),
            data_source_writer=_refuse_write,
        )

    @staticmethod
    def pull_all_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None = None,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
    ) -> RetrievalJob:
        """All rows of an interval; see Feast."""
        interval = [(start_date, end_date)] if start_date and end_date else None
        return pull_all_from_table_or_query_ibis(
            config=config,
            data_source=data_source,
            join_key_columns=join_key_columns,
            feature_name_columns=feature_name_columns,
            timestamp_field=timestamp_field,
            created_timestamp_column=created_timestamp_column,
            start_date=start_date,
            end_date=end_date,
            data_source_reader=_reader(config, interval),
            data_source_writer=_refuse_write,
        )


def usable_intervals(views: Sequence[FeatureView], instants: Iterable[datetime]) -> _Intervals:
    """Return where timestamps of values that are usable at some instants lie; None: anywhere."""
    if not all(view.ttl for view in views):
        return None
    reach = max((view.ttl for view in views), default=timedelta(0))
    return [(at - reach, at) for at in instants]


def plan(config: LakeOfflineStoreConfig, source: DataSource, intervals: _Intervals) -> lake.Scan:
    """Plan the files of the days whose rows may have a timestamp in one of the intervals.

    Raises
    ------
    NotReadyError
        A snapshot was expired.
    """
    if not isinstance(source, LakeSource):
        raise TypeError(f"Found the source {source.name}; expected a LakeSource.")
    days = {day for interval in intervals or () for day in _days(*interval, source.zone)}
    start, end = (min(days), max(days) + timedelta(days=1)) if days else (None, None)
    return lake.scan(
        source.namespace,
        source.table,
        start,
        end,
        config.snapshots.get(source.name),
        config.pins.get(source.name),
        # The days of a training set lie far apart.
        frozenset(days) if days else None,
    )


def open_duckdb(config: LakeOfflineStoreConfig) -> duckdb.DuckDBPyConnection:
    """Open DuckDB within the limits of the configuration."""
    spill = load_settings().scratch / "joins"
    spill.mkdir(parents=True, exist_ok=True)
    return connect(spill, threads=config.threads, memory_mb=config.memory_mb)


def _reader(config: RepoConfig, intervals: _Intervals) -> _Reader:
    """Make the callback through which Feast reads sources; all it reads shares one DuckDB."""
    opened = open_duckdb(config.offline_store)
    connection = ibis.duckdb.from_connection(opened)

    def read(source: DataSource, _repo_path: str) -> Table:
        scan = plan(config.offline_store, source, intervals)
        if scan.schema is None:
            raise NotReadyError(
                f"The table {source.name} does not exist yet. Publish a day of features first."
            )
        if not scan.paths:
            return ibis.memtable(scan.schema.empty_table())
        view = f"{source.namespace}_{source.table}"
        open_files(opened, scan.paths).create_view(view, replace=True)
        return connection.table(view)

    return read


def _event_timestamps(entity_df: pd.DataFrame) -> pd.Series:
    """Return the entity frame's time column, which Feast finds by name or by being the only one."""
    if "event_timestamp" in entity_df:
        return entity_df["event_timestamp"]
    return entity_df[entity_df.select_dtypes(include=["datetime", "datetimetz"]).columns[0]]


def _half_open(view: FeatureView) -> FeatureView:
    """Shorten the ttl by the smallest step, because Feast compares with `<=`."""
    if not view.ttl:
        return view
    shortened = copy.copy(view)
    # As pandas writes it: ibis refuses a plain timedelta that mixes days with smaller units.
    shortened.ttl = pd.Timedelta(view.ttl) - pd.Timedelta(1, "us")
    return shortened


def _days(start: datetime, end: datetime, zone: str) -> list[date]:
    """Days whose `as_of`, the local midnight after them, may lie in `[start, end]`."""
    return lake.days_between(day_of(start, zone), day_of(end, zone) + timedelta(days=1))


def _refuse_write(*_: object) -> None:
    raise NotImplementedError("Lake tables are written by evergreen.lake.publish only.")
