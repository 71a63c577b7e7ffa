"""Features from days of entities: wherever old days are merged, the same rows come out."""

from __future__ import annotations

import shutil
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evergreen.contract import UseCase, load_use_case_file
from evergreen.errors import ConfigError, LookAheadError, LookBackError
from evergreen.features.compute import daily
from evergreen.features.compute import run as compute
from evergreen.features.compute.past import Given, Totals
from evergreen.features.compute.result import INSTANT
from evergreen.settings import PROJECT_ROOT

START = datetime(2025, 1, 1, tzinfo=UTC)
CHURN = PROJECT_ROOT / "include" / "use_cases" / "churn"

# The same features and labels, from single orders: what `daily` must not change by a bit.
FEATURES_FROM_ORDERS = """
WITH customer_days AS (
    SELECT
        customer_id,
        count(*) AS orders,
        sum(amount::DECIMAL(18, 6)) AS spent,
        min(ordered_at) AS first_at,
        max(ordered_at) AS last_at
    FROM orders
    GROUP BY customer_id, ordered_at::DATE
)

SELECT
    c.customer_id,
    d.as_of,
    sum(c.orders) AS total_orders,
    sum(c.spent)::DOUBLE AS total_spent,
    total_spent / total_orders AS avg_order_value,
    date_diff('second', max(c.last_at), d.as_of) / 86400.0 AS days_since_last_order,
    count(*) AS active_days,
    date_diff('second', min(c.first_at), d.as_of) / 86400.0 AS tenure_days,
    coalesce(sum(c.orders) FILTER (c.last_at >= d.as_of - INTERVAL 30 DAY), 0) AS orders_30d,
    coalesce(sum(c.orders) FILTER (c.last_at >= d.as_of - INTERVAL 90 DAY), 0) AS orders_90d,
    coalesce(sum(c.spent) FILTER (c.last_at >= d.as_of - INTERVAL 30 DAY), 0) AS spent_30d,
    coalesce(sum(c.spent) FILTER (c.last_at >= d.as_of - INTERVAL 90 DAY), 0) AS spent_90d,
    date_diff('second', min(c.first_at), max(c.last_at)) / 86400.0 / nullif(total_orders - 1, 0)
        AS mean_gap_days,
    days_since_last_order / nullif(mean_gap_days, 0) AS recency_to_gap_ratio,
    round(sin(2 * pi() * dayofyear(d.as_of) / 365.25), 6) AS year_sin,
    round(cos(2 * pi() * dayofyear(d.as_of) / 365.25), 6) AS year_cos
FROM as_of_days AS d
INNER JOIN customer_days AS c ON c.last_at < d.as_of
GROUP BY c.customer_id, d.as_of
HAVING max(c.last_at) >= d.as_of - INTERVAL 180 DAY
"""
LABELS_FROM_ORDERS = """
SELECT
    o.customer_id,
    d.as_of,
    count(*) FILTER (o.ordered_at >= d.as_of) = 0 AS label
FROM as_of_days AS d
INNER JOIN orders AS o
    ON o.ordered_at >= d.as_of - INTERVAL 180 DAY AND o.ordered_at < d.horizon_end
GROUP BY o.customer_id, d.as_of
HAVING min(o.ordered_at) < d.as_of
"""


def _folder(root: Path, name: str) -> Path:
    folder = root / name / "churn"
    shutil.copytree(CHURN, folder)
    return folder


@pytest.fixture(scope="module")
def churn() -> UseCase:
    return load_use_case_file(CHURN / "use_case.yaml")


@pytest.fixture(scope="module")
def on_orders(tmp_path_factory: pytest.TempPathFactory) -> UseCase:
    """The churn use case before it declared `daily`."""
    folder = _folder(tmp_path_factory.mktemp("use_cases"), "orders")
    declared = yaml.safe_load((folder / "use_case.yaml").read_text())
    del declared["events"]["orders"]["daily"]
    (folder / "use_case.yaml").write_text(yaml.safe_dump(declared, sort_keys=False))
    (folder / "features.sql").write_text(FEATURES_FROM_ORDERS)
    (folder / "labels.sql").write_text(LABELS_FROM_ORDERS)
    return load_use_case_file(folder / "use_case.yaml")


@pytest.fixture
def altered(tmp_path: Path):
    """Churn with other SQL, or with columns of `daily` replaced and added."""

    def altered(
        features: tuple[str, str] = ("", ""), columns: dict[str, Any] | None = None
    ) -> UseCase:
        folder = _folder(tmp_path, "altered")
        sql = folder / "features.sql"
        assert features[0] in sql.read_text()
        sql.write_text(sql.read_text().replace(*features))
        declared = yaml.safe_load((folder / "use_case.yaml").read_text())
        declared["events"]["orders"]["daily"]["columns"] |= columns or {}
        (folder / "use_case.yaml").write_text(yaml.safe_dump(declared, sort_keys=False))
        return load_use_case_file(folder / "use_case.yaml")

    return altered


def write(path: Path, rows: list[tuple[str, datetime, float]]) -> list[str]:
    schema = pa.schema(
        [
            ("order_id", pa.string()),
            ("customer_id", pa.string()),
            ("ordered_at", INSTANT),
            ("amount", pa.float64()),
            ("status", pa.string()),
            ("day", pa.date32()),
        ]
    )
    listed = [
        {
            "order_id": f"O{n}",
            "customer_id": c,
            "ordered_at": t,
            "amount": x,
            "status": "completed",
            "day": t.date(),
        }
        for n, (c, t, x) in enumerate(rows)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(listed, schema=schema), path)
    return [str(path)]


def orders(paths: list[str], totals: Totals | None = None) -> dict[str, Given]:
    return {"orders": Given(paths, totals)}


ROWS = [
    (f"c{n % 7}", START + timedelta(minutes=997 * n), 0.1 + (n * 37 % 1000) / 100)
    for n in range(700)
]
LATE = date(2026, 3, 20)

# On a six-hour grid, so that midnights are common; nearly three years of them.
orders_strategy = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "c"]),
        st.integers(0, 4 * 1000).map(lambda n: START + timedelta(hours=6 * n)),
        st.integers(1, 10_000_000).map(lambda cents: cents / 100),
    ),
    max_size=40,
)
days_strategy = st.sets(st.integers(0, 1000), min_size=1, max_size=5).map(
    lambda ns: [START.date() + timedelta(days=n) for n in sorted(ns)]
)


@pytest.mark.slow
@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    rows=orders_strategy,
    days=days_strategy,
    cuts=st.lists(st.integers(0, 400), max_size=3),
    per_chunk=st.integers(1, 4),
)
def test_features_and_labels_do_not_depend_on_where_days_are_merged(
    churn, on_orders, tmp_path_factory, rows, days, cuts, per_chunk
):
    paths = write(tmp_path_factory.mktemp("orders") / "orders.parquet", rows)
    latest = churn.events["orders"].daily.merged_before(days[0])
    boundaries = sorted({latest - timedelta(days=cut) for cut in cuts})
    totals = None
    if boundaries:
        *_, totals = daily.iter_totals(churn.events["orders"], Given(paths), boundaries)
    for whole, chunked in (
        (compute.compute_features, compute.iter_features),
        (compute.compute_labels, compute.iter_labels),
    ):
        expected = whole(on_orders, orders(paths), days)
        chunks = chunked(churn, orders(paths, totals), days, days_per_chunk=per_chunk)
        assert pa.concat_tables(table for _, table in chunks).equals(expected)


def test_totals_are_what_everybody_had_done_before_the_boundary(churn, tmp_path):
    paths = write(tmp_path / "orders.parquet", ROWS)
    boundary = date(2025, 9, 1)
    (found,) = daily.iter_totals(churn.events["orders"], Given(paths), [boundary])
    assert found.before == boundary
    past = [row for row in ROWS if row[1].date() < boundary]
    assert 0 < len(past) < len(ROWS)
    expected = []
    for customer in sorted({c for c, _, _ in past}):
        own = [(t, x) for c, t, x in past if c == customer]
        expected.append(
            {
                "customer_id": customer,
                "last_day": max(own)[0].date(),
                "orders": len(own),
                "spent": pytest.approx(sum(x for _, x in own), rel=1e-12),
                "first_at": min(own)[0].replace(tzinfo=None),
                "last_at": max(own)[0].replace(tzinfo=None),
                "active_days": len({t.date() for t, _ in own}),
            }
        )
    listed = [row | {"spent": float(row["spent"])} for row in found.rows.to_pylist()]
    assert listed == expected


def test_totals_are_the_same_whatever_they_are_computed_from(churn, tmp_path):
    paths = write(tmp_path / "orders.parquet", ROWS)
    boundaries = [date(2025, 3, 1), date(2025, 7, 1), date(2026, 1, 1)]
    chain = list(daily.iter_totals(churn.events["orders"], Given(paths), boundaries))
    for older, boundary, expected in zip([None, *chain], boundaries, chain, strict=False):
        (direct,) = daily.iter_totals(churn.events["orders"], Given(paths), [boundary])
        (onward,) = daily.iter_totals(churn.events["orders"], Given(paths, older), [boundary])
        assert direct.rows.equals(expected.rows)
        assert onward.rows.equals(expected.rows)


def test_orders_before_the_totals_are_not_counted_twice(churn, tmp_path):
    all_files = write(tmp_path / "all.parquet", ROWS)
    before = churn.events["orders"].daily.stored_before(LATE)
    recent = [row for row in ROWS if row[1].date() >= before]
    assert 0 < len(recent) < len(ROWS)
    recent_files = write(tmp_path / "recent.parquet", recent)
    (totals,) = daily.iter_totals(churn.events["orders"], Given(all_files), [before])
    expected = compute.compute_features(churn, orders(all_files), [LATE])
    assert expected.num_rows == 7
    for paths in (all_files, recent_files):
        found = compute.compute_features(churn, orders(paths, totals), [LATE])
        assert found.equals(expected)


def test_totals_that_end_too_late_are_a_programming_error(churn, tmp_path):
    paths = write(tmp_path / "orders.parquet", ROWS)
    late = churn.events["orders"].daily.merged_before(LATE) + timedelta(days=1)
    (totals,) = daily.iter_totals(churn.events["orders"], Given(paths), [late])
    with pytest.raises(ValueError, match="are merged"):
        compute.compute_features(churn, orders(paths, totals), [LATE])


COUNTS_ROWS = ("sum(c.active_days) AS active_days", "count(*) AS active_days")
LOOKS_TOO_FAR = ("INTERVAL 90 DAY), 0) AS orders_90d", "INTERVAL 190 DAY), 0) AS orders_90d")
MAX_OF_A_SUM = ("sum(c.spent)::DOUBLE AS total_spent", "max(c.spent)::DOUBLE AS total_spent")


@pytest.mark.parametrize(
    ("change", "column"),
    [
        (COUNTS_ROWS, "active_days"),
        (LOOKS_TOO_FAR, "orders_90d"),
        (MAX_OF_A_SUM, "total_spent"),
    ],
    ids=["counts rows", "looks too far back", "max of a sum"],
)
@pytest.mark.parametrize("stored", [False, True], ids=["all orders", "stored totals"])
@pytest.mark.parametrize("n_days", [1, 5])
def test_sql_that_sees_where_days_are_merged_is_caught(
    altered, tmp_path, change, column, stored, n_days
):
    use_case = altered(change)
    paths = write(tmp_path / "orders.parquet", ROWS)
    days = [LATE + timedelta(days=n) for n in range(n_days)]
    before = use_case.events["orders"].daily.stored_before(LATE)
    totals = (
        next(daily.iter_totals(use_case.events["orders"], Given(paths), [before]))
        if stored
        else None
    )
    with pytest.raises(LookBackError, match=rf"{column} in \d of 7 .*declare more lookback_days"):
        compute.compute_features(use_case, orders(paths, totals), days)


def test_sql_that_reads_the_future_is_not_blamed_on_merging(altered, tmp_path):
    use_case = altered()
    sql = use_case.folder / "features.sql"
    sql.write_text(sql.read_text().replace("ON c.day < d.as_of", "ON true"))
    leaky = load_use_case_file(use_case.folder / "use_case.yaml")
    paths = write(tmp_path / "orders.parquet", ROWS)
    with pytest.raises(LookAheadError, match="total_orders"):
        compute.compute_features(leaky, orders(paths), [LATE, LATE + timedelta(days=9)])


def test_sql_that_reads_orders_although_there_are_days_is_refused(altered, tmp_path):
    use_case = altered(("INNER JOIN orders_daily AS c", "INNER JOIN orders AS c"))
    paths = write(tmp_path / "orders.parquet", ROWS)
    with pytest.raises(ConfigError, match="reads 'orders'; expected only orders_daily, as_of_days"):
        compute.compute_features(use_case, orders(paths), [LATE])


@pytest.mark.parametrize(
    ("sql", "merge", "message"),
    [
        ("sum(amount)", "sum", "x: 'sum.amount.' is of type DOUBLE and merged by sum; expected"),
        ("sum(amount)", "max", "is of type DOUBLE; expected DECIMAL"),
        ("avg(amount)", "max", "uses avg, whose result may depend on the order of rows"),
        ("first(status)", "min", "uses first, whose result"),
        ("max(status)", "sum", "is of type VARCHAR and merged by sum"),
        ("[count(*)]", "max", r"is of type BIGINT\[\]; expected a number, text"),
        ("amount", "max", "is not one aggregate expression"),
        ("(SELECT max(amount) FROM rows_shape)", "max", "holds a subquery"),
        ("max(amount) FROM read_csv('/etc/passwd')", "max", "is more than an expression"),
        ("count(*) * random()", "max", "uses random"),
        ("max(nothing)", "max", "is not one aggregate expression"),
        ("max(epoch_us(ordered_at)) * 1000000", "sum", "daily.columns: they fail on the rows: "),
    ],
)
def test_a_column_that_cannot_be_merged_exactly_is_refused(altered, tmp_path, sql, merge, message):
    use_case = altered(columns={"x": {"sql": sql, "merge": merge}})
    paths = write(tmp_path / "orders.parquet", ROWS)
    with pytest.raises(ConfigError, match=message):
        compute.compute_features(use_case, orders(paths), [LATE])


def test_a_merged_sum_that_no_longer_fits_is_an_error(altered, tmp_path):
    big = {"sql": "count(*) * 9000000000000000000", "merge": "sum"}
    use_case = altered(columns={"x": big})
    on_two_days = [("a", START, 1.0), ("a", START + timedelta(days=1), 1.0)]
    paths = write(tmp_path / "orders.parquet", on_two_days)
    boundaries = [date(2025, 1, 2), date(2025, 1, 3)]
    totals = daily.iter_totals(use_case.events["orders"], Given(paths), boundaries)
    assert next(totals).rows["x"].to_pylist() == [9000000000000000000]
    with pytest.raises(ConfigError, match=r"daily\.columns: they fail .* out of range"):
        next(totals)


def test_a_columns_type_is_the_same_merged_and_single(altered, tmp_path):
    columns = {
        "n_small": {"sql": "count(*)::TINYINT", "merge": "sum"},
        "n_huge": {"sql": "sum(1::HUGEINT)", "merge": "max"},
        "money": {"sql": "sum(amount::DECIMAL(9, 2))", "merge": "sum"},
        "dearest": {"sql": "max(amount)", "merge": "max"},
        "state": {"sql": "min(status)", "merge": "min"},
        "large": {"sql": "bool_or(amount > 5)", "merge": "max"},
        "first_on": {"sql": "min(ordered_at)::DATE", "merge": "min"},
    }
    use_case = altered(columns=columns)
    paths = write(tmp_path / "orders.parquet", ROWS)
    (totals,) = daily.iter_totals(use_case.events["orders"], Given(paths), [date(2025, 6, 1)])
    found = {name: str(totals.rows.schema.field(name).type) for name in columns}
    assert found == {
        "n_small": "int64",
        "n_huge": "int64",
        "money": "decimal128(38, 2)",
        "dearest": "double",
        "state": "string",
        "large": "bool",
        "first_on": "date32[day]",
    }
    again = daily.iter_totals(use_case.events["orders"], Given([], totals), [date(2025, 7, 1)])
    assert next(again).rows.equals(totals.rows)


def test_the_totals_of_no_orders_are_empty_and_typed(churn):
    (totals,) = daily.iter_totals(churn.events["orders"], Given([]), [date(2025, 6, 1)])
    assert totals.rows.num_rows == 0
    assert totals.rows.column_names[:2] == ["customer_id", "last_day"]
    found = compute.compute_features(churn, orders([], totals), [LATE])
    assert found.equals(compute.feature_schema(churn).empty_table())


@pytest.mark.parametrize("name", ["customer_id", "day", "last_day"])
def test_names_that_the_relation_has_already_are_reserved(altered, name):
    with pytest.raises(ConfigError, match="this name is reserved"):
        altered(columns={name: {"sql": "count(*)", "merge": "sum"}})


def test_files_behind_urls_give_the_same_features(churn, tmp_path):
    paths = write(tmp_path / "orders.parquet", ROWS)
    expected = compute.compute_features(churn, orders(paths), [LATE])
    urls = [f"file://{path}" for path in paths]
    assert compute.compute_features(churn, orders(urls), [LATE]).equals(expected)
    assert expected.num_rows
