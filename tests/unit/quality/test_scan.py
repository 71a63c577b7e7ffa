"""The scan and Great Expectations' own metrics come to the same, whatever is broken."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from quality_shop import DAY, shop

from evergreen.contract import as_of
from evergreen.quality import expectations, validate
from evergreen.quality.outcome import describe

INSTANT = pa.timestamp("us", tz="UTC")
Columns = dict[str, Any]
KEY = "customer_id"


def good(days: list[date], customers: int) -> Columns:
    n = customers * len(days)
    return {
        "customer_id": [f"C{i % customers:03}" for i in range(n)],
        "as_of": [as_of(days[i // customers]) for i in range(n)],
        "days_since": [1.5 + i for i in range(n)],
        "orders": [2 + i % 5 for i in range(n)],
        "gap": [None if i % 3 else i for i in range(n)],
    }


def put(name: str, value: Any) -> Callable[[Columns, list[int]], None]:
    def spoil(columns: Columns, rows: list[int]) -> None:
        for row in rows:
            columns[name][row] = value

    return spoil


def repeat(columns: Columns, rows: list[int]) -> None:
    for row in rows:
        for name in columns:
            columns[name].append(columns[name][row])


def keyless(columns: Columns, rows: list[int]) -> None:
    for row in rows:
        columns["customer_id"][row] = columns["as_of"][row] = None


SPOILERS = [
    put("days_since", None),
    put("days_since", float("nan")),
    put("days_since", float("inf")),
    put("days_since", float("-inf")),
    put("days_since", -0.5),
    put("orders", 0),
    put("orders", None),
    put("gap", None),
    put("gap", -7),
    put("customer_id", None),
    put("customer_id", "C000"),
    put("as_of", None),
    put("as_of", as_of(DAY - timedelta(days=9))),
    repeat,
    keyless,
]


def table(columns: Columns) -> pa.Table:
    types = [pa.string(), INSTANT, pa.float64(), pa.int64(), pa.int64()]
    return pa.table(
        [pa.array(values, t) for values, t in zip(columns.values(), types, strict=True)],
        names=list(columns),
    )


def told_of_failures(results: list[Any]) -> list[str]:
    failures = [describe(result) for result in results if not result.success]
    # Which rows are shown as examples depends on their order.
    return sorted(failure.split("; for example")[0] for failure in failures)


def all_failures(rows: pa.Table) -> list[str]:
    expected = expectations.features_expectations(shop())
    check = validate._Check(validate._frame(rows), expected, KEY)
    return told_of_failures(validate._run("features", check))


@pytest.mark.parametrize("seed", range(12))
def test_random_broken_tables_get_the_same_verdict(tmp_path: Path, seed: int) -> None:
    random = np.random.default_rng(seed)
    days = [DAY + timedelta(days=n) for n in range(1 + seed % 3)]
    columns = good(days, 40)
    for spoiler in random.choice(len(SPOILERS), size=seed % 5, replace=False):
        rows = random.choice(40 * len(days), size=random.integers(1, 12), replace=False)
        SPOILERS[spoiler](columns, sorted(map(int, rows)))
    rows = table(columns)
    pq.write_table(rows, tmp_path / "rows.parquet", row_group_size=7)
    results, by_instant = validate._judge_features(
        shop(), ds.dataset(tmp_path / "rows.parquet", format="parquet")
    )
    assert told_of_failures(results) == all_failures(rows)
    assert sum(by_instant.values()) == rows.num_rows
    assert seed % 5 == 0 or len(results) == len(expectations.features_expectations(shop()))


def test_an_empty_table_is_judged_alike() -> None:
    rows = table(good([DAY], 40)).slice(0, 0)
    results, by_instant = validate._judge_features(shop(), ds.dataset(rows))
    assert told_of_failures(results) == all_failures(rows) == []
    assert by_instant == {}


def test_what_is_kept_of_a_failure_is_what_great_expectations_would_keep() -> None:
    columns = good([DAY], 40)
    put("days_since", -1.0)(columns, [3, 5, 8])
    repeat(columns, [1])
    rows = table(columns)
    expected = expectations.features_expectations(shop())
    check = validate._Check(validate._frame(rows), expected, KEY)
    before = {
        r.expectation_config.type + str(r.expectation_config.kwargs.get("column")): r
        for r in validate._run("features", check)
    }
    results, _ = validate._judge_features(shop(), ds.dataset(rows))
    for result in results:
        config = result.expectation_config
        same = before[config.type + str(config.kwargs.get("column"))]
        assert result.success == same.success
        kept = {**same.to_json_dict()["result"], "unexpected_index_query": None}
        found = {**result.to_json_dict()["result"], "unexpected_index_query": None}
        assert found == kept, config.type
