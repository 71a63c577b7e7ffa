from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from quality_shop import DAY, order, orders, raw_rows

from evergreen.contract import Events
from evergreen.errors import ConfigError, ConservationError, SourceError
from evergreen.quality import split as split_module
from evergreen.quality.schemas import quarantine_schema, table_schema
from evergreen.quality.split import Split, select_days, split_rows


def split_day(table: Events, raw: pa.Table, day: date = DAY) -> Split:
    return split_rows(table, raw, day, day + timedelta(days=1))


def broken(split: Split) -> list[list[str]]:
    return split.quarantined["rules"].to_pylist()


def totals(split: Split) -> dict[str, int]:
    names = ("rows_in", "accepted", "quarantined", "duplicates", "published")
    return {name: sum(split.counts[name].to_pylist()) for name in names}


def test_good_row_is_typed_and_published():
    found = split_day(orders(), raw_rows([order(customer="13090.0", amount=" 12.50 ")]))
    assert found.accepted.schema == table_schema(orders())
    (row,) = found.accepted.to_pylist()
    assert row["customer_id"] == "13090"
    assert row["amount"] == 12.5
    assert row["ordered_at"] == datetime(2024, 3, 10, 10, tzinfo=UTC)
    assert (row["day"], row["source"]) == (DAY, "orders.csv")
    assert totals(found) == {
        "rows_in": 1,
        "accepted": 1,
        "quarantined": 0,
        "duplicates": 0,
        "published": 1,
    }
    assert found.counts["newest_at"].to_pylist() == [row["ordered_at"]]


@pytest.mark.parametrize(
    ("changes", "rules"),
    [
        ({"amount": "abc"}, ["amount_unparsable"]),
        ({"amount": "1,234.5"}, ["amount_unparsable"]),
        ({"amount": "NaN"}, ["amount_not_finite"]),
        ({"amount": "-inf"}, ["amount_not_finite"]),
        ({"amount": "1e400"}, ["amount_not_finite"]),
        ({"amount": ""}, ["amount_missing"]),
        ({"amount": None}, ["amount_missing"]),
        ({"amount": "0"}, ["amount_out_of_range"]),
        ({"amount": "1000.01"}, ["amount_out_of_range"]),
        ({"customer": " "}, ["customer_id_missing"]),
        ({"id": None}, ["order_id_missing"]),
        ({"at": "yesterday"}, ["ordered_at_unparsable"]),
        ({"at": "2024-02-30"}, ["ordered_at_unparsable"]),
        ({"at": "infinity"}, ["ordered_at_unparsable"]),
        ({"at": None}, ["ordered_at_missing"]),
        ({"at": "2999-01-01"}, ["outside_day"]),
        ({"at": "2023-12-31T23:59:59Z"}, ["before_first_day", "outside_day"]),
        ({"at": "2024-03-11T00:00:00Z"}, ["outside_day"]),
        ({"at": "2024-03-10T23:30:00-01:00"}, ["outside_day"]),
        ({"_error": "3 columns, expected 4"}, ["malformed_row"]),
        ({"amount": "-1", "customer": ""}, ["amount_out_of_range", "customer_id_missing"]),
    ],
)
def test_bad_row_goes_to_quarantine_with_every_rule_it_breaks(changes, rules):
    found = split_day(orders(), raw_rows([order(1), order(2, **changes)]))
    assert broken(found) == [rules]
    assert found.quarantined["row"].to_pylist() == [2]
    assert found.by_rule == dict.fromkeys(rules, 1)
    assert totals(found)["accepted"] == 1


def test_quarantine_keeps_the_row_as_delivered():
    raw = raw_rows([order(1, amount=' "x" '), {"_error": "unclosed quote", "_text": 'a,"b'}])
    found = split_day(orders(), raw)
    assert found.quarantined.schema == quarantine_schema()
    first, second = (json.loads(text) for text in found.quarantined["raw"].to_pylist())
    assert first == order(1, amount=' "x" ')
    assert second == {"_error": "unclosed quote", "_text": 'a,"b'}


@pytest.mark.parametrize(
    ("column", "text", "value"),
    [
        ({"dtype": "float64", "thousands": ","}, "1,234.5", 1234.5),
        ({"dtype": "float64", "thousands": ","}, "12,5", None),
        ({"dtype": "float64", "thousands": ".", "decimal": ","}, "1.234.567,89", 1234567.89),
        ({"dtype": "float64", "thousands": " "}, "1\u202f234", 1234.0),
        ({"dtype": "float64", "decimal": ","}, "3,5e2", 350.0),
        ({"dtype": "float64", "decimal": ","}, "3.5", None),
        ({"dtype": "float64"}, "1_000", None),
        ({"dtype": "int64"}, "12.0", 12),
        ({"dtype": "int64"}, "1.2e1", 12),
        ({"dtype": "int64"}, "12.5", None),
        ({"dtype": "int64"}, "9007199254740993", 9007199254740993),
        ({"dtype": "int64"}, "99999999999999999999", None),
        ({"dtype": "bool"}, "Yes", True),
        ({"dtype": "bool"}, "f", False),
        ({"dtype": "bool"}, "maybe", None),
        ({"dtype": "date"}, "2024-02-29", date(2024, 2, 29)),
        ({"dtype": "date", "formats": ["%d.%m.%Y"]}, "29.02.2024", date(2024, 2, 29)),
        ({"dtype": "date", "zone": "Asia/Tokyo"}, "2024-02-29", date(2024, 2, 29)),
        ({"dtype": "string"}, "13090.0", "13090.0"),
        ({"dtype": "string", "strip_float": True}, "13090.5", "13090.5"),
    ],
)
def test_text_becomes_the_declared_type_or_is_unparsable(column, text, value):
    table = orders(columns={"extra": {"source": "extra", **column}})
    found = split_day(table, raw_rows([order(extra=f" {text}\t")]))
    if value is None:
        assert broken(found) == [["extra_unparsable"]]
    else:
        assert found.accepted["extra"].to_pylist() == [value]


@pytest.mark.parametrize(
    ("text", "zone", "formats", "utc"),
    [
        ("2024-03-10T10:00:00Z", "America/New_York", [], "2024-03-10T10:00:00"),
        ("2024-03-10 10:00:00,25 +0200", "UTC", [], "2024-03-10T08:00:00.250000"),
        # The clocks of New York went forward on that day at 02:00, from -5 to -4 hours.
        ("2024-03-10 01:59", "America/New_York", [], "2024-03-10T06:59:00"),
        ("2024-03-10 03:00", "America/New_York", [], "2024-03-10T07:00:00"),
        ("2024-03-10 02:30", "America/New_York", [], "2024-03-10T07:30:00"),
        ("10/03/2024 10:00", "Europe/Paris", ["%d/%m/%Y %H:%M"], "2024-03-10T09:00:00"),
        ("10 Mar 2024", "UTC", ["%d/%m/%Y", "%d %b %Y"], "2024-03-10T00:00:00"),
        ("20240310T1000+0300", "UTC", ["%Y%m%dT%H%M%z"], "2024-03-10T07:00:00"),
    ],
)
def test_times_become_instants(text, zone, formats, utc):
    column = {"source": "at", "dtype": "timestamp", "zone": zone, "formats": formats}
    found = split_day(orders(columns={"ordered_at": column}), raw_rows([order(at=text)]))
    assert [t.isoformat()[:-6] for t in found.accepted["ordered_at"].to_pylist()] == [utc]


def test_hour_that_occurs_twice_is_the_later_one():
    column = {"source": "at", "dtype": "timestamp", "zone": "Europe/London"}
    day = date(2024, 10, 27)
    raw = raw_rows([order(at="2024-10-27 01:30:00")], day=day)
    found = split_day(orders(columns={"ordered_at": column}), raw, day)
    assert found.accepted["ordered_at"].to_pylist() == [datetime(2024, 10, 27, 1, 30, tzinfo=UTC)]


def test_values_and_patterns():
    columns = {
        "status": {"source": "status", "dtype": "string", "values": ["done", "open"]},
        "order_id": {"source": "id", "dtype": "string", "pattern": "O[0-9]+"},
    }
    rows = [order(1, status="done"), order(2, status="lost"), order(3, id="O3x", status="open")]
    found = split_day(orders(columns=columns), raw_rows(rows))
    assert broken(found) == [["status_not_allowed"], ["order_id_bad_pattern"]]


def test_exact_duplicates_are_counted_once_each():
    rows = [order(1), order(2), order(1), order(1), {"_error": "x"}, {"_error": "x"}]
    found = split_day(orders(), raw_rows(rows))
    assert totals(found) == {
        "rows_in": 6,
        "accepted": 2,
        "quarantined": 2,
        "duplicates": 2,
        "published": 2,
    }


def test_one_key_with_two_contents_is_quarantined_altogether():
    found = split_day(orders(), raw_rows([order(1), order(1, amount="13"), order(2)]))
    assert broken(found) == [["order_id_conflict"]] * 2
    assert found.accepted["order_id"].to_pylist() == ["O2"]


def test_header_repeated_in_the_middle_is_quarantined():
    rows = [order(1), {name: name for name in order()}, order(2)]
    assert broken(split_day(orders(), raw_rows(rows))) == [
        ["amount_unparsable", "ordered_at_unparsable"]
    ]


def test_file_of_many_days_gives_each_row_to_one_day():
    rows = [
        order(1, at="2024-01-01 00:00:00"),
        order(2, at="2024-01-02 23:59:59.999999"),
        order(3, at="never"),
        order(4, at="1999-01-01"),
        order(5, at="2024-01-03"),
        {"_error": "x"},
    ]
    raw = raw_rows(rows, day=None)
    both = split_rows(orders(), raw, date(2024, 1, 1), date(2024, 1, 3))
    assert both.counts["rows_in"].to_pylist() == [4, 1]
    assert both.counts["accepted"].to_pylist() == [1, 1]
    assert both.excluded == 1
    assert both.by_rule == {"before_first_day": 1, "malformed_row": 1, "ordered_at_unparsable": 1}


def test_rows_after_the_last_day_wait_in_its_quarantine():
    closed = orders(last_day=date(2024, 1, 2))
    rows = [order(1, at="2024-01-01"), order(2, at="2024-01-02"), order(3, at="2031-01-01")]
    raw = raw_rows(rows, day=None)
    found = split_rows(closed, raw, date(2024, 1, 1), date(2024, 1, 3))
    assert found.counts["rows_in"].to_pylist() == [1, 2]
    assert found.by_rule == {"after_last_day": 1}
    assert found.excluded == 0


def test_days_are_the_same_alone_and_among_many():
    days = [DAY + timedelta(days=n) for n in range(3)]
    rows = [order(n, at=f"{days[n % 3]} 0{n % 9}:00", amount=f"{n}.1") for n in range(30)]
    raw = raw_rows([*rows, *rows[:5]], day=None)
    many = split_rows(orders(), raw, days[0], days[-1] + timedelta(days=1))
    shuffled = raw.take(pa.array(list(range(34, -1, -1))))
    for n, day in enumerate(days):
        alone = split_day(orders(), shuffled, day)
        of_day = pa.compute.equal(many.accepted["day"], pa.scalar(day))
        assert alone.accepted.equals(many.accepted.filter(of_day))
        assert alone.counts.equals(many.counts.slice(n, 1))


def test_zero_rows():
    empty = split_rows(orders(), raw_rows([]), DAY, DAY + timedelta(days=2))
    assert empty.accepted.schema == table_schema(orders())
    assert empty.accepted.num_rows == empty.quarantined.num_rows == 0
    assert empty.counts["day"].to_pylist() == [DAY, DAY + timedelta(days=1)]
    assert empty.counts["rows_in"].to_pylist() == [0, 0]


def test_missing_column_is_an_error_and_extra_ones_are_not():
    row = order(1, note="hello", ID="x") | {"": "no name"}
    assert split_day(orders(), raw_rows([row])).accepted.num_rows == 1
    with pytest.raises(SourceError, match="no column 'amount'"):
        split_day(orders(), raw_rows([{"id": "O1", "customer": "C1", "at": "2024-03-10"}]))


# --- rules -------------------------------------------------------------------------------------


def ruled(sql: str) -> Events:
    return orders(orders={"rules": [{"name": "fits", "sql": sql}]})


@pytest.mark.parametrize(
    ("sql", "passes"),
    [
        ("amount > 10", True),
        ("amount > 10 AND note = 'hello'", True),
        ('"Odd name" IS NULL -- a comment', True),
        ("amount < 10", False),
        ("NULL", False),
        ("note::INT > 0", False),
        ("ordered_at::DATE = DATE '2024-03-10'", True),
        # The typed column wins over the source's column of the same name.
        ("amount + 1 = 13.5", True),
    ],
)
def test_rules_see_typed_and_delivered_columns(sql, passes):
    if sql == "NULL":
        sql = "CAST(NULL AS BOOLEAN)"
    row = order(1, note="hello") | {"Odd name": None}
    found = split_day(ruled(sql), raw_rows([row]))
    assert broken(found) == ([] if passes else [["fits"]])


@pytest.mark.parametrize("blank", [" ", "\t", "\u00a0"])
def test_rules_see_delivered_text_without_blanks_around_it(blank):
    test = order(1, customer=f"{blank}TEST{blank}")
    empty = order(2) | {"note": ""}
    rule = "customer <> 'TEST' AND coalesce(note, '') = ''"
    found = split_day(ruled(rule), raw_rows([test, empty], columns=(*order(), "note")))
    assert broken(found) == [["fits"]]
    assert found.accepted["order_id"].to_pylist() == ["O2"]


@pytest.mark.parametrize(
    ("sql", "says"),
    [
        ("amount >", "not valid SQL"),
        ("nothing > 1", "nothing"),
        ("amount", "DOUBLE"),
        ("sum(amount) > 1", "aggregate"),
        ("row_number() OVER () = 1", "window"),
        ("amount IN (SELECT 1)", "subquery"),
        ("true) OR (true", "not valid SQL"),
        ("true, true", "more than an expression"),
        ("true FROM range(3)", "more than an expression"),
        ("true; SELECT 1", "more than an expression"),
        ("random() < 0.5", "changes from call to call"),
        ("ordered_at < now()", "changes from call to call"),
        ("ordered_at < current_date", "changes from call to call"),
    ],
)
def test_wrong_rule_is_a_config_error(sql, says):
    with pytest.raises(ConfigError, match="rules: fits") as error:
        split_day(ruled(sql), raw_rows([order(1)]))
    assert says.lower() in str(error.value).lower()


@pytest.mark.parametrize(
    "column",
    [
        {"dtype": "string", "pattern": "("},
        {"dtype": "float64", "thousands": ",", "decimal": ","},
    ],
)
def test_wrong_column_is_a_config_error(column):
    table = orders(columns={"extra": {"source": "extra", **column}})
    with pytest.raises(ConfigError, match="extra"):
        split_day(table, raw_rows([]))


def test_names_that_are_sql_keywords_work():
    columns = {"order": {"source": "select", "dtype": "int64", "nullable": True}}
    found = split_day(orders(columns=columns), raw_rows([order(1) | {"select": "7"}]))
    assert found.accepted["order"].to_pylist() == [7]


def test_empty_range_is_a_config_error():
    with pytest.raises(ConfigError, match="start before end"):
        split_rows(orders(), raw_rows([]), DAY, DAY)


# --- conservation ------------------------------------------------------------------------------

GARBAGE = st.one_of(
    st.none(),
    st.sampled_from(["", "1", "O1", "12.0", "NaN", "1e999", "2024-03-10", "2024-03-10T01:00Z"]),
    st.text(alphabet=st.characters(blacklist_categories=["Cs"]), max_size=12),
)
ROW = st.fixed_dictionaries(
    {"id": GARBAGE, "customer": GARBAGE, "at": GARBAGE, "amount": GARBAGE},
    optional={"_error": st.just("broken"), "_text": st.text("ab,", max_size=4)},
)
LINES = {
    "orders": {
        "rollup": {
            "key": "order_id",
            "aggregates": {
                "customer_id": "min(customer_id)",
                "ordered_at": "max(ordered_at)",
                "amount": "sum(amount)",
            },
        }
    }
}


@settings(max_examples=25, deadline=None)
@given(
    rows=st.lists(ROW, max_size=8),
    day=st.sampled_from([None, DAY, DAY + timedelta(days=1), date(2023, 1, 1)]),
    changes=st.sampled_from([{}, LINES]),
)
def test_no_row_is_ever_lost(rows: list[Any], day: date | None, changes: dict[str, Any]):
    names = ("id", "customer", "at", "amount")
    raw = raw_rows(rows, day=day, columns=names)
    found = split_rows(orders(**changes), raw, DAY, DAY + timedelta(days=2))
    count = totals(found)
    assert count["rows_in"] == count["accepted"] + count["quarantined"] + count["duplicates"]
    assert count["rows_in"] + found.excluded == len(rows)
    assert found.quarantined.num_rows == count["quarantined"]
    assert found.accepted.num_rows == count["published"]
    assert all(rules for rules in broken(found))
    # Selecting the days first, as many-day files are read, changes nothing but what is excluded.
    selected = select_days(orders(**changes), raw, DAY, DAY + timedelta(days=2))
    again = split_rows(orders(**changes), selected, DAY, DAY + timedelta(days=2))
    assert selected.num_rows == count["rows_in"] + (found.excluded if day else 0)
    assert again.accepted.equals(found.accepted)
    assert again.quarantined.equals(found.quarantined)


def test_broken_conservation_is_an_error(monkeypatch):
    collect = split_module._collect

    def lossy(batch, **how):
        batch.run("DELETE FROM judged")
        return collect(batch, **how)

    monkeypatch.setattr(split_module, "_collect", lossy)
    with pytest.raises(ConservationError, match="1 rows in, but 0 accepted"):
        split_day(orders(), raw_rows([order(1)]))
