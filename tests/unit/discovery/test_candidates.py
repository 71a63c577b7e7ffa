"""What candidates say, by hand; and that none of them sees its as-of or anything later."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import odd_buyers
from evergreen.contract import Attributes, UseCase
from evergreen.discovery.candidates import MOST, propose_candidates
from evergreen.discovery.rows import iter_candidates
from evergreen.features.compute.past import Given

ZONE = "Europe/Berlin"
DAY = date(2025, 7, 11)
BERLIN = ZoneInfo(ZONE)


def _at(month: int, day: int, hour: int = 12) -> datetime:
    return datetime(2025, month, day, hour, tzinfo=BERLIN).astimezone(UTC)


ROWS = [
    ("a", _at(7, 1), 10.0, 1, True, "x"),
    ("a", _at(7, 4), 20.0, 2, False, "x"),
    ("a", _at(7, 10), 5.5, 4, False, "y"),
    ("b", _at(7, 10), 7.0, 1, True, "y"),
    ("b", _at(7, 10, 23), 8.0, 1, True, "x"),
    ("c", _at(7, 11, 23), 7.0, 1, False, "x"),
    ("d", _at(1, 2), 9.0, 3, False, "x"),
]
LATER = [
    # Half past midnight in Berlin, when it is the day before in UTC.
    ("a", datetime(2025, 7, 11, 22, 30, tzinfo=UTC), 999.0, 9, True, "z"),
    ("b", _at(7, 12, 0), 999.0, 9, True, "z"),
    ("c", _at(9, 1), 999.0, 9, True, "x"),
    ("e", _at(7, 12), 999.0, 9, True, "y"),
]


def _computed(use_case: UseCase, given: dict[str, Given], days: list[date]) -> dict[str, dict]:
    candidates, _ = propose_candidates(use_case)
    ((_, found),) = iter_candidates(use_case, candidates, given, days)
    return {row["customer_id"]: row for row in found.to_pylist() if row["day"] == DAY}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    root = tmp_path_factory.mktemp("rows")
    use_case = odd_buyers.declare(root, zone=ZONE)
    return _computed(use_case, odd_buyers.write(root, ROWS, ZONE), [DAY])


@pytest.fixture(scope="module")
def daily(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    root = tmp_path_factory.mktemp("daily")
    use_case = odd_buyers.declare(root, zone=ZONE, daily=True)
    return _computed(use_case, odd_buyers.write(root, ROWS, ZONE), [DAY])


def _of(row: dict, names: str) -> list[object]:
    return [row[f"orders_{name}"] for name in names.split()]


@pytest.mark.parametrize("source", ["rows", "daily"])
def test_the_rhythm_of_days_with_events(source: str, request: pytest.FixtureRequest):
    found = request.getfixturevalue(source)
    # Gaps of three and six days; the newest order is two days before the midnight of as_of.
    assert _of(found["a"], "since_days gap_newest_days gap_mean_days") == [2, 6, 4.5]
    spread = 4.5**0.5
    assert _of(
        found["a"], "gap_spread_days gap_spread_ratio since_by_gap_ratio overdue_ratio"
    ) == pytest.approx([spread, spread / 4.5, 2 / 4.5, (2 - 4.5) / (1 + spread)])
    # Two on one day have no gap between them.
    assert _of(found["b"], "since_days gap_mean_days overdue_ratio") == [2, None, None]


def test_windows_weeks_and_trends(rows: dict[str, dict]):
    assert _of(rows["a"], "7d 30d amount_7d amount_30d items_30d gift_30d") == [
        *(1, 3, 5.5, 35.5, 7, 1)
    ]
    assert _of(rows["b"], "30d days_30d") == [2, 1]
    assert _of(rows["a"], "week_1 amount_week_1 days_week_2") == [2, 30.0, 0]
    assert _of(rows["a"], "trend_14d trend_90d amount_trend_30d") == [1.0, 1.0, 1.0]
    # Nothing in both windows has no trend; what is counted is 0.
    assert _of(rows["d"], "30d amount_30d 365d trend_30d") == [0, 0.0, 1, None]
    assert _of(rows["a"], "amount_newest amount_oldest items_newest") == [5.5, 10.0, 4]


def test_categories(rows: dict[str, dict]):
    assert _of(rows["a"], "kind_kinds kind_newest kind_oldest") == [2, "y", "x"]
    assert rows["a"]["orders_kind_top_ratio"] == pytest.approx(2 / 3)
    # y is known to a and b, x to all four.
    assert [rows[who]["orders_kind_popularity_ratio"] for who in "abcd"] == [0.5, 1, 1, 1]


def test_a_table_of_days_gives_what_its_days_hold(daily: dict[str, dict]):
    assert _of(daily["a"], "days_7d orders_30d spent_30d dearest_30d spent_week_1") == [
        *(1, 3, 35.5, 20.0, 30.0)
    ]
    # Its days stay single for 90 days: further back nothing is looked at.
    assert _of(daily["d"], "orders_90d spent_90d dearest_90d since_days") == [0, 0.0, None, None]
    # A column of categories is not among the days: it would have to be.
    assert _of(daily["b"], "kind_newest kind_kinds") == ["y", 1]
    assert not [name for name in daily["a"] if name.endswith(("_180d", "_365d", "trend_90d"))]


@pytest.mark.parametrize("is_daily", [False, True])
def test_nothing_at_or_after_as_of_is_seen(is_daily: bool, tmp_path: Path):
    use_case = odd_buyers.declare(tmp_path, zone=ZONE, daily=is_daily)
    honest = _computed(use_case, odd_buyers.write(tmp_path, ROWS, ZONE), [DAY])
    poisoned = odd_buyers.write(tmp_path, ROWS + LATER, ZONE)
    assert _computed(use_case, poisoned, [DAY]) == honest
    # Also where later as-ofs are computed with it, which may know some of it.
    assert _computed(use_case, poisoned, [DAY, date(2025, 7, 12), date(2025, 9, 20)]) == honest


def test_attributes_are_what_was_valid(tmp_path: Path):
    """As they were known at each as-of, whatever becomes known later."""
    use_case = odd_buyers.declare(tmp_path, zone=ZONE)
    plans = Attributes.model_validate(
        {
            "source": {"kind": "files", "path": str(tmp_path / "plans" / "{day}.csv")},
            "valid_from": "since",
            "columns": {
                "customer_id": {"source": "customer_id", "dtype": "string"},
                "since": {"source": "since", "dtype": "timestamp"},
                "plan": {"source": "plan", "dtype": "string"},
                "seats": {"source": "seats", "dtype": "int64"},
                "paid": {"source": "paid", "dtype": "bool"},
            },
        }
    )
    plans.bind("plans", use_case.events["orders"].setting)
    use_case = use_case.model_copy(update={"attributes": {"plans": plans}})
    told = [
        ("a", _at(6, 1), "trial", 1, False, date(2025, 6, 1)),
        ("a", _at(7, 2), "gold", 5, True, date(2025, 7, 2)),
        # Delivered on the day, true later; and true before, delivered later.
        ("a", _at(7, 20), "none", 0, False, date(2025, 7, 10)),
        ("b", _at(7, 1), "gold", 2, True, date(2025, 7, 15)),
    ]
    names = ("customer_id", "since", "plan", "seats", "paid", "day")
    path = tmp_path / "plans.parquet"
    pq.write_table(pa.table(dict(zip(names, zip(*told, strict=True), strict=True))), path)
    given = {**odd_buyers.write(tmp_path, ROWS, ZONE), "plans": Given([str(path)])}
    found = _computed(use_case, given, [DAY])
    said = ("plans_plan", "plans_seats", "plans_paid", "plans_since_days")
    # As-of is the midnight that begins 12 July.
    assert [found["a"][name] for name in said] == ["gold", 5, True, 10]
    assert [found["b"][name] for name in said] == [None] * 4


def test_there_are_at_most_so_many_and_none_that_is_declared(tmp_path: Path):
    use_case = odd_buyers.declare(tmp_path)
    candidates, beyond = propose_candidates(use_case)
    assert len({one.name for one in candidates}) == len(candidates) > 60
    assert beyond == 0
    feature = candidates[0].feature
    declared = use_case.features.model_copy(update={"columns": {candidates[0].name: feature}})
    again, _ = propose_candidates(use_case.model_copy(update={"features": declared}))
    assert again == candidates[1:]
    orders = use_case.events["orders"]
    wide = {f"n{i}": orders.columns["amount"] for i in range(40)}
    many = orders.model_copy(update={"columns": {**orders.columns, **wide}})
    kept, beyond = propose_candidates(use_case.model_copy(update={"events": {"orders": many}}))
    assert len(kept) == MOST
    assert beyond > 100


def test_names_decide_nothing(tmp_path: Path):
    use_case = odd_buyers.declare(tmp_path)
    orders = use_case.events["orders"]
    renamed = {("sum" if n == "amount" else n): column for n, column in orders.columns.items()}
    other = orders.model_copy(update={"columns": renamed})
    events = {"orders": other}
    found, _ = propose_candidates(use_case.model_copy(update={"events": events}))
    usual, _ = propose_candidates(use_case)
    assert [one.name for one in found] == [one.name.replace("amount", "sum") for one in usual]
