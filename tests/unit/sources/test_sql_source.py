from __future__ import annotations

import os
import sqlite3
import traceback
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pytest

from evergreen.contract import SqlSource, as_of
from evergreen.errors import ConfigError, ServiceDownError, SourceError
from evergreen.sources.base import RAW_COLUMNS, value_as_text
from evergreen.sources.sql import QueryReader, bound

QUERY = "SELECT id, at, amount FROM orders WHERE at >= :start AND at < :end ORDER BY at, id"


def reader(query: str = QUERY, zone: str = "UTC", **declared: object) -> QueryReader:
    source = SqlSource.model_validate({"kind": "sql", "secret": "shop", "query": query, **declared})
    return QueryReader(source, ("id", "at"), zone)


def read(start: date, end: date, query: str = QUERY, **declared: object) -> pa.Table:
    return pa.concat_tables(reader(query, **declared).read(start, end))


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[sqlite3.Connection]:
    path = tmp_path / "shop.db"
    monkeypatch.setenv("EVERGREEN_SECRET_SHOP", f"sqlite:///{path}")
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("CREATE TABLE orders (id INTEGER, at TEXT, amount REAL)")
    yield connection
    connection.close()


# Every ISO 8601 spelling of an instant must fall into its own day.
@pytest.mark.parametrize("form", ["{d} {t}", "{d}T{t}", "{d}T{t}Z", "{d} {t}.000", "{d}T{t}+00:00"])
def test_midnight_belongs_to_the_day_it_begins(shop: sqlite3.Connection, form: str) -> None:
    instants = [
        form.format(d=day, t=time)
        for day in ("2026-02-28", "2026-03-01", "2026-03-02")
        for time in ("00:00:00", "23:59:59")
    ]
    shop.executemany("INSERT INTO orders VALUES (?, ?, 1)", list(enumerate(instants)))
    found = [
        read(day, day + timedelta(days=1))["id"].to_pylist()
        for day in (date(2026, 2, 28), date(2026, 3, 1), date(2026, 3, 2))
    ]
    assert found == [["0", "1"], ["2", "3"], ["4", "5"]]


def test_a_day_is_the_same_alone_and_in_a_range(shop: sqlite3.Connection) -> None:
    shop.executemany(
        "INSERT INTO orders VALUES (?, ?, 1)",
        [(n, f"2026-03-{1 + n // 3:02} 10:00:00") for n in range(9)],
    )
    days = [date(2026, 3, day) for day in (1, 2, 3)]
    alone = pa.concat_tables(read(day, day + timedelta(days=1)) for day in days)
    together = read(date(2026, 3, 1), date(2026, 3, 4), batch_rows=2)
    assert together.to_pylist() == alone.to_pylist()
    assert together["_row"].to_pylist() == [1, 2, 3] * 3
    assert together["_day"].to_pylist() == [day for day in days for _ in range(3)]
    assert together["_source"][0].as_py() == f"sql:{reader().digest}/2026-03-01"


def test_batches_are_bounded(shop: sqlite3.Connection) -> None:
    shop.executemany(
        "INSERT INTO orders VALUES (?, '2026-03-01 10:00:00', 1)", [(n,) for n in range(10)]
    )
    chunks = list(reader(batch_rows=4).read(date(2026, 3, 1), date(2026, 3, 2)))
    assert [chunk.num_rows for chunk in chunks] == [4, 4, 2]


def test_a_day_without_rows_still_has_columns(shop: sqlite3.Connection) -> None:
    table = read(date(2026, 3, 1), date(2026, 3, 2))
    assert table.num_rows == 0
    assert table.schema.names == ["id", "at", "amount", *RAW_COLUMNS]


def test_values_become_text_without_loss(shop: sqlite3.Connection) -> None:
    shop.execute("INSERT INTO orders VALUES (NULL, '2026-03-01', ?)", (0.1 + 0.2,))
    (row,) = read(date(2026, 3, 1), date(2026, 3, 2)).to_pylist()
    assert (row["id"], row["amount"]) == (None, "0.30000000000000004")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "true"),
        (float("nan"), "nan"),
        (1e300, "1e+300"),
        (Decimal("1E+2"), "100"),
        (Decimal("1.50"), "1.50"),
        (Decimal("NaN"), "nan"),
        (datetime(2026, 3, 1, 1, tzinfo=UTC), "2026-03-01T01:00:00Z"),
        (
            datetime(2026, 3, 1, 1, tzinfo=timezone(timedelta(hours=2))),
            "2026-03-01T01:00:00+02:00",
        ),
        (datetime.fromisoformat("2026-03-01T01:00:00"), "2026-03-01T01:00:00"),
        (date(2026, 3, 1), "2026-03-01"),
        (b"\xff", "ff"),
        ({"b": [1], "a": None}, '{"a": null, "b": [1]}'),
    ],
)
def test_a_drivers_value_as_text(value: object, text: str) -> None:
    assert value_as_text(value) == text


def test_bounds_are_what_the_database_can_compare() -> None:
    midnight = datetime(2026, 3, 1, tzinfo=UTC)
    assert bound("sqlite", midnight, "UTC") == "2026-03-01"
    assert bound("sqlite", midnight, "Europe/London") == "2026-03-01 00:00:00"
    assert bound("postgresql", midnight, "UTC") == midnight
    assert bound("mysql", midnight, "UTC") == midnight.replace(tzinfo=None)


def test_local_days_have_the_hours_they_have(shop: sqlite3.Connection) -> None:
    hour = timedelta(hours=1)
    start = datetime(2026, 3, 27, tzinfo=UTC)
    shop.executemany(
        "INSERT INTO orders VALUES (?, ?, 1)",
        [(n, (start + n * hour).strftime("%Y-%m-%d %H:%M:%S")) for n in range(96)],
    )
    days = [date(2026, 3, day) for day in (28, 29, 30)]
    found = [
        pa.concat_tables(reader(zone="Europe/Berlin").read(day, day + timedelta(days=1)))
        for day in days
    ]
    assert [table.num_rows for table in found] == [24, 23, 24]
    for day, table in zip(days, found, strict=True):
        assert set(table["_day"].to_pylist()) == {day}
        first = (as_of(day - timedelta(days=1), "Europe/Berlin") - start) // hour
        assert table["id"][0].as_py() == str(first)


def test_a_reference_is_the_whole_table_every_day(shop: sqlite3.Connection) -> None:
    shop.execute("INSERT INTO orders VALUES (1, '1999-01-01', 1)")
    table = read(date(2026, 3, 1), date(2026, 3, 3), "SELECT * FROM orders")
    assert table["_day"].to_pylist() == [date(2026, 3, 1), date(2026, 3, 2)]
    assert table["_row"].to_pylist() == [1, 1]


def test_a_missing_column_is_named(shop: sqlite3.Connection) -> None:
    query = "SELECT id FROM orders WHERE at >= :start AND at < :end"
    with pytest.raises(SourceError, match=r"'shop'.*lacks columns \['at'\]"):
        read(date(2026, 3, 1), date(2026, 3, 2), query)


def test_wrong_sql_is_a_permanent_error(shop: sqlite3.Connection) -> None:
    with pytest.raises(SourceError, match=r"no such column: nope.*:start = '2026-03-01'"):
        read(date(2026, 3, 1), date(2026, 3, 2), QUERY.replace("amount", "nope"))


def test_a_locked_database_is_a_transient_error(
    shop: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = os.environ["EVERGREEN_SECRET_SHOP"]
    monkeypatch.setenv("EVERGREEN_SECRET_SHOP", f"{url}?timeout=0.01")
    shop.execute("BEGIN EXCLUSIVE")
    with pytest.raises(ServiceDownError, match="locked"):
        read(date(2026, 3, 1), date(2026, 3, 2))
    shop.execute("ROLLBACK")
    assert read(date(2026, 3, 1), date(2026, 3, 2)).num_rows == 0


def test_an_unset_secret_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EVERGREEN_SECRET_SHOP", raising=False)
    with pytest.raises(ConfigError, match="EVERGREEN_SECRET_SHOP"):
        read(date(2026, 3, 1), date(2026, 3, 2))


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql+psycopg2://me:hunter2@127.0.0.1:1/shop", ServiceDownError),
        ("nosuch://me:hunter2@host/shop", ConfigError),
        ("mysql+nosuch://me:hunter2@host/shop", ConfigError),
        ("oracle+oracledb://me:hunter2@host/shop", ConfigError),
        ("me:hunter2@host", ConfigError),
        ("sqlite:////nowhere/hunter2.db", ServiceDownError),
    ],
)
def test_no_error_shows_the_url(
    monkeypatch: pytest.MonkeyPatch, url: str, expected: type[Exception]
) -> None:
    monkeypatch.setenv("EVERGREEN_SECRET_SHOP", url)
    with pytest.raises(expected) as caught:
        read(date(2026, 3, 1), date(2026, 3, 2))
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))
    assert "shop" in str(caught.value).lower()


def test_a_missing_sqlite_file_is_not_created(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVERGREEN_SECRET_SHOP", f"sqlite:///{tmp_path}/none.db")
    with pytest.raises(ServiceDownError):
        read(date(2026, 3, 1), date(2026, 3, 2))
    assert list(tmp_path.iterdir()) == []
