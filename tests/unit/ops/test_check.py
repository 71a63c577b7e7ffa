"""Mistakes planted into copies of good folders: `evergreen check` finds each, and names it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from evergreen.cli import main
from evergreen.ops.check import find_problems
from evergreen.settings import PROJECT_ROOT

SHIPPED = PROJECT_ROOT / "include" / "use_cases"
Plant = Callable[..., Path]
_SHOP = """
name: shop
title: Churn of the shop's customers
first_day: 2025-01-01
zone: Europe/Berlin

entity: {name: customer, key: customer_id}

events:
  orders:
    source:
      kind: files
      path: ${EVERGREEN_SHOP}/orders/{day}.csv
    key: order_id
    timestamp: ordered_at
    columns:
      order_id: {source: OrderID, dtype: string}
      customer_id: {source: Customer, dtype: string}
      ordered_at: {source: Date, dtype: timestamp, formats: ['%d.%m.%Y %H:%M'], zone: Europe/Berlin}
      amount: {source: Total, dtype: float64, unit: eur, range: [0.01, null], decimal: ','}
    rules:
      - {name: not_a_test, sql: "Customer <> 'TEST'", because: Test orders are no orders.}

features:
  columns:
    orders_90d: {dtype: int64, description: Orders of 90 days., range: [0, null]}
    spent_90d: {dtype: float64, description: v., range: [0, null]}
    days_since_last_order: {dtype: float64, description: Recency., range: [0, null]}

target:
  name: churned
  description: No order in the 60 days from as_of on.
  horizon_days: 60
"""
_FEATURES = """
SELECT
    o.customer_id,
    d.as_of,
    count(*) FILTER (o.ordered_at >= d.as_of - INTERVAL 90 DAY) AS orders_90d,
    coalesce(sum(o.amount) FILTER (o.ordered_at >= d.as_of - INTERVAL 90 DAY), 0) AS spent_90d,
    date_diff('second', max(o.ordered_at), d.as_of) / 86400.0 AS days_since_last_order
FROM as_of_days AS d
INNER JOIN orders AS o ON o.ordered_at < d.as_of
GROUP BY o.customer_id, d.as_of
"""
_LABELS = """
SELECT
    o.customer_id,
    d.as_of,
    count(*) FILTER (o.ordered_at >= d.as_of) = 0 AS label
FROM as_of_days AS d
INNER JOIN orders AS o ON o.ordered_at < d.horizon_end
GROUP BY o.customer_id, d.as_of
HAVING min(o.ordered_at) < d.as_of
"""


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of use cases: the shipped ones, and a `shop`, which reads single `orders`."""
    root = tmp_path / "use_cases"
    shutil.copytree(SHIPPED, root)
    shop = root / "shop"
    shop.mkdir()
    (shop / "use_case.yaml").write_text(_SHOP)
    (shop / "features.sql").write_text(_FEATURES)
    (shop / "labels.sql").write_text(_LABELS)
    monkeypatch.setenv("EVERGREEN_USE_CASES", str(root))
    monkeypatch.setenv("EVERGREEN_ONLINE_RETAIL", "/data")
    monkeypatch.setenv("EVERGREEN_SHOP", "/data")
    return root


def plant(root: Path, path: str, old: str, new: str) -> None:
    file = root / path
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize("name", [*sorted(path.name for path in SHIPPED.iterdir()), "shop"])
def test_good_folders_pass(root: Path, name: str):
    assert find_problems(name) == []


CHURN, SHOP, RETAIL = "churn/use_case.yaml", "shop/use_case.yaml", "online_retail/use_case.yaml"
COUNT = "count(*) FILTER (o.ordered_at >= d.as_of - INTERVAL 90 DAY)"


@pytest.mark.parametrize(
    ("path", "old", "new", "says"),
    [
        # --- SQL that is none, or returns something else
        ("churn/features.sql", "SELECT", "SELEKT", r"features\.sql is not valid SQL: .*SELEKT"),
        ("churn/labels.sql", "SELECT", "SELEKT", r"labels\.sql is not valid SQL: .*SELEKT"),
        ("churn/features.sql", "AS tenure_days", "AS tenur_days", r"features\.sql .*'tenure_days'"),
        (CHURN, "    spent_30d:", "    spent_31d:", r"features\.sql .*missing \['spent_31d'\]"),
        ("shop/features.sql", "sum(o.amount)", "sum(o.amout)", r"features\.sql fails: .*amout"),
        ("shop/labels.sql", "o.customer_id,", "o.client,", r"labels\.sql fails: .*client"),
        ("shop/features.sql", ", d.as_of\n", "\n", r"features\.sql fails: .*as_of.*GROUP BY"),
        ("shop/features.sql", "GROUP BY o.cu", "GROUP BY o.order_id, o.cu", "repeated pairs of"),
        (
            SHOP,
            "int64, description: Orders of 90 days., range: [0, null]}",
            "bool, description: Orders of 90 days.}",
            "orders_90d is BIGINT",
        ),
        ("shop/features.sql", COUNT, f"{COUNT} / 2", "orders_90d has values that are not int64"),
        ("shop/labels.sql", "= 0 AS label", "AS label", r"labels\.sql: label is BIGINT"),
        ("shop/labels.sql", "count(*) F", "max(nullif(1, 1)) F", "label is null in"),
        ("shop/features.sql", "86400.0", "0.0", r"days_since_last_order is (inf|nan) in"),
        (
            "churn/features.sql",
            "nullif(total_orders - 1, 0)",
            "(total_orders - 1)",
            "mean_gap_days",
        ),
        # --- features that are not what is declared of them
        (CHURN, "nullable: true, drift: false", "drift: false", "mean_gap_days is NULL in"),
        (
            "shop/features.sql",
            "max(o.ordered_at), d.as_of",
            "d.as_of, max(o.ordered_at)",
            "days_si",
        ),
        (
            SHOP,
            "v., range: [0, null]",
            "v., range: [1000000, null]",
            r"spent_90d\.range is \[1000000\.0, None\]",
        ),
        # --- time
        ("shop/features.sql", "o.ordered_at < d.as_of", "true", r"features\.sql reads the future"),
        (
            "shop/features.sql",
            "o.ordered_at < d",
            "o.ordered_at <= d",
            "features.sql reads the fut",
        ),
        ("shop/labels.sql", "o.ordered_at < d.horizon_end", "true", "labels.sql reads the future"),
        (
            "shop/labels.sql",
            "HAVING min(o.ordered_at) < d.as_of",
            "",
            "labels.sql reads the future",
        ),
        ("shop/labels.sql", "d.horizon_end", "d.as_of + INTERVAL 90 DAY", "labels.sql reads the f"),
        ("shop/labels.sql", "d.horizon_end", "d.as_of + INTERVAL 30 DAY", "target.horizon_days"),
        ("shop/features.sql", "max(o.ordered_at), d.as_of", "max(o.ordered_at), now()", r"now\(\)"),
        ("shop/features.sql", "o.amount)", "o.amount * random())", r"uses random\(\)"),
        # --- other relations, limits, order of rows
        ("churn/features.sql", "orders_daily AS c", "orders AS c", "'orders'; expected only or"),
        ("shop/features.sql", "orders AS o", "'/etc/passwd' AS o", "reads '/etc/passwd'"),
        ("shop/features.sql", "o.amount)", "length(repeat('x', 4000000000)))", "more memory than"),
        ("shop/features.sql", "sum(o.amount)", "first(o.amount)", r"first\(o\.amount\)"),
        (
            "shop/features.sql",
            "INNER JOIN orders AS o ON",
            "INNER JOIN (SELECT *, row_number() OVER "
            "(PARTITION BY customer_id ORDER BY ordered_at) AS n FROM orders QUALIFY n = 1) AS o "
            "ON",
            "the other way round changed spent_90d",
        ),
        # --- daily
        (CHURN, "lookback_days: 180", "lookback_days: 60", "tells merged days from single ones"),
        (CHURN, "sum(amount::DECIMAL(18, 6))", "sum(amount)", "spent: .*DOUBLE and merged by sum"),
        (CHURN, "{sql: count(*),", "{sql: first(status),", "orders: .* uses first"),
        (CHURN, "{sql: min(ordered_at),", "{sql: min(orderd_at),", "first_at: .*orderd_at"),
        ("churn/features.sql", "sum(c.orders) AS", "count(*) AS", "tells merged days"),
        # --- the rows
        (CHURN, "status <> 'canc", "state <> 'canc", "rules: not_cancelled: .*state"),
        (SHOP, "Customer <> 'TEST'", "Customer ||", "rules: not_a_test: .*not valid SQL"),
        (SHOP, "Customer <> 'TEST'", "Customer", "rules: not_a_test: .*VARCHAR; expected BOOLEAN"),
        (SHOP, "Customer <> 'TEST'", "ordered_at < now()", "rules: not_a_test: .*now"),
        (RETAIL, "items: sum(quantity)", "items: sum(quantty)", "aggregates: items: .*quantty"),
        (RETAIL, "country: min(country)", "country: country", "aggregates: country: .*aggregate"),
        (
            SHOP,
            "zone: Europe/Berlin}",
            "zone: Europe/Berln}",
            r"ordered_at\.zone: found 'Europe/Berln'",
        ),
        (SHOP, "'%d.%m.%Y %H:%M'", "YYYYMMDD", r"ordered_at\.formats: .*'YYYYMMDD' gives no year"),
        (SHOP, "'%d.%m.%Y %H:%M'", "'%d.%m. %H:%M'", r"ordered_at\.formats: .*gives no year"),
        (SHOP, "'%d.%m.%Y %H:%M'", "'%d.%m.%Y %Q'", "ordered_at.formats: found"),
        (RETAIL, "'[0-9]{5}'", "'[0-9{5}'", "customer_id.pattern: found"),
        (SHOP, "range: [0.01, null]", "range: [10, 1]", r"amount\.range: .*lower bound"),
        # --- the source
        (
            SHOP,
            "${EVERGREEN_SHOP}",
            "${EVERGREEN_SHOPP}",
            r"source\.path: .*EVERGREEN_SHOPP, which",
        ),
    ],
)
def test_planted_mistakes_are_found(root: Path, path: str, old: str, new: str, says: str):
    plant(root, path, old, new)
    name = path.split("/")[0]
    problems = find_problems(name)
    assert len(problems) == 1
    assert re.search(says, problems[0], re.DOTALL)
    assert str(root / name) in problems[0] or f"{name}/use_case.yaml" in problems[0]


def test_who_is_pushed_may_depend_on_nobody_else(root: Path):
    with (root / SHOP).open("a") as file:
        file.write("\nserving: {push: [orders]}\n")
    assert find_problems("shop") == []
    sql = (root / "shop/features.sql").read_text()
    rank = "rank() OVER (PARTITION BY as_of ORDER BY spent_90d)"
    crossing = f"SELECT * REPLACE ({rank} AS orders_90d) FROM ({sql})"
    (root / "shop/features.sql").write_text(crossing)
    (problem,) = find_problems("shop")
    assert "depend on others" in problem and "no serving.push" in problem


def test_a_secret_that_is_not_set_is_named(root: Path):
    source = "    source:\n      kind: sql\n      secret: shop\n      query: SELECT :start, :end\n"
    text = (root / SHOP).read_text()
    (root / SHOP).write_text(re.sub(r"    source:\n(      .*\n)+", source, text))
    (problem,) = find_problems("shop")
    assert re.search(r"orders\.source\.secret: .*EVERGREEN_SECRET_SHOP is not set", problem)


def test_all_problems_of_all_folders_are_listed(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    (root / CHURN).write_text("name: [churn")
    plant(root, SHOP, "Customer <> 'TEST'", "Custommer <> 'TEST'")
    plant(root, "shop/features.sql", "sum(o.amount)", "sum(o.amout)")
    plant(root, "shop/labels.sql", "SELECT", "SELEKT")
    monkeypatch.setattr("sys.argv", ["evergreen", "check"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 1
    out, err = capsys.readouterr()
    assert out == "coffee: no problems\nonline_retail: no problems\n"
    assert re.findall(r"^(\w+): (\d) problem", err, re.M) == [
        ("churn", "1"),
        ("shop", "3"),
        ("spend", "1"),
    ]
    assert re.search(r"not valid YAML.*Custommer.*amout.*SELEKT", err, re.DOTALL)
