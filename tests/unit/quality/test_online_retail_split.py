"""The contract of online_retail against the data it was written for, counted a second way."""

from __future__ import annotations

from datetime import date

import pandas as pd
import pyarrow as pa
import pytest

from evergreen.contract import load_use_case
from evergreen.quality.split import split_rows
from evergreen.sources import open_source


@pytest.mark.real_data
def test_real_line_items_are_split_as_pandas_counts_them(monkeypatch, online_retail):
    monkeypatch.setenv("EVERGREEN_ONLINE_RETAIL", str(online_retail))
    table = load_use_case("online_retail").events["orders"]
    start, end = date(2011, 8, 1), date(2011, 9, 1)
    raw = pa.concat_tables(open_source(table).read(start, end), promote_options="default")
    found = split_rows(table, raw, start, end)

    files = sorted((online_retail / "by-day").glob("2011-08-*.csv"))
    lines = pd.concat([pd.read_csv(path, dtype={"InvoiceNo": str}) for path in files])
    kept = lines.drop_duplicates()
    rejected = {
        "customer_id_missing": kept["CustomerID"].isna(),
        "not_cancelled": kept["InvoiceNo"].str.startswith("C"),
        "not_bookkeeping": kept["InvoiceNo"].str.startswith("A"),
        "positive_quantity": kept["Quantity"] <= 0,
        "positive_price": kept["UnitPrice"] <= 0,
    }
    clean = kept[~pd.concat(rejected, axis=1).any(axis=1)]
    assert found.by_rule == {rule: n for rule, mask in rejected.items() if (n := int(mask.sum()))}
    assert sum(found.counts["rows_in"].to_pylist()) == len(lines)
    assert sum(found.counts["duplicates"].to_pylist()) == len(lines) - len(kept)
    assert sum(found.counts["accepted"].to_pylist()) == len(clean)
    assert found.accepted.num_rows == clean["InvoiceNo"].nunique()
    worth = (clean["Quantity"] * clean["UnitPrice"]).sum()
    assert sum(found.accepted["amount"].to_pylist()) == pytest.approx(worth)
    assert set(found.accepted["customer_id"].to_pylist()) == {
        str(int(number)) for number in clean["CustomerID"]
    }
