"""Several tables in local days: what the SQL sees of each, and what it must not."""

from __future__ import annotations

import random
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evergreen.contract import UseCase, arrow, load_use_case_file
from evergreen.errors import LookAheadError
from evergreen.features.compute import daily
from evergreen.features.compute.past import Given
from evergreen.features.compute.run import compute_features, compute_labels, iter_features

FEATURES = """
SELECT
    o.customer_id,
    d.as_of,
    sum(o.orders) AS orders,
    coalesce(any_value(v.visits ORDER BY v.visits, v.visits), 0) AS visits,
    any_value(p.plan ORDER BY p.plan) AS plan,
    any_value(t.fee ORDER BY t.fee) AS fee,
    date_diff('second', max(o.last_at), d.as_of) / 86400.0 AS idle_days
FROM as_of_days AS d
INNER JOIN orders_daily AS o ON o.day < d.as_of
LEFT JOIN (
    SELECT d.as_of, v.customer_id, count(*) AS visits
    FROM as_of_days AS d INNER JOIN visits AS v
        ON v.seen_at < d.as_of AND v.day >= d.as_of - INTERVAL 7 DAY
    GROUP BY d.as_of, v.customer_id
) AS v ON v.as_of = d.as_of AND v.customer_id = o.customer_id
LEFT JOIN plans AS p ON p.as_of = d.as_of AND p.customer_id = o.customer_id
LEFT JOIN tariffs AS t ON t.as_of = d.as_of AND t.plan = p.plan
GROUP BY o.customer_id, d.as_of
"""
LABELS = """
SELECT o.customer_id, d.as_of, count(*) FILTER (o.day >= d.as_of) = 0 AS label
FROM as_of_days AS d INNER JOIN orders_daily AS o ON o.day < d.horizon_end
GROUP BY o.customer_id, d.as_of
HAVING min(o.day) < d.as_of
"""


def _columns(**dtypes: str) -> dict[str, Any]:
    return {name: {"source": name, "dtype": dtype} for name, dtype in dtypes.items()}


def declared(zone: str) -> dict[str, Any]:
    file = {"kind": "files", "path": "/nowhere/{day}.csv"}
    daily_columns = {
        "orders": {"sql": "count(*)", "merge": "sum"},
        "last_at": {"sql": "max(ordered_at)", "merge": "max"},
    }
    return {
        "name": "club",
        "title": "A club",
        "zone": zone,
        "first_day": date(2024, 1, 1),
        "entity": {"name": "customer", "key": "customer_id"},
        "events": {
            "orders": {
                "source": file,
                "key": "id",
                "timestamp": "ordered_at",
                "columns": _columns(id="string", customer_id="string", ordered_at="timestamp"),
                "daily": {"lookback_days": 10, "columns": daily_columns},
            },
            "visits": {
                "source": file,
                "key": "none",
                "timestamp": "seen_at",
                "columns": _columns(customer_id="string", seen_at="timestamp"),
            },
        },
        "attributes": {
            "plans": {
                "source": file,
                "valid_from": "since",
                "columns": _columns(customer_id="string", since="timestamp", plan="string"),
            }
        },
        "references": {
            "tariffs": {
                "source": file,
                "key": "plan",
                "columns": _columns(plan="string", fee="float64"),
            }
        },
        "features": {
            "columns": {
                "orders": {"dtype": "int64", "description": "Orders."},
                "visits": {"dtype": "int64", "description": "Visits of a week."},
                "plan": {"dtype": "category", "description": "Plan.", "nullable": True},
                "fee": {"dtype": "float64", "description": "Fee.", "nullable": True},
                "idle_days": {"dtype": "float64", "description": "Since the last order."},
            }
        },
        "target": {"name": "left", "description": "No order.", "horizon_days": 5},
    }


@pytest.fixture(scope="module")
def club(tmp_path_factory: pytest.TempPathFactory):
    made: dict[str, UseCase] = {}

    def club(zone: str = "Europe/Berlin", features: str = FEATURES) -> UseCase:
        if zone + features not in made:
            folder = tmp_path_factory.mktemp("use_cases") / "club"
            folder.mkdir()
            (folder / "use_case.yaml").write_text(yaml.safe_dump(declared(zone)))
            (folder / "features.sql").write_text(features)
            (folder / "labels.sql").write_text(LABELS)
            made[zone + features] = load_use_case_file(folder / "use_case.yaml")
        return made[zone + features]

    return club


class Lake:
    """Rows of tables, written as the files that steps plan."""

    def __init__(self, use_case: UseCase, folder: Path) -> None:
        self.use_case, self._folder = use_case, folder
        self.rows: dict[str, list[dict[str, Any]]] = {name: [] for name in use_case.tables}

    def add(self, table: str, day: date | None = None, **row: Any) -> None:
        """Add a row; without a day, of the local day it happened on."""
        time = self.use_case.tables[table].time
        if day is None:
            day = self.use_case.day_of(row[time or ""] + timedelta(microseconds=1))
        self.rows[table].append({**row, "day": day})

    def given(self, end: date = date.max) -> dict[str, Given]:
        """Write what lies before a day."""
        found = {}
        for name, table in self.use_case.tables.items():
            fields = [(n, arrow(column.dtype)) for n, column in table.published.items()]
            schema = pa.schema([*fields, ("day", pa.date32())])
            path = self._folder / f"{name}-{random.random()}.parquet"
            rows = [row for row in self.rows[name] if row["day"] < end]
            pq.write_table(pa.Table.from_pylist(rows, schema), path)
            found[name] = Given([str(path)])
        return found


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


# --- local midnights -----------------------------------------------------------------------------


def test_a_day_ends_at_its_local_midnight(club, tmp_path: Path) -> None:
    lake = Lake(club(), tmp_path)
    # Midnight in Berlin is 22:00 in summer and 23:00 in winter, by UTC.
    for number, instant in enumerate(
        ["2024-07-01T21:59:59.999999", "2024-07-01T22:00:00", "2024-12-01T22:59:59.999999"]
    ):
        lake.add("orders", id=f"o{number}", customer_id=f"c{number}", ordered_at=at(instant))
    days = [date(2024, 7, 1), date(2024, 7, 2), date(2024, 12, 1)]
    found = compute_features(club(), lake.given(), days).to_pylist()
    assert [(row["customer_id"], str(row["day"])) for row in found] == [
        ("c0", "2024-07-01"),
        ("c0", "2024-07-02"),
        ("c1", "2024-07-02"),
        ("c0", "2024-12-01"),
        ("c1", "2024-12-01"),
        ("c2", "2024-12-01"),
    ]
    assert [row["as_of"] for row in found[::3]] == [at("2024-07-01T22:00"), at("2024-12-01T23:00")]
    # A microsecond before midnight, on the wall.
    assert found[0]["idle_days"] == pytest.approx(0, abs=1e-4)
    assert found[-1]["idle_days"] == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("day", [date(2024, 3, 30), date(2024, 3, 31), date(2024, 10, 27)])
def test_windows_and_horizons_are_of_calendar_days(club, tmp_path: Path, day: date) -> None:
    use_case = club()
    lake = Lake(use_case, tmp_path)
    lake.add("orders", id="a", customer_id="c", ordered_at=use_case.as_of(day) - timedelta(hours=1))
    # The first instant of the seventh day before as_of, and the last of the eighth.
    week_ago = use_case.as_of(day - timedelta(days=7))
    lake.add("visits", customer_id="c", seen_at=week_ago)
    lake.add("visits", customer_id="c", seen_at=week_ago - timedelta(microseconds=1))
    assert compute_features(use_case, lake.given(), [day])["visits"].to_pylist() == [1]
    end = use_case.as_of(day + timedelta(days=5))
    labels = compute_labels(use_case, lake.given(), [day])
    assert labels["known_at"].to_pylist() == [end]
    assert labels["label"].to_pylist() == [True]
    lake.add("orders", id="b", customer_id="c", ordered_at=end)
    assert compute_labels(use_case, lake.given(), [day])["label"].to_pylist() == [True]
    lake.add("orders", id="c", customer_id="c", ordered_at=end - timedelta(microseconds=1))
    assert compute_labels(use_case, lake.given(), [day])["label"].to_pylist() == [False]


ZONES = ["UTC", "Europe/Berlin", "America/Sao_Paulo", "America/Havana", "Australia/Lord_Howe"]


@pytest.mark.slow
@settings(
    max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(zone=st.sampled_from(ZONES), seed=st.integers(0, 10**6), per_chunk=st.integers(1, 5))
def test_days_alone_in_chunks_and_from_totals_are_the_same(
    club, tmp_path_factory, zone: str, seed: int, per_chunk: int
) -> None:
    use_case, chance = club(zone), random.Random(seed)
    lake = Lake(use_case, tmp_path_factory.mktemp("lake"))
    start = use_case.as_of(date(2024, 2, 20))
    for number in range(150):
        instant = start + timedelta(minutes=30 * chance.randrange(48 * 60))
        row = {"customer_id": f"c{chance.randrange(4)}"}
        lake.add("orders", id=f"o{number}", ordered_at=instant, **row)
        lake.add("visits", seen_at=instant - timedelta(minutes=chance.randrange(300)), **row)
        if number % 5 == 0:
            delivered = use_case.day_of(instant) + timedelta(days=chance.randrange(3))
            plan = chance.choice(["small", "large"])
            # Unique, so that no two are true at once.
            since = instant + timedelta(microseconds=number)
            lake.add("plans", delivered, since=since, plan=plan, **row)
    for day in (date(2024, 1, 1), date(2024, 3, 10), date(2024, 4, 1)):
        for plan in ("small", "large"):
            lake.add("tariffs", day, plan=plan, fee=float(chance.randrange(9)))
    days = [date(2024, 3, 25) + timedelta(days=n) for n in range(12)]
    alone = pa.concat_tables(
        compute_features(use_case, lake.given(day + timedelta(days=1)), [day]) for day in days
    )
    assert alone.num_rows
    chunks = iter_features(use_case, lake.given(), days, days_per_chunk=per_chunk)
    assert pa.concat_tables(rows for _, rows in chunks).equals(alone)
    orders = use_case.events["orders"]
    assert orders.daily is not None
    boundary = orders.daily.merged_before(days[0])
    paths = lake.given()["orders"].paths
    (totals,) = daily.iter_totals(orders, Given(paths), [boundary])
    from_totals = {**lake.given(), "orders": Given(paths, totals)}
    assert compute_features(use_case, from_totals, days).equals(alone)


# --- attributes and references -------------------------------------------------------------------


def plans_of(club, lake: Lake, *days: date) -> list[str | None]:
    return compute_features(club(), lake.given(), days)["plan"].to_pylist()


def test_attributes_are_what_was_valid_and_known_at_each_as_of(club, tmp_path: Path) -> None:
    lake = Lake(club(), tmp_path)
    lake.add("orders", id="o", customer_id="c", ordered_at=at("2024-05-01T12:00"))
    days = [date(2024, 5, n) for n in range(1, 8)]
    lake.add("plans", days[0], customer_id="c", since=at("2020-01-01"), plan="small")
    # Known in advance, true from the fourth on.
    lake.add("plans", days[1], customer_id="c", since=at("2024-05-03T22:00"), plan="large")
    # Becomes known two days late.
    lake.add("plans", days[6], customer_id="c", since=at("2024-05-05T08:00"), plan="none")
    expected = ["small", "small", "small", "large", "large", "large", "none"]
    assert plans_of(club, lake, *days) == expected
    # The day before it was known does not change, however late it is computed.
    assert [plans_of(club, lake, day) for day in days] == [[plan] for plan in expected]


def test_a_correction_of_an_attribute_counts_from_the_day_it_came(club, tmp_path: Path) -> None:
    lake = Lake(club(), tmp_path)
    lake.add("orders", id="o", customer_id="c", ordered_at=at("2024-05-01T12:00"))
    days = [date(2024, 5, n) for n in (1, 2, 3)]
    for day, plan in ((days[0], "wrong"), (days[2], "right")):
        lake.add("plans", day, customer_id="c", since=at("2024-04-01"), plan=plan)
    assert plans_of(club, lake, *days) == ["wrong", "wrong", "right"]


def test_references_are_the_newest_delivery_up_to_each_day(club, tmp_path: Path) -> None:
    lake = Lake(club(), tmp_path)
    days = [date(2024, 5, n) for n in range(1, 6)]
    lake.add("orders", id="o", customer_id="c", ordered_at=at("2024-05-01T12:00"))
    lake.add("plans", days[0], customer_id="c", since=at("2020-01-01"), plan="small")
    lake.add("tariffs", days[1], plan="small", fee=5.0)
    lake.add("tariffs", days[1], plan="large", fee=9.0)
    # The whole table is delivered again, without the plan.
    lake.add("tariffs", days[3], plan="large", fee=8.0)
    lake.add("tariffs", days[4], plan="small", fee=4.0)
    found = compute_features(club(), lake.given(), days)["fee"].to_pylist()
    assert found == [None, 5.0, 5.0, None, 4.0]


def test_sql_that_reads_the_future_of_a_second_table_is_caught(club, tmp_path: Path) -> None:
    leaky = club(features=FEATURES.replace("v.seen_at < d.as_of AND", ""))
    lake = Lake(leaky, tmp_path)
    lake.add("orders", id="o", customer_id="c", ordered_at=at("2024-05-01T12:00"))
    lake.add("visits", customer_id="c", seen_at=at("2024-05-04T12:00"))
    with pytest.raises(LookAheadError, match="visits in 1 of 1 rows"):
        compute_features(leaky, lake.given(), [date(2024, 5, 2), date(2024, 5, 5)])


def test_categories_come_out_as_text(club, tmp_path: Path) -> None:
    lake = Lake(club(), tmp_path)
    lake.add("orders", id="o", customer_id="c", ordered_at=at("2024-05-01T12:00"))
    lake.add("plans", date(2024, 5, 1), customer_id="c", since=at("2020-01-01"), plan="ä b")
    found = compute_features(club(), lake.given(), [date(2024, 5, 1)])
    assert found.schema.field("plan").type == pa.string()
    assert found["plan"].to_pylist() == ["ä b"]
