"""What was pushed since the last batch: events, and the features that were made of them.

Two tables beside the online store, shared by all processes that serve and emptied by every batch.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import date, datetime
from typing import Any

import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY

from evergreen.contract import Events, UseCase, arrow
from evergreen.databases import feast_engine, take_lock
from evergreen.sources.base import value_as_text

# A batch of pushes, or what a day's batch does with them, takes seconds.
_LOCK_SECONDS = 30

_METADATA = sa.MetaData()
_EVENTS = sa.Table(
    "pushed_events",
    _METADATA,
    sa.Column("use_case", sa.Text, primary_key=True),
    sa.Column("table", sa.Text, primary_key=True),
    sa.Column("day", sa.Date, primary_key=True),
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("entity", sa.Text, nullable=False, index=True),
    # JSON of the published columns, each as text.
    sa.Column("content", sa.Text, nullable=False),
)
_ROWS = sa.Table(
    "pushed_rows",
    _METADATA,
    sa.Column("use_case", sa.Text, primary_key=True),
    sa.Column("day", sa.Date, primary_key=True),
    sa.Column("entity", sa.Text, primary_key=True),
    sa.Column("pushed_at", sa.DateTime(timezone=True), primary_key=True),
    # JSON of key and features.
    sa.Column("content", sa.Text, nullable=False),
)
TABLES = (_EVENTS.name, _ROWS.name)


def create_tables() -> None:
    """Create the tables where they are missing; safe to repeat and at once."""
    with feast_engine().begin() as connection:
        take_lock(connection.exec_driver_sql, "create the tables of pushes", 60)
        _METADATA.create_all(connection)


@contextmanager
def alone(use_case: UseCase) -> Iterator[Pushed]:
    """Keep others from pushing, all or nothing: what the body did is undone if it fails.

    Raises
    ------
    BusyError
        Somebody else was at it all the time.
    ServiceDownError
        The database does not answer.
    """
    with feast_engine().begin() as connection:
        take_lock(connection.exec_driver_sql, f"push {use_case.name}", _LOCK_SECONDS)
        yield Pushed(use_case, connection)


def has(use_case: UseCase, key: str | int) -> bool:
    """Whether anything that was pushed is about an entity."""
    if not sa.inspect(feast_engine()).has_table(_EVENTS.name):
        # Nobody can push.
        return False
    with feast_engine().connect() as connection:
        about = (_about(table, use_case, key) for table in (_EVENTS, _ROWS))
        return any(connection.scalar(sa.select(sa.exists().where(one))) for one in about)


def forget(use_case: UseCase, key: str | int) -> int:
    """Remove what was pushed about an entity, and have the pages that held it cleaned."""
    if not sa.inspect(feast_engine()).has_table(_EVENTS.name):
        return 0
    removed = 0
    # Whoever is at it has done; whoever comes later knows that the entity is erased.
    with alone(use_case) as pushed:
        for table in (_EVENTS, _ROWS):
            found = sa.delete(table).where(_about(table, use_case, key))
            removed += pushed.connection.execute(found).rowcount
    with feast_engine().connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for name in TABLES:
            connection.execute(sa.text(f"VACUUM {name}"))
    return removed


class Pushed:
    """What was pushed about the entities of one use case, within one transaction."""

    def __init__(self, use_case: UseCase, connection: sa.Connection) -> None:
        self._use_case, self.connection = use_case, connection

    def known(self, table: Events, days: Collection[date]) -> dict[tuple[date, str], str]:
        """Return what was taken of some days of a table, by day and key."""
        query = sa.select(_EVENTS.c.day, _EVENTS.c.key, _EVENTS.c.content).where(
            *(_EVENTS.c.use_case == self._use_case.name, _EVENTS.c.table == table.name),
            _EVENTS.c.day.in_(days),
        )
        return {(row.day, row.key): row.content for row in self.connection.execute(query)}

    def add(self, table: Events, rows: Collection[Mapping[str, Any]]) -> None:
        """Keep events that are not known."""
        assert table.row_key is not None
        values = [
            {
                "use_case": self._use_case.name,
                "table": table.name,
                "day": row["day"],
                "key": str(row[table.row_key]),
                "entity": str(row[table.entity_key]),
                "content": content_of(table, row),
            }
            for row in rows
        ]
        if values:
            self.connection.execute(sa.insert(_EVENTS), values)

    def events(self, entities: Collection[str]) -> dict[str, pa.Table]:
        """Return all events about some entities by table: published columns and `day`."""
        query = (
            sa.select(_EVENTS.c.table, _EVENTS.c.day, _EVENTS.c.content)
            .where(_EVENTS.c.use_case == self._use_case.name, _is_one_of(_EVENTS, entities))
            .order_by(_EVENTS.c.table, _EVENTS.c.day, _EVENTS.c.key)
        )
        found: dict[str, list[dict[str, Any]]] = {}
        for name, day, content in self.connection.execute(query):
            found.setdefault(name, []).append(json.loads(content) | {"day": day})
        # What is declared no more is read by nothing.
        events = self._use_case.events
        return {name: _typed(events[name], rows) for name, rows in found.items() if name in events}

    def log(self, rows: pa.Table, day: date, at: datetime) -> None:
        """Keep the features that were pushed at an instant.

        Parameters
        ----------
        rows
            Entity key and features; others are ignored.
        """
        key = self._use_case.entity.key
        names = [key, *self._use_case.feature_names]
        values = [
            {
                "use_case": self._use_case.name,
                "day": day,
                "entity": str(row[key]),
                "pushed_at": at,
                "content": json.dumps(row),
            }
            for row in rows.select(names).to_pylist()
        ]
        if values:
            self.connection.execute(sa.insert(_ROWS), values)

    def logged(self, last: date) -> dict[date, list[dict[str, Any]]]:
        """Return the last features of each entity of the days up to `last`, with their `as_of`."""
        query = (
            sa.select(_ROWS.c.day, _ROWS.c.pushed_at, _ROWS.c.content)
            .distinct(_ROWS.c.day, _ROWS.c.entity)
            .where(_ROWS.c.use_case == self._use_case.name, _ROWS.c.day <= last)
            .order_by(_ROWS.c.day, _ROWS.c.entity, _ROWS.c.pushed_at.desc())
        )
        found: dict[date, list[dict[str, Any]]] = {}
        for day, at, content in self.connection.execute(query):
            found.setdefault(day, []).append(json.loads(content) | {"day": day, "as_of": at})
        return found

    def clear(self, last: date) -> set[str]:
        """Let go of the days up to `last`; return of whom features of later ones were pushed."""
        name = self._use_case.name
        for table in (_EVENTS, _ROWS):
            past = sa.and_(table.c.use_case == name, table.c.day <= last)
            self.connection.execute(sa.delete(table).where(past))
        later = sa.select(_ROWS.c.entity).distinct().where(_ROWS.c.use_case == name)
        return set(self.connection.scalars(later))


def content_of(table: Events, row: Mapping[str, Any]) -> str:
    """Return the published columns of an event as they are kept: equal ones are the same text."""
    return json.dumps({name: value_as_text(row[name]) for name in table.published})


def _typed(table: Events, rows: list[dict[str, Any]]) -> pa.Table:
    columns = {
        name: pa.array([row.get(name) for row in rows], pa.string()).cast(arrow(column.dtype))
        for name, column in table.published.items()
    }
    return pa.table({**columns, "day": pa.array([row["day"] for row in rows], pa.date32())})


def _about(table: sa.Table, use_case: UseCase, key: str | int) -> sa.ColumnElement[bool]:
    return sa.and_(table.c.use_case == use_case.name, table.c.entity == str(key))


def _is_one_of(table: sa.Table, entities: Collection[str]) -> sa.ColumnElement[bool]:
    return table.c.entity == sa.func.any(sa.bindparam(None, list(entities), ARRAY(sa.Text)))
