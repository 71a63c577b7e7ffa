"""SQL sources of a real Postgres."""

from __future__ import annotations

from datetime import date

import pyarrow as pa
import pytest
import sqlalchemy as sa

from evergreen.contract import SqlSource
from evergreen.errors import SourceError
from evergreen.settings import Settings
from evergreen.sources.sql import QueryReader

QUERY = "SELECT id, at, amount FROM orders WHERE at >= :start AND at < :end ORDER BY at, id"
DAY = (date(2026, 3, 1), date(2026, 3, 2))


def reader(query: str) -> QueryReader:
    source = SqlSource.model_validate({"kind": "sql", "secret": "shop", "query": query})
    return QueryReader(source, ("id", "at"), "UTC")


@pytest.mark.parametrize("kind", ["timestamptz", "timestamp"])
def test_postgres_compares_in_utc_whatever_its_own_zone(
    home: Settings, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    url = home.database_url("ledger")
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.execute(sa.text(f"CREATE TABLE orders (id int, at {kind}, amount numeric)"))
        connection.execute(sa.text("CREATE SEQUENCE seq"))
        connection.execute(sa.text("SET TIME ZONE 'UTC'"))
        connection.execute(
            sa.text(
                "INSERT INTO orders VALUES (1, '2026-02-28 23:59:59', 1), "
                "(2, '2026-03-01 00:00:00', 1.50), (3, '2026-03-02 00:00:00', 1)"
            )
        )
    engine.dispose()
    separator = "&" if "?" in url else "?"
    monkeypatch.setenv(
        "EVERGREEN_SECRET_SHOP", f"{url}{separator}options=-c%20timezone%3DAmerica/New_York"
    )
    (row,) = pa.concat_tables(reader(QUERY).read(*DAY)).to_pylist()
    mark = "Z" if kind == "timestamptz" else ""
    assert (row["id"], row["at"]) == ("2", f"2026-03-01T00:00:00{mark}")
    assert row["amount"] == "1.50"
    with pytest.raises(SourceError, match="read-only"):
        list(reader(QUERY.replace("amount", "nextval('seq')")).read(*DAY))
