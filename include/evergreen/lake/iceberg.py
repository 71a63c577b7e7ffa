"""Tables: the catalog, one table of it, and what each consists of."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import date, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING

import pyarrow as pa
from pyiceberg.catalog import Catalog
from pyiceberg.catalog.sql import IcebergTables, SqlCatalog
from pyiceberg.exceptions import (
    NamespaceAlreadyExistsError,
    NoSuchNamespaceError,
    NoSuchTableError,
)
from pyiceberg.expressions import (
    AlwaysTrue,
    And,
    BooleanExpression,
    GreaterThanOrEqual,
    In,
    LessThan,
)
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from evergreen.databases import open_engine
from evergreen.errors import NotReadyError
from evergreen.lake import elsewhere
from evergreen.lake.elsewhere import NAME
from evergreen.lake.sealed import LakeFileIO, readable
from evergreen.settings import Settings, load_settings

if TYPE_CHECKING:
    from pyiceberg.table import FileScanTask, Table
    from sqlalchemy import Engine

ATTEMPTS = 10
_OWNER = "evergreen.deployment-"
_EPOCH = date(1970, 1, 1)


def catalog(settings: Settings | None = None) -> Catalog:
    """Open the Iceberg catalog: one elsewhere, or in a SQL database (one per process and URL).

    Raises
    ------
    ConfigError
        One elsewhere cannot be opened as declared, or does not let us in.
    ServiceDownError
        It does not answer.
    """
    if declared := elsewhere.declared():
        return elsewhere.open_catalog({**declared, "py-io-impl": _ACCESS})
    settings = settings or load_settings()
    return _catalog(settings.database_url("catalog"), settings.warehouse)


def prepare(settings: Settings) -> None:
    """Let the catalog be there."""
    if isinstance(found := catalog(settings), SqlCatalog):
        found.create_tables()


def claim(owner: Mapping[str, str]) -> dict[str, str]:
    """Let the catalog belong to somebody, unless it does already; return to whom.

    It is remembered in properties of a namespace, which every type of catalog has.
    """
    properties = {f"{_OWNER}{key}": value for key, value in owner.items()}
    found = catalog()
    with suppress(NamespaceAlreadyExistsError, IntegrityError):
        found.create_namespace((NAME,), properties)
    if not properties.keys() & found.load_namespace_properties((NAME,)).keys():
        found.update_namespace_properties((NAME,), updates=properties)
    known = found.load_namespace_properties((NAME,))
    return {key: known[f"{_OWNER}{key}"] for key in owner}


_ACCESS = f"{LakeFileIO.__module__}.{LakeFileIO.__qualname__}"


class _Catalog(SqlCatalog):
    def load_table(self, identifier: str | tuple[str, ...]) -> Table:
        """Load a table as it is now; reading it again and retried commits come here, too.

        Between the catalog's answer and the opening of the file it names, some twenty commits may
        pass and remove that file; asked again, the catalog names another.
        """
        for _ in range(ATTEMPTS - 1):
            with suppress(FileNotFoundError):
                return super().load_table(identifier)
        return super().load_table(identifier)


@lru_cache(maxsize=8)
def _catalog(url: str, warehouse: str) -> SqlCatalog:
    properties = {"warehouse": warehouse, "py-io-impl": _ACCESS, "pool_pre_ping": "true"}
    opened: list[_Catalog] = []

    def connect() -> Engine:
        # Opening it asks for its tables.
        opened.append(_Catalog(NAME, uri=url, **properties))
        engine: Engine = opened[0].engine
        return engine

    open_engine("catalog", url, connect)
    return opened[0]


def load(namespace: str, table: str) -> Table | None:
    """Return a table as it is now, or None if there is none.

    Raises
    ------
    DamagedError
        There is one, and its metadata cannot be read.
    """
    with readable(f"{namespace}.{table}"):
        try:
            return catalog().load_table((namespace, table))
        except NoSuchTableError:
            return None


def tables(namespace: str) -> list[str]:
    """Names of the tables of a namespace, sorted."""
    try:
        return sorted(name for _, name in catalog().list_tables((namespace,)))
    except NoSuchNamespaceError:
        return []


def heads(namespace: str) -> dict[str, str]:
    """Where the metadata of each table of a namespace are: somewhere else after every commit.

    Of a catalog in SQL one query, and no file is read; others are asked for each table.
    """
    found = catalog()
    if not isinstance(found, SqlCatalog):
        loaded = {table: load(namespace, table) for table in tables(namespace)}
        return {name: table.metadata_location for name, table in loaded.items() if table}
    query = select(IcebergTables.table_name, IcebergTables.metadata_location).where(
        IcebergTables.catalog_name == found.name, IcebergTables.table_namespace == namespace
    )
    with found.engine.connect() as connection:
        return dict(map(tuple, connection.execute(query)))


def exists(namespace: str, table: str) -> bool:
    """Whether the table has been published to."""
    return load(namespace, table) is not None


def days_between(start: date, end: date) -> list[date]:
    """Days of `[start, end)`."""
    return [start + timedelta(days=n) for n in range((end - start).days)]


def pause(attempt: int) -> None:
    """Wait before starting again after a conflict: longer each time, and never in step."""
    # Nothing depends on nobody guessing it.
    time.sleep(random.uniform(0, 0.05 * 2**attempt))  # nosec B311


def name_of(table: Table) -> str:
    """Name a table as users know it: `<namespace>.<table>`."""
    return ".".join(table.name()[-2:])


def day_of(task: FileScanTask) -> date:
    """Return the day that all rows of a file belong to: the only partition field."""
    return _EPOCH + timedelta(days=task.file.partition[0])


def tasks_of(
    table: Table, rows: BooleanExpression, snapshot_id: int | None = None
) -> list[FileScanTask]:
    """Plan the files of a table that may hold wanted rows."""
    with readable(name_of(table)):
        return list(table.scan(row_filter=rows, snapshot_id=snapshot_id).plan_files())


def require_snapshot(table: Table, snapshot_id: int) -> None:
    """Raise unless a table has a snapshot.

    Raises
    ------
    NotReadyError
        It was expired.
    """
    if table.snapshot_by_id(snapshot_id) is None:
        raise NotReadyError(
            f"{name_of(table)} has no snapshot {snapshot_id}; it was expired. What it held can "
            "only be read from a backup made before."
        )


def days_filter(days: list[date]) -> BooleanExpression:
    """Rows of some days, ascending."""
    first, last = days[0], days[-1]
    if len(days) == (last - first).days + 1:
        return range_filter(first, last + timedelta(days=1))
    return In("day", [day.isoformat() for day in days])


def range_filter(start: date | None, end: date | None) -> BooleanExpression:
    """Rows of the days `[start, end)`; either bound may be open."""
    bounds: list[BooleanExpression] = []
    if start is not None:
        bounds.append(GreaterThanOrEqual("day", start.isoformat()))
    if end is not None:
        bounds.append(LessThan("day", end.isoformat()))
    if not bounds:
        return AlwaysTrue()
    return bounds[0] if len(bounds) == 1 else And(*bounds)


def with_missing_columns(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """Add the columns that rows lack, empty."""
    for field in schema:
        if field.name not in rows.column_names:
            rows = rows.append_column(field.name, pa.nulls(rows.num_rows, field.type))
    return rows
