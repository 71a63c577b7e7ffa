import re
from datetime import UTC, date, datetime, timedelta

import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evergreen.contract import as_of, load_use_case_file
from evergreen.errors import ConfigError, LimitError, LookAheadError
from evergreen.features.compute import run as compute
from evergreen.features.compute.comparison import difference
from evergreen.features.compute.engine import Engine
from evergreen.features.compute.past import Given, SingleRows
from evergreen.features.compute.result import INSTANT, features_task, labels_task
from evergreen.settings import PROJECT_ROOT

START = datetime(2026, 1, 1, tzinfo=UTC)
DAYS = [date(2026, 1, 3), date(2026, 1, 4), date(2026, 1, 5), date(2026, 1, 6)]
# Two buyers, orders on every boundary: exactly at as_of instants and one microsecond before them.
ROWS = [
    (buyer, START + timedelta(days=n) - timedelta(microseconds=early), 1.25 * n + len(buyer))
    for n in range(1, 12)
    for buyer, early in (("a", 0), ("bb", n % 2))
]
slow_ok = settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
# Instants on a six-hour grid, so that midnights are common; a year of them.
orders_strategy = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "c"]),
        st.integers(0, 4 * 380).map(lambda n: START + timedelta(hours=6 * n)),
        st.integers(1, 10_000).map(lambda cents: cents / 100),
    ),
    max_size=25,
)
days_strategy = st.sets(st.integers(0, 380), min_size=1, max_size=4).map(
    lambda ns: [START.date() + timedelta(days=n) for n in sorted(ns)]
)


@pytest.fixture(scope="module")
def churn():
    return load_use_case_file(PROJECT_ROOT / "include" / "use_cases" / "churn" / "use_case.yaml")


def churn_orders(tmp_path_factory, rows):
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
    if not rows:
        return {}
    path = tmp_path_factory.mktemp("churn") / "orders.parquet"
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
    pa.parquet.write_table(pa.Table.from_pylist(listed, schema=schema), path)
    return {"orders": Given([str(path)])}


@slow_ok
@given(rows=orders_strategy, days=days_strategy)
def test_churn_features_are_what_a_customer_did_before_as_of(churn, tmp_path_factory, rows, days):
    found = compute.compute_features(churn, churn_orders(tmp_path_factory, rows), days)

    expected = {}
    for day in days:
        end = as_of(day)
        for customer in sorted({c for c, _, _ in rows}):
            past = [(t, x) for c, t, x in rows if c == customer and t < end]
            if not past or max(past)[0] < end - timedelta(days=180):
                continue
            last_30 = [x for t, x in past if t >= end - timedelta(days=30)]
            last_90 = [x for t, x in past if t >= end - timedelta(days=90)]
            expected[end, customer] = {
                "total_orders": len(past),
                "total_spent": pytest.approx(sum(x for _, x in past)),
                "avg_order_value": pytest.approx(sum(x for _, x in past) / len(past)),
                "days_since_last_order": (end - max(past)[0]) / timedelta(days=1),
                "active_days": len({t.date() for t, _ in past}),
                "tenure_days": (end - min(past)[0]) / timedelta(days=1),
                "orders_30d": len(last_30),
                "orders_90d": len(last_90),
                "spent_30d": pytest.approx(sum(last_30)),
                "spent_90d": pytest.approx(sum(last_90)),
            }
    names = list(next(iter(expected.values()), {}))
    rows_found = found.to_pylist()
    assert [(row["as_of"], row["customer_id"]) for row in rows_found] == list(expected)
    assert [{name: row[name] for name in names} for row in rows_found] == list(expected.values())
    assert found.schema.names == ["customer_id", "as_of", *churn.feature_names, "day"]


@slow_ok
@given(rows=orders_strategy, days=days_strategy)
def test_churn_labels_say_who_ordered_inside_the_horizon(churn, tmp_path_factory, rows, days):
    paths = churn_orders(tmp_path_factory, rows)
    found = compute.compute_labels(churn, paths, days)
    population = compute.compute_features(churn, paths, days)

    # The same customers, in the same order, as have features.
    keys = ["customer_id", "as_of", "day"]
    assert found.select(keys).equals(population.select(keys))
    for row in found.to_pylist():
        end = row["as_of"] + timedelta(days=90)
        inside = [t for c, t, _ in rows if c == row["customer_id"] and row["as_of"] <= t < end]
        assert row["label"] is (not inside)
        assert row["known_at"] == end


def test_an_order_exactly_at_as_of_belongs_to_the_next_day(make_use_case, write_orders):
    use_case = make_use_case()
    midnight = as_of(date(2026, 1, 3))
    paths = write_orders(
        [
            ("at", midnight, 1.0),
            ("before", midnight - timedelta(microseconds=1), 1.0),
            ("before", midnight + timedelta(days=3), 1.0),
        ]
    )
    days = [date(2026, 1, 3), date(2026, 1, 4)]
    found = compute.compute_features(use_case, paths, days)
    assert [(row["buyer"], row["day"].day) for row in found.to_pylist()] == [
        ("before", 3),
        ("at", 4),
        ("before", 4),
    ]
    # horizon_end of the 3rd is exactly the instant of the last order: excluded.
    labels = compute.compute_labels(use_case, paths, days).to_pylist()
    assert [(row["buyer"], row["day"].day, row["label"]) for row in labels] == [
        ("before", 3, True),
        ("at", 4, True),
        ("before", 4, False),
    ]


def test_days_alone_in_chunks_and_at_once_give_the_same_bytes(churn, tmp_path_factory):
    rows = [
        (f"c{n % 7}", START + timedelta(minutes=997 * n), 0.1 + (n * 37 % 1000) / 100)
        for n in range(400)
    ]
    paths = churn_orders(tmp_path_factory, rows)
    days = [START.date() + timedelta(days=n) for n in range(5, 260, 17)]
    whole = compute.compute_features(churn, paths, days)
    chunks = compute.iter_features(churn, paths, days, days_per_chunk=4)
    alone = [compute.compute_features(churn, paths, [day]) for day in days]
    assert whole.num_rows > 60
    assert pa.concat_tables(table for _, table in chunks).equals(whole)
    assert pa.concat_tables(alone).equals(whole)


def test_chunks_cover_every_day_once_in_order(make_use_case, write_orders):
    paths = write_orders(ROWS)
    shuffled = [DAYS[2], DAYS[0], DAYS[3], DAYS[1], DAYS[0]]
    chunks = list(compute.iter_labels(make_use_case(), paths, shuffled, days_per_chunk=3))
    assert [days for days, _ in chunks] == [DAYS[:3], DAYS[3:]]
    for days, table in chunks:
        assert set(table["day"].to_pylist()) == set(days)


def test_whatever_happens_from_as_of_on_changes_nothing(make_use_case, write_orders):
    use_case, last = make_use_case(), as_of(DAYS[-1])
    past = [row for row in ROWS if row[1] < last]
    poison = [("a", last, 1e9), ("zz", last + timedelta(days=1), 1e9)]
    expected = compute.compute_features(use_case, write_orders(past), DAYS)
    found = compute.compute_features(use_case, write_orders(past + poison), DAYS)
    assert found.equals(expected)


LEAKY_COLUMN = """
SELECT o.buyer, d.as_of, count(*) FILTER (o.ordered_at < d.as_of) AS total_orders,
    sum(o.amount) AS total_spent, 0.0 AS recency_days
FROM as_of_days d CROSS JOIN orders o GROUP BY o.buyer, d.as_of
"""
LEAKY_ROWS = """
SELECT o.buyer, d.as_of, 1 AS total_orders, 1.0 AS total_spent, 0.0 AS recency_days
FROM as_of_days d CROSS JOIN orders o GROUP BY o.buyer, d.as_of
"""


def test_features_that_read_the_future_are_caught(make_use_case, write_orders):
    paths = write_orders([("a", START, 1.0), *ROWS])
    with pytest.raises(LookAheadError, match=r"total_spent in 2 of 2 rows .*buyer a: ") as caught:
        compute.compute_features(make_use_case(LEAKY_COLUMN), paths, DAYS)
    assert "total_orders" not in str(caught.value)
    assert "features.sql" in str(caught.value)


def test_rows_that_exist_because_of_the_future_are_caught(make_use_case, write_orders):
    paths = write_orders([("a", START, 1.0), ("later", as_of(DAYS[1]), 1.0)])
    with pytest.raises(LookAheadError, match=r"which rows exist \(1 differ, e\.g\. buyer later\)"):
        compute.compute_features(make_use_case(LEAKY_ROWS), paths, DAYS)


def test_a_leak_that_shows_in_the_middle_only_is_caught(make_use_case, write_orders):
    # The first day and the last come out the same alone and among others.
    sql = LEAKY_COLUMN.replace(
        "sum(o.amount)", "sum(o.amount) FILTER (o.ordered_at < d.as_of OR d.as_of >= '2026-01-06')"
    )
    paths = write_orders(ROWS)
    with pytest.raises(LookAheadError, match=r"for 2026-01-05, .*total_spent"):
        compute.compute_features(make_use_case(sql), paths, DAYS)


def test_one_day_is_honest_even_with_sql_that_is_not(make_use_case, write_orders):
    paths = write_orders(ROWS)
    leaky = compute.compute_features(make_use_case(LEAKY_COLUMN), paths, DAYS[:1])
    honest = compute.compute_features(make_use_case(), paths, DAYS[:1])
    assert leaky["total_spent"].equals(honest["total_spent"])


def test_labels_beyond_the_horizon_are_caught(make_use_case, write_orders):
    sql = """
    SELECT o.buyer, d.as_of, max(o.ordered_at) < d.as_of AS label
    FROM as_of_days d CROSS JOIN orders o
    GROUP BY o.buyer, d.as_of HAVING min(o.ordered_at) < d.as_of
    """
    # After the first horizon, within the last.
    paths = write_orders([("a", START, 1.0), ("a", as_of(DAYS[0]) + timedelta(days=3), 1.0)])
    with pytest.raises(LookAheadError, match=r"labels\.sql reads the future: .*label in 1 of 1"):
        compute.compute_labels(make_use_case(labels_sql=sql), paths, DAYS)


def test_a_label_population_chosen_by_the_outcome_is_caught(make_use_case, write_orders):
    sql = """
    SELECT o.buyer, d.as_of, false AS label
    FROM as_of_days d JOIN orders o ON o.ordered_at >= d.as_of AND o.ordered_at < d.horizon_end
    GROUP BY o.buyer, d.as_of
    """
    with pytest.raises(LookAheadError, match="which rows exist"):
        compute.compute_labels(make_use_case(labels_sql=sql), write_orders(ROWS), DAYS[:1])


GOOD = "SELECT buyer, as_of, 1 AS total_orders, 1.0 AS total_spent, 0.0 AS recency_days FROM "
ONE_EACH = "(SELECT DISTINCT buyer FROM orders) CROSS JOIN as_of_days"


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("SELECT buyer, as_of FROM orders, as_of_days", r"missing \['recency_days', 'total_"),
        (GOOD.replace("1 AS", "2 AS more, 1 AS") + ONE_EACH, r"unexpected \['more'\]"),
        (GOOD.replace("1 AS", "'1' AS") + ONE_EACH, "total_orders is VARCHAR; expected .* int64"),
        (GOOD.replace("1 AS", "1.5 AS") + ONE_EACH, "total_orders has values that are not int64"),
        (GOOD.replace("1 AS", "1.5::DOUBLE AS") + ONE_EACH, "total_orders has values that are not"),
        (GOOD.replace("1 AS", "10::HUGEINT ** 30 AS") + ONE_EACH, "total_orders has values that"),
        (GOOD.replace("1.0 AS", "true AS") + ONE_EACH, "total_spent is BOOLEAN"),
        (GOOD.replace("buyer,", "1 AS buyer,") + ONE_EACH, "buyer is INTEGER"),
        (GOOD + "orders CROSS JOIN as_of_days", "repeated pairs of buyer and as_of, .* a at 2026"),
        (GOOD.replace("buyer,", "nullif(buyer, 'a') AS buyer,") + ONE_EACH, "buyer is null in 4 r"),
        (
            GOOD.replace("as_of,", "as_of + INTERVAL 1 HOUR AS as_of,") + ONE_EACH,
            "as_of 2026-01-04T01:00:00, which was not asked for",
        ),
        ("SELEKT 1", r"features.sql is not valid SQL: .*SELEKT"),
        (GOOD + "nowhere", "reads 'nowhere'; expected only orders, as_of_days"),
        (GOOD + "main.orders_rows, as_of_days", "reads 'main.orders_rows'"),
        (GOOD + "information_schema.tables", "reads 'information_schema.tables'"),
        (GOOD.replace("1.0", "missing_column") + ONE_EACH, "features.sql fails: .*missing_column"),
        (GOOD + ONE_EACH + "; SELECT 1", r"holds \['SELECT', 'SELECT'\]; expected one SELECT"),
        ("-- nothing", "holds no statement; expected one SELECT"),
        ("ATTACH '/tmp/x.db'", r"holds \['ATTACH'\]"),
        ("COPY orders TO '/tmp/x.csv'", r"holds \['COPY'\]"),
        ("INSTALL httpfs", "expected one SELECT"),
        (GOOD + "read_csv('/etc/passwd')", r"function read_csv\(\)"),
        (GOOD + "'/etc/passwd'", "reads '/etc/passwd'"),
        (GOOD.replace("1.0", "random()") + ONE_EACH, r"uses random\(\), which is not determined"),
        (GOOD.replace("1.0", "epoch(now())") + ONE_EACH, r"uses now\(\)"),
        (GOOD.replace("1.0", "year(current_date)::DOUBLE") + ONE_EACH, "uses current_date"),
        (
            "WITH orders_rows AS (SELECT 1) " + GOOD + "main.orders, as_of_days",
            "orders_rows: name that WITH otherwise",
        ),
        (
            GOOD.replace("1.0", "0.0 / nullif(1, 2) / 0.0") + ONE_EACH,
            r"total_spent is nan in 8 of 8 rows, the first being buyer a at 2026-01-04.*nullif",
        ),
        (GOOD.replace("0.0", "ln(0) * -1") + ONE_EACH, "recency_days is inf in 8 of 8 rows"),
    ],
)
def test_sql_that_breaks_the_contract_is_refused(make_use_case, write_orders, sql, message):
    with pytest.raises(ConfigError, match=message):
        compute.compute_features(make_use_case(sql), write_orders(ROWS), DAYS)


@pytest.mark.parametrize("end", [";", "; -- so be it; 'ü'", ";\n/* a;b */ ;\n", " -- as it is;"])
def test_a_statement_may_end_in_semicolons_and_remarks(make_use_case, write_orders, end):
    given = write_orders(ROWS)
    plain, ended = (
        compute.compute_features(make_use_case(GOOD + ONE_EACH + last), given, DAYS)
        for last in ("", end)
    )
    assert ended.equals(plain)


@pytest.mark.parametrize(
    "aggregate",
    [
        "last(amount ORDER BY ordered_at, amount)",
        "last(amount ORDER BY ordered_at, order_id)",
        "arg_max(amount, (ordered_at, order_id))",
        "min_by(amount, (ordered_at, amount))",
        "mode(amount ORDER BY amount)",
    ],
)
def test_sql_that_settles_ties_is_accepted(make_use_case, write_orders, aggregate):
    sql = GOOD.replace("1.0", "x") + GROUPED.format(aggregate)
    compute.compute_features(make_use_case(sql), write_orders(ROWS), DAYS[:1])


GROUPED = "(SELECT buyer, {} AS x FROM orders GROUP BY buyer) CROSS JOIN as_of_days"


@pytest.mark.parametrize(
    ("aggregate", "found"),
    [
        ("first(amount)", "first(amount), which takes rows as they come"),
        ("any_value(amount)", "any_value(amount), which"),
        ("amount.last()", "amount.last(), which"),
        ("first(amount ORDER BY ordered_at)", "first(amount ORDER BY ordered_at), which"),
        ("arg_max(amount, ordered_at)", "arg_max(amount, ordered_at), which"),
        ("min_by(amount, ordered_at)", "min_by(amount, ordered_at), which"),
        ("mode(amount)", "mode(amount), which"),
        ("list(amount)[1]", "list(amount), which"),
        ("array_agg(amount)[1]", "array_agg(amount), which"),
        ("len(string_agg(order_id, ''))", "string_agg(order_id, ''), which"),
        ("approx_quantile(amount, 0.5)", "approx_quantile(amount, 0.5), which is approximate"),
        ("reservoir_quantile(amount, 0.5)", "which is approximate"),
        ("(SELECT amount FROM orders LIMIT 1)", "LIMIT or OFFSET without ORDER BY"),
        ("(SELECT sum(amount) FROM orders TABLESAMPLE 50%)", "a sample of rows"),
        ("(SELECT sum(amount) FROM orders USING SAMPLE 5)", "a sample of rows"),
        ("(SELECT count(*) FROM orders POSITIONAL JOIN orders AS p)", "POSITIONAL JOIN"),
        (
            "(SELECT sum(n) FROM (SELECT DISTINCT ON (buyer) amount AS n FROM orders))",
            "DISTINCT ON without ORDER BY",
        ),
        (
            "(SELECT sum(n) FROM (SELECT row_number() OVER (PARTITION BY buyer) AS n FROM orders))",
            "row_number() OVER (PARTITION BY buyer) without ORDER BY in its window",
        ),
        (
            "(SELECT max(n) FROM (SELECT sum(amount) OVER (ROWS 2 PRECEDING) AS n FROM orders))",
            "sum(amount) OVER (ROWS 2 PRECEDING) without ORDER BY in its window",
        ),
    ],
)
def test_sql_that_depends_on_the_order_of_rows_is_refused(
    make_use_case, write_orders, aggregate, found
):
    sql = GOOD.replace("1.0", "x") + GROUPED.format(aggregate)
    with pytest.raises(ConfigError) as caught:
        compute.compute_features(make_use_case(sql), write_orders(ROWS), DAYS[:1])
    assert re.search(rf"order in which rows come.* Found .*{re.escape(found)}", str(caught.value))


@pytest.mark.parametrize(
    "aggregate",
    [
        "last(amount ORDER BY ordered_at, amount)",
        "last(amount + 1 ORDER BY ordered_at, amount + 1)",
        "mode(amount ORDER BY amount)",
        "list(amount ORDER BY orders.amount)[1]",
        "median(amount)",
        "count(DISTINCT order_id)",
        "(SELECT amount FROM orders ORDER BY ordered_at, order_id LIMIT 1)",
        "(SELECT max(n) FROM (SELECT sum(amount) OVER (PARTITION BY buyer) AS n FROM orders))",
    ],
)
def test_sql_that_settles_the_order_passes(make_use_case, write_orders, aggregate):
    sql = GOOD.replace("1.0", "x") + GROUPED.format(aggregate)
    found = compute.compute_features(make_use_case(sql), write_orders(ROWS), DAYS[:1])
    assert found["total_spent"].null_count == 0


ENDLESS = "(WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r) SELECT max(n) FROM r)"


def test_sql_without_end_is_ended_and_named(make_use_case, write_orders, monkeypatch):
    monkeypatch.setenv("EVERGREEN_SQL_TIMEOUT_SECONDS", "1")
    sql = GOOD.replace("1.0", ENDLESS) + ONE_EACH
    with pytest.raises(LimitError, match=r"features\.sql was ended after 1 seconds"):
        compute.compute_features(make_use_case(sql), write_orders(ROWS), DAYS)


def test_sql_that_makes_long_texts_is_ended_and_named(make_use_case, write_orders):
    sql = GOOD.replace("1.0", "length(repeat(left(buyer, 1), 4000000000))") + ONE_EACH
    with pytest.raises(LimitError, match=r"features\.sql needs more memory than it may take"):
        compute.compute_features(make_use_case(sql), write_orders(ROWS), DAYS)


def test_each_chunk_is_logged(make_use_case, write_orders, caplog):
    use_case = make_use_case()
    with caplog.at_level("INFO", "evergreen.features.compute.run"):
        list(compute.iter_features(use_case, write_orders(ROWS), DAYS, days_per_chunk=3))
    name = use_case.name
    assert [record.message.rsplit(" in ", 1)[0] for record in caplog.records] == [
        f"{name} features: 3 of 4 days, 2026-01-03 to 2026-01-05: 6 rows",
        f"{name} features: 4 of 4 days, 2026-01-06 to 2026-01-06: 2 rows",
    ]


def test_nan_equals_nan_and_differs_from_null():
    def rows(*values):
        return pa.table({"buyer": ["a", "b"], "x": pa.array(values, pa.float64())})

    assert difference("buyer", ["x"], rows(float("nan"), None), rows(float("nan"), None)) is None
    assert "nan instead of None" in difference(
        "buyer", ["x"], rows(float("nan"), 1.0), rows(None, 1.0)
    )


def test_a_null_label_is_refused(make_use_case, write_orders):
    sql = f"SELECT buyer, as_of, NULL::BOOLEAN AS label FROM {ONE_EACH}"
    with pytest.raises(ConfigError, match="label is null in 2 rows"):
        compute.compute_labels(make_use_case(labels_sql=sql), write_orders(ROWS), DAYS[:1])


def test_sql_cannot_reach_files_even_if_the_examination_misses_it(make_use_case, tmp_path):
    orders = make_use_case().events["orders"]
    engine = Engine([SingleRows(orders, Given([]), START.date())])
    secret = tmp_path / "secret.csv"
    secret.write_text("a\n1\n")
    with engine:
        for sql in (f"SELECT * FROM '{secret}'", f"SELECT * FROM read_text('{secret}')"):
            with pytest.raises(Exception, match=r"disabled|does not exist"):
                engine.query(sql, [(START,)], ["as_of"], START.date(), {}).fetchall()
        with pytest.raises(Exception, match="locked"):
            engine.query("SELECT 1", [(START,)], ["as_of"], START.date(), {}).query(
                "x", "SET enable_external_access = true"
            )


@pytest.mark.parametrize(
    "function", [compute.compute_features, compute.compute_labels], ids=["features", "labels"]
)
def test_no_orders_and_no_days_give_no_rows_of_the_right_kind(
    make_use_case, write_orders, function
):
    use_case = make_use_case()
    task = {compute.compute_features: features_task, compute.compute_labels: labels_task}
    schema = task[function](use_case).schema
    only_later = write_orders([("a", as_of(DAYS[-1]) + timedelta(days=30), 1.0)])
    for tables, days in (({}, DAYS), (only_later, DAYS), (write_orders(ROWS), [])):
        found = function(use_case, tables, days)
        assert found.num_rows == 0
        assert found.schema.equals(schema)


def test_orders_without_a_column_of_the_contract_are_refused(make_use_case, tmp_path):
    path = tmp_path / "old.parquet"
    pa.parquet.write_table(pa.table({"order_id": ["O1"], "buyer": ["a"]}), path)
    with pytest.raises(ConfigError, match=r"lacks \['amount', 'ordered_at'\]"):
        compute.compute_features(make_use_case(), {"orders": Given([str(path)])}, DAYS)


def test_file_layout_and_order_of_rows_do_not_matter(make_use_case, write_orders, tmp_path):
    paths = write_orders(ROWS)["orders"].paths
    together = pa.concat_tables(pa.parquet.read_table(p, partitioning=None) for p in paths[::-1])
    pa.parquet.write_table(together, tmp_path / "compacted.parquet")
    use_case = make_use_case()
    cut = compute.compute_features(use_case, {"orders": Given(paths)}, DAYS)
    compacted = compute.compute_features(
        use_case, {"orders": Given([str(tmp_path / "compacted.parquet")])}, DAYS
    )
    assert cut.num_rows == 8
    assert compacted.equals(cut)


def test_a_chunk_has_as_many_days_as_fit_into_memory(churn, tmp_path_factory, monkeypatch):
    rows = [(f"c{n}", START + timedelta(hours=n % 40), 1.0) for n in range(1_000)]
    given = churn_orders(tmp_path_factory, rows)
    month = [START.date() + timedelta(days=n) for n in range(31)]
    assert compute.days_at_once(churn, given, month) == compute.DAYS_PER_CHUNK
    monkeypatch.setattr(compute, "_ROWS_PER_CHUNK", 5_000)
    assert 4 <= compute.days_at_once(churn, given, month) <= 6
    monkeypatch.setattr(compute, "_ROWS_PER_CHUNK", 10)
    assert compute.days_at_once(churn, given, month) == 1
    assert compute.days_at_once(churn, {}, month) == 10
