"""What the SQL databases hold of an entity, in whatever column, and Airflow's copies of texts."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from evergreen.erasure.needle import Needle
from evergreen.errors import ServiceDownError
from evergreen.features.store import pushed
from evergreen.settings import DATABASES, Database, Settings

_SEARCHED = ("text", "character varying", "character", "json", "jsonb", "bytea", "ARRAY")
# What tasks have handed on, been given and said.
_BLOTTED = {
    "xcom": "value",
    "rendered_task_instance_fields": "rendered_fields",
    "log": "extra",
    "dag_run": "conf",
}

_TYPES: dict[str, sa.types.TypeEngine[Any]] = {
    "json": postgresql.JSON(),
    "jsonb": postgresql.JSONB(),
}


def find(settings: Settings, needle: Needle, besides: Collection[str]) -> Iterator[str]:
    """Yield the columns that hold an entity, with the number of rows; and who does not answer.

    Parameters
    ----------
    besides
        Use cases whose online values are of other entities.
    """
    seen = set()
    for name in DATABASES:
        try:
            url = settings.database_url(name)
            if url in seen:
                continue
            seen.add(url)
            yield from _find(name, url, needle, besides)
        except (ServiceDownError, sa.exc.OperationalError) as error:
            if "does not exist" in str(error):
                # Nothing was ever put into it.
                continue
            yield f"the database {name} could not be looked at: {error}"


def blot(settings: Settings, needle: Needle) -> int:
    """Blot an entity out of what Airflow keeps of runs; return how many rows had it."""
    try:
        engine = _engine(settings.database_url("airflow"))
        kinds = {(table, column): kind for table, column, kind in _columns(engine)}
    except (ServiceDownError, sa.exc.OperationalError):
        # Told by the proof.
        return 0
    changed = 0
    for table, column in _BLOTTED.items():
        if (kind := kinds.get((table, column))) is None:
            continue
        of = sa.table(table, sa.column(column), sa.column("ctid"))
        text = sa.cast(of.c[column], sa.Text)
        with engine.begin() as connection:
            rows = connection.execute(
                sa.select(sa.cast(of.c.ctid, sa.Text), text).where(_matches(text, needle))
            ).all()
            for row, value in rows:
                clean = sa.cast(sa.literal(needle.blot_text(value)), _TYPES.get(kind, sa.Text()))
                same = sa.cast(of.c.ctid, sa.Text) == row
                connection.execute(sa.update(of).where(same).values({column: clean}))
            changed += len(rows)
    return changed


def _find(name: Database, url: str, needle: Needle, besides: Collection[str]) -> Iterator[str]:
    engine = _engine(url)
    with engine.connect() as connection:
        for table, column, kind in _columns(engine):
            if any(table == f"evergreen_{other}_features" for other in besides):
                continue
            of = sa.table(table, sa.column(column), sa.column("use_case"))
            value = of.c[column]
            # What was pushed about entities of others.
            ours = of.c.use_case.not_in(besides) if table in pushed.TABLES else sa.true()
            if kind == "bytea":
                words = [
                    sa.func.strpos(sa.func.encode(value, "escape"), w) > 0 for w in needle.words
                ]
                if words:
                    rows = connection.scalars(sa.select(value).where(sa.or_(*words)))
                    count = sum(needle.is_in_bytes(bytes(found)) for found in rows)
                else:
                    count = 0
            else:
                text = sa.cast(value, sa.Text)
                found = (
                    sa.select(sa.func.count()).select_from(of).where(_matches(text, needle), ours)
                )
                count = connection.execute(found).scalar_one()
            if count:
                yield f"{count} rows of {table}.{column} in the database {name}"


def _matches(text: sa.ColumnElement[str], needle: Needle) -> sa.ColumnElement[bool]:
    return text.op("~")(needle.pattern)


def _columns(engine: sa.Engine) -> list[tuple[str, str, str]]:
    columns = sa.table(
        "columns",
        *map(sa.column, ("table_schema", "table_name", "column_name", "data_type")),
        schema="information_schema",
    )
    query = (
        sa.select(columns.c.table_name, columns.c.column_name, columns.c.data_type)
        .where(columns.c.table_schema == "public", columns.c.data_type.in_(_SEARCHED))
        .order_by(columns.c.table_name, columns.c.column_name)
    )
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(query)]


def _engine(url: str) -> sa.Engine:
    return sa.create_engine(url, poolclass=sa.NullPool)
