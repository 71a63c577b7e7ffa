"""Where features find the past: recent files, and totals that stand for what lies before them."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from evergreen import lake, steps
from evergreen.contract import Period, load_use_case
from evergreen.errors import ConfigError
from evergreen.features.compute import totals
from evergreen.features.compute.past import Given
from evergreen.features.compute.run import compute_features
from evergreen.lake import upkeep
from evergreen.provenance import receipts
from evergreen.provenance.staleness import mend_damage
from evergreen.settings import Settings, load_settings

FIRST = date(2025, 1, 1)
LAST = date(2025, 4, 12)
# From 10 days before as_of on, and 28 more, to the first of the month.
FEBRUARY, MARCH = date(2025, 2, 1), date(2025, 3, 1)
USES_FEBRUARY, USES_MARCH = date(2025, 4, 6), date(2025, 4, 9)
DAILY = {
    "lookback_days": 10,
    "columns": {
        "orders": {"sql": "count(*)", "merge": "sum"},
        "spent": {"sql": "sum(amount::DECIMAL(18, 6))", "merge": "sum"},
        "last_at": {"sql": "max(ordered_at)", "merge": "max"},
    },
}
ORDERS: dict[str, Any] = {
    "key": "order_id",
    "timestamp": "ordered_at",
    "columns": {
        "order_id": {"source": "id", "dtype": "string"},
        "customer_id": {"source": "customer", "dtype": "string"},
        "ordered_at": {"source": "at", "dtype": "timestamp"},
        "amount": {"source": "value", "dtype": "float64"},
    },
    "batch": {"allow_empty": True, "row_count_ratio": [0, 100]},
}
DECLARATION: dict[str, Any] = {
    "title": "A small shop",
    "first_day": FIRST,
    "entity": {"name": "customer", "key": "customer_id"},
    "features": {
        "columns": {
            "total_orders": {"dtype": "int64", "description": "Orders so far."},
            "total_spent": {"dtype": "float64", "description": "Money so far."},
            "orders_5d": {"dtype": "int64", "description": "Orders of late."},
            "days_since_last_order": {"dtype": "float64", "description": "Recency."},
        },
    },
    "target": {"name": "churned", "description": "No order.", "horizon_days": 5},
}
FEATURES = """
SELECT c.customer_id, d.as_of, sum(c.orders) AS total_orders, sum(c.spent) AS total_spent,
    coalesce(sum(c.orders) FILTER (c.day >= d.as_of - INTERVAL 5 DAY), 0) AS orders_5d,
    date_diff('second', max(c.last_at), d.as_of) / 86400.0 AS days_since_last_order
FROM as_of_days AS d JOIN orders_daily AS c ON c.day < d.as_of
GROUP BY c.customer_id, d.as_of
"""
LABELS = """
SELECT c.customer_id, d.as_of, count(*) FILTER (c.day >= d.as_of) = 0 AS label
FROM as_of_days AS d JOIN orders_daily AS c ON c.day < d.horizon_end
GROUP BY c.customer_id, d.as_of HAVING min(c.day) < d.as_of
"""


def declare(name: str, data: Path, daily: dict[str, Any] | None = DAILY) -> None:
    folder = load_settings().use_cases / name
    folder.mkdir(parents=True, exist_ok=True)
    source = {"kind": "files", "path": str(data / "{day}.csv"), "missing": "empty"}
    orders = ORDERS | {"source": source, "daily": daily}
    declared = DECLARATION | {"name": name, "events": {"orders": orders}}
    (folder / "use_case.yaml").write_text(yaml.safe_dump(declared))
    (folder / "features.sql").write_text(FEATURES)
    (folder / "labels.sql").write_text(LABELS)


def deliver(data: Path, day: date, *customers: str, value: float = 10.5) -> None:
    rows = [f"o{n},{c},{day}T{n:02}:00:00Z,{value}" for n, c in enumerate(customers)]
    (data / f"{day}.csv").write_text("\n".join(["id,customer,at,value", *rows]) + "\n")


@pytest.fixture
def data(home: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Two use cases, `bulk` and `single`, over the same deliveries: every third day has orders."""
    monkeypatch.setenv("EVERGREEN_USE_CASES", str(tmp_path / "use_cases"))
    folder = tmp_path / "data"
    folder.mkdir()
    for n, day in enumerate(lake.days_between(FIRST, LAST + timedelta(days=1))):
        if n % 3 == 0:
            deliver(folder, day, "a", "bc"[n % 2], *(["d"] if n == 30 else []))
    for name in ("bulk", "single"):
        declare(name, folder)
    lake.catalog(home).create_tables()
    receipts.create_tables()
    return folder


def ingest(name: str, period: str = f"{FIRST}..{LAST}") -> None:
    steps.publish_rows(steps.validate_rows(steps.stage_rows(name, period, "orders")))


def features(name: str, period: str) -> None:
    computed = steps.compute_features(name, period)
    steps.publish_labels(steps.publish_features(steps.validate_features(computed)))


def content(name: str) -> dict[str, list[dict[str, Any]]]:
    found = {}
    for table in lake.tables(name):
        rows = lake.read(name, table)
        kept = [c for c in rows.column_names if c not in ("created_at", "row_id", "source")]
        found[table] = sorted(rows.select(kept).to_pylist(), key=str)
    return found


def planned(name: str, day: date) -> list[date]:
    """Days of the files that one day's features are computed from."""
    given, _ = plan(name, day)
    return [date.fromisoformat(path.split("day=")[1][:10]) for path in given["orders"].paths]


def plan(
    name: str, day: date, snapshot: int | None = None
) -> tuple[dict[str, Given], dict[str, int]]:
    declared = load_use_case(name)
    snapshots = {"orders": snapshot} if snapshot else None
    end = day + timedelta(days=1)
    return totals.plan(declared, declared.tables.values(), [day], end, 0, snapshots)


def totals_receipts(name: str) -> dict[date, int]:
    return {day: r.sequence for day, r in receipts.latest(name, "publish_orders_totals").items()}


def total_orders(name: str, day: date) -> dict[str, int]:
    rows = lake.read_day(name, "features", day).to_pylist()
    return {row["customer_id"]: row["total_orders"] for row in rows}


@pytest.mark.slow
def test_many_days_at_once_and_one_by_one_backwards_leave_the_same_tables(data: Path) -> None:
    for name in ("bulk", "single"):
        ingest(name)
    period = Period(date(2025, 4, 5), LAST + timedelta(days=1))
    features("bulk", period.label)
    for day in reversed(period.days):
        features("single", str(day))
    whole = content("bulk")
    assert whole == content("single")
    assert {row["day"] for row in whole["orders_totals"]} == {
        date(2025, 1, 31),
        date(2025, 2, 28),
    }
    assert len(whole["features"]) == 4 * 8
    assert len(whole["labels"]) == 4 * 8


def test_one_day_reads_no_file_before_its_totals_and_computes_them_once(data: Path) -> None:
    ingest("single")
    files = [date.fromisoformat(path.stem) for path in data.glob("*.csv")]
    recent = sorted(day for day in files if MARCH <= day <= USES_MARCH)
    assert planned("single", USES_MARCH) == recent
    assert len(recent) == 13 < len(files) - 20
    assert list(totals_receipts("single")) == [MARCH - timedelta(days=1)]
    computed = totals_receipts("single")
    assert planned("single", USES_MARCH) == recent
    assert totals_receipts("single") == computed
    features("single", str(USES_MARCH))
    declared = load_use_case("single")
    everything = lake.scan("single", "orders").paths
    expected = compute_features(declared, {"orders": Given(everything)}, [USES_MARCH])
    found = lake.read_day("single", "features", USES_MARCH).drop_columns("created_at")
    assert found.to_pylist() == expected.to_pylist()


@pytest.mark.slow
@pytest.mark.parametrize("gone", [True, False])
def test_damaged_totals_are_computed_again(data: Path, gone: bool) -> None:
    ingest("single")
    features("single", str(USES_MARCH))
    before = content("single")
    last = MARCH - timedelta(days=1)
    (path,) = lake.scan("single", "orders_totals", last, MARCH).paths
    Path(path).write_bytes(b"no Parquet")
    if gone:
        Path(path).unlink()
    (command,) = mend_damage("single", "orders_totals", last)
    # The day that the command makes is one that starts from these totals.
    (day,) = set(re.findall(r"\d{4}-\d\d-\d\d", command))
    features("single", day)
    assert {name: rows for name, rows in content("single").items() if name == "orders_totals"} == {
        "orders_totals": before["orders_totals"]
    }
    features("single", str(USES_MARCH))
    assert total_orders("single", USES_MARCH) == {
        row["customer_id"]: row["total_orders"] for row in before["features"]
    }


def test_totals_that_hold_are_found_without_listing_the_history(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ingest("single", f"{FIRST}..{USES_MARCH}")
    planned("single", USES_MARCH)
    computed = totals_receipts("single")

    def list_all(*_: object) -> None:
        raise AssertionError("all files were listed")

    monkeypatch.setattr(lake, "files", list_all)
    ingest("single", f"{USES_MARCH + timedelta(days=1)}..{LAST}")
    deliver(data, date(2025, 3, 2), "a", "a", "d")
    ingest("single", "2025-03-02")
    assert planned("single", LAST)[0] == date(2025, 3, 2)
    assert totals_receipts("single") == computed


def test_totals_that_hold_but_cannot_be_told_to_are_receipted_anew(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ingest("single")
    planned("single", USES_MARCH)
    (computed,) = totals_receipts("single").values()
    monkeypatch.setattr(lake, "is_unchanged_before", lambda *_: False)
    monkeypatch.setattr(totals, "iter_totals", None)
    planned("single", USES_MARCH)
    (renewed,) = totals_receipts("single").values()
    assert renewed > computed


def test_totals_outlive_the_snapshots_they_were_published_in(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ingest("single")
    features("single", f"{USES_FEBRUARY}..{USES_MARCH}")
    for table in ("orders", "orders_totals"):
        assert upkeep.expire_snapshots("single", table, datetime(2999, 1, 1, tzinfo=UTC))
    monkeypatch.setattr(totals, "iter_totals", None)
    for day, boundary in ((USES_FEBRUARY, FEBRUARY), (USES_MARCH, MARCH)):
        assert planned("single", day)[0] >= boundary
        features("single", str(day))


def test_early_days_look_back_on_all_orders_and_publish_no_totals(data: Path) -> None:
    ingest("single")
    assert planned("single", FIRST + timedelta(days=20))[0] == FIRST
    assert totals_receipts("single") == {}


def test_a_correction_renews_the_totals_after_it_and_no_others(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ingest("single")
    features("single", f"{USES_FEBRUARY}..{USES_MARCH}")
    before = totals_receipts("single")
    assert list(before) == [FEBRUARY - timedelta(days=1), MARCH - timedelta(days=1)]
    corrected = date(2025, 2, 15)
    assert total_orders("single", USES_MARCH)["a"] == 33
    deliver(data, corrected, "a", "a", "d", value=99)
    ingest("single", str(corrected))

    started_from = []
    compute = totals.iter_totals

    def spy(table, given, boundaries):
        started_from.append((given.totals.before, len(given.paths), boundaries))
        return compute(table, given, boundaries)

    monkeypatch.setattr(totals, "iter_totals", spy)
    features("single", str(USES_MARCH))
    assert started_from == [(FEBRUARY, 9, [MARCH])]
    after = totals_receipts("single")
    assert after[FEBRUARY - timedelta(days=1)] == before[FEBRUARY - timedelta(days=1)]
    assert after[MARCH - timedelta(days=1)] > before[MARCH - timedelta(days=1)]
    assert total_orders("single", USES_MARCH)["a"] == 34
    features("single", str(USES_FEBRUARY))
    assert len(started_from) == 1


def test_an_old_snapshot_of_orders_is_never_mixed_with_newer_totals(data: Path) -> None:
    ingest("single")
    declared = load_use_case("single")
    old = lake.snapshot_id("single", "orders")
    deliver(data, date(2025, 2, 15), "a", "a", "d", value=99)
    ingest("single", "2025-02-15")
    features("single", str(USES_MARCH))

    def orders_of_a(snapshot_id: int | None) -> int:
        given, used = plan("single", USES_MARCH, snapshot_id)
        assert used["orders"] == (snapshot_id or lake.snapshot_id("single", "orders"))
        assert given["orders"].totals is not None
        found = compute_features(declared, given, [USES_MARCH])
        return int(found["total_orders"][0].as_py())

    assert orders_of_a(old) == 33
    assert orders_of_a(None) == 34


def test_totals_published_over_by_a_run_on_other_orders_are_not_trusted(data: Path) -> None:
    """The table holds what the last of two runs published; a receipt says from what."""
    ingest("single")
    old = lake.snapshot_id("single", "orders")
    deliver(data, date(2025, 2, 15), "a", "a", "d", value=99)
    ingest("single", "2025-02-15")
    features("single", str(USES_MARCH))
    # A run that planned before the correction ends after it.
    plan("single", USES_MARCH, old)
    features("single", str(USES_MARCH))
    assert total_orders("single", USES_MARCH)["a"] == 34


def test_other_columns_renew_the_totals_and_another_type_needs_another_name(data: Path) -> None:
    ingest("single")
    features("single", str(USES_MARCH))
    columns = dict(DAILY["columns"])
    columns["orders"] = {"sql": "count(*) * 2", "merge": "sum"}
    del columns["last_at"]
    columns["latest"] = DAILY["columns"]["last_at"]
    declare("single", data, daily=DAILY | {"columns": columns})
    sql = load_settings().use_cases / "single" / "features.sql"
    sql.write_text(FEATURES.replace("last_at", "latest"))
    features("single", str(USES_MARCH))
    assert total_orders("single", USES_MARCH)["a"] == 66

    columns["orders"] = {"sql": "count(*)::DECIMAL(18, 0)", "merge": "sum"}
    declare("single", data, daily=DAILY | {"columns": columns})
    with pytest.raises(
        ConfigError, match=r"orders is decimal128\(38, 0\); the table orders_totals has"
    ):
        steps.compute_features("single", str(USES_MARCH))


def test_without_daily_every_order_is_read(data: Path) -> None:
    declare("single", data, daily=None)
    ingest("single")
    assert planned("single", USES_MARCH)[0] == FIRST
    assert not lake.exists("single", "orders_totals")
