"""Line items as in a real shop's export, written by hand."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

import pytest
from quality_shop import declared, raw_rows

from evergreen.contract import Events, UseCase
from evergreen.errors import ConfigError
from evergreen.quality.split import Split, split_rows

DAY = date(2011, 1, 4)


def lines_of(**aggregates: str) -> Events:
    columns: dict[str, Any] = {
        "invoice_no": {"source": "InvoiceNo", "dtype": "string"},
        "customer_id": {"source": "CustomerID", "dtype": "string", "strip_float": True},
        "invoiced_at": {"source": "InvoiceDate", "dtype": "timestamp"},
        "quantity": {"source": "Quantity", "dtype": "int64"},
        "unit_price": {"source": "UnitPrice", "dtype": "float64"},
    }
    rollup = {
        "key": "invoice_no",
        "columns": {
            "amount": {"source": "", "dtype": "float64", "range": [0, 1000]},
            "items": {"source": "", "dtype": "int64"},
        },
        "aggregates": {
            "customer_id": "min(customer_id)",
            "invoiced_at": "min(invoiced_at)",
            "amount": "sum(quantity * unit_price)",
            "items": "sum(quantity)",
            **aggregates,
        },
    }
    table = declared()["events"]["orders"] | {
        "key": "invoice_no",
        "timestamp": "invoiced_at",
        "columns": columns,
        "rules": [
            {"name": "not_cancelled", "sql": "InvoiceNo NOT LIKE 'C%'"},
            {"name": "positive_quantity", "sql": "quantity > 0"},
        ],
        "rollup": rollup,
    }
    whole = declared(first_day="2010-12-01", events={"orders": table})
    return UseCase.model_validate(whole).events["orders"]


def line(invoice: str, quantity: str, **changes: str | None) -> dict[str, str | None]:
    good: dict[str, str | None] = {
        "InvoiceNo": invoice,
        "Quantity": quantity,
        "InvoiceDate": "2011-01-04 10:00:00",
        "UnitPrice": "2.5",
        "CustomerID": "13090.0",
    }
    return good | changes


def split(rows: list[dict[str, str | None]], table: Events | None = None) -> Split:
    raw = raw_rows(rows, day=DAY)
    return split_rows(table or lines_of(), raw, DAY, DAY + timedelta(days=1))


def test_line_items_become_one_order():
    found = split(
        [
            line("536365", "6"),
            line("536365", "2", InvoiceDate="2011-01-04 10:01:00"),
            line("536365", "6"),
            line("C536379", "-1"),
            line("536370", "-3"),
            line("536371", "1", CustomerID=None),
        ]
    )
    (order,) = found.accepted.to_pylist()
    assert (order["invoice_no"], order["customer_id"]) == ("536365", "13090")
    assert (order["amount"], order["items"]) == (20.0, 8)
    assert order["invoiced_at"].isoformat() == "2011-01-04T10:00:00+00:00"
    assert found.by_rule == {
        "positive_quantity": 2,
        "customer_id_missing": 1,
        "not_cancelled": 1,
    }
    (count,) = found.counts.to_pylist()
    del count["newest_at"]
    assert count == {
        "day": DAY,
        "rows_in": 6,
        "accepted": 2,
        "quarantined": 3,
        "duplicates": 1,
        "published": 1,
        "erased": 0,
    }


def test_invoice_of_two_customers_is_quarantined():
    rows = [line("1", "1"), line("1", "2", CustomerID="14000.0"), line("2", "1")]
    found = split(rows)
    assert found.by_rule == {"entity_conflict": 2}
    assert found.accepted["invoice_no"].to_pylist() == ["2"]


def test_order_that_breaks_the_contract_takes_its_lines_along():
    found = split([line("1", "300"), line("1", "200"), line("2", "1")])
    assert found.by_rule == {"amount_out_of_range": 2}
    assert found.accepted["invoice_no"].to_pylist() == ["2"]


def test_fraction_is_not_rounded_to_a_whole_number():
    found = split([line("1", "1"), line("1", "2")], lines_of(items="avg(quantity)"))
    assert found.by_rule == {"items_unparsable": 2}


def test_row_id_of_an_order_does_not_depend_on_its_lines():
    one, two = split([line("1", "1")]), split([line("9", "1"), line("1", "1"), line("1", "2")])
    assert one.accepted["row_id"][0].as_py() in two.accepted["row_id"].to_pylist()


@pytest.mark.parametrize(
    ("sql", "says"),
    [
        ("quantity", "aggregate"),
        ("sum(nothing)", "nothing"),
        ("sum(quantity) FROM clean", "more than an expression"),
        ("(SELECT 1)", "subquery"),
        ("sum(quantity * 9223372036854775807)", "DOUBLE"),
    ],
)
def test_wrong_aggregate_is_a_config_error(sql, says):
    with pytest.raises(ConfigError, match=r"rollup\.aggregates") as error:
        split([line("1", "5")], lines_of(items=sql))
    assert says in str(error.value)
