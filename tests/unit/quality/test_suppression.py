"""Rows of erased entities: counted, kept nowhere, and of no consequence for anybody else."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from quality_shop import DAY, order, orders, raw_rows, shop
from test_split_rows import LINES, ROW

from evergreen.provenance import erased
from evergreen.provenance.erased import Erasure, Suppressed
from evergreen.quality.split import Split, split_rows

SALT = "ab" * 32


def gone(*keys: str) -> Suppressed:
    return Suppressed(Erasure("shop", _hash(k), SALT, "ann", "17", NOW, None) for k in keys)


NOW = datetime(2026, 1, 1, tzinfo=UTC)


def _hash(key: str) -> str:
    return erased._hash("shop", SALT, key)


def split(rows: list[Any], hidden: Suppressed | None = None, **changes: Any) -> Split:
    raw = raw_rows(rows, columns=("id", "customer", "at", "amount"))
    days = (DAY, DAY + timedelta(days=1))
    return split_rows(orders(**changes), raw, *days, erased=hidden)


def counts(found: Split) -> dict[str, int]:
    (row,) = found.counts.to_pylist()
    return {name: value for name, value in row.items() if name not in ("day", "newest_at")}


def test_every_row_of_an_erased_customer_is_counted_and_none_is_kept() -> None:
    rows = [
        order(1),
        order(2, customer=" C1.0 "),
        order(2, customer="C1"),
        order(3, customer="C1", amount="-4"),
        order(4, customer="C2", amount="-4"),
        order(5, customer="C2"),
        order(5, customer="C2"),
        order(1),
        {"_error": "5 fields, expected 4", "_text": "O9,C1,2024,1,more"},
        {"_error": "5 fields, expected 4", "_text": "O9;C12;2024;1;more"},
    ]
    found = split(rows, gone("C1"))
    # C1.0 is how a spreadsheet writes C1's number only where it is one.
    assert counts(found) == {
        "rows_in": 10,
        "accepted": 1,
        "quarantined": 3,
        "duplicates": 1,
        "published": 1,
        "erased": 5,
    }
    kept = repr(found.accepted.to_pylist()) + repr(found.quarantined.to_pylist())
    assert "'C1'" not in kept and '"C1"' not in kept and ",C1," not in kept


def test_rows_that_contradict_an_erased_one_are_still_rejected() -> None:
    rows = [order(1), order(1, customer="C2", amount="9"), order(2)]
    assert counts(split(rows))["quarantined"] == 2
    found = split(rows, gone("C1"))
    assert counts(found)["erased"] == 1 and counts(found)["quarantined"] == 1
    assert found.accepted["order_id"].to_pylist() == ["O2"]


@pytest.mark.parametrize("named", [True, False])
def test_line_items_of_an_erased_customer_make_no_order(named: bool) -> None:
    changes = LINES if named else _named_by_the_roll_up()
    rows = [order(1), order(1, amount="2"), order(2), order(2, amount="3"), order(2, amount="-1")]
    found = split(rows, gone("C2"), **changes)
    (kept,) = found.accepted.to_pylist()
    assert kept["customer_id"] == "C1"
    lost = 3 if named else 2
    assert counts(found) == {
        "rows_in": 5,
        "accepted": 2,
        # Without a column for the customer, nobody can say whose line it is.
        "quarantined": 3 - lost,
        "duplicates": 0,
        "published": 1,
        "erased": lost,
    }


def _named_by_the_roll_up() -> dict[str, Any]:
    rollup = LINES["orders"]["rollup"]
    columns = {
        "order_id": {"source": "id", "dtype": "string"},
        "buyer": {"source": "customer", "dtype": "string"},
        "ordered_at": {"source": "at", "dtype": "timestamp"},
        "amount": {"source": "amount", "dtype": "float64", "range": [0.01, 1000]},
    }
    own = {"customer_id": {"source": "", "dtype": "string"}}
    aggregates = {**rollup["aggregates"], "customer_id": "min(buyer)"}
    whole = {"rollup": {**rollup, "columns": own, "aggregates": aggregates}, "columns": columns}
    return {"orders": whole}


@settings(max_examples=25, deadline=None)
@given(
    rows=st.lists(ROW, max_size=8),
    names=st.sets(st.sampled_from(["1", "O1", "12", "NaN", "a"])),
    changes=st.sampled_from([{}, LINES]),
)
def test_nobody_else_fares_otherwise(
    rows: list[Any], names: set[str], changes: dict[str, Any]
) -> None:
    whole, found = split(rows, **changes), split(rows, gone(*names), **changes)
    count = counts(found)
    out = ("accepted", "quarantined", "duplicates", "erased")
    assert count["rows_in"] == sum(count[name] for name in out) == counts(whole)["rows_in"]

    def others(of: Split) -> list[Any]:
        return [row for row in of.accepted.to_pylist() if row["customer_id"] not in names]

    assert found.accepted.to_pylist() == others(found) == others(whole)
    rejected = whole.quarantined.to_pylist()
    assert [row for row in rejected if row in found.quarantined.to_pylist()] == (
        found.quarantined.to_pylist()
    )
    declared = shop(**changes)
    for row in found.quarantined.to_pylist():
        assert not names & erased.keys_in(row["raw"], erased.sources(declared, "orders"))
